"""Flows from one data set to another, and students of several segments.

    python -m experiments.benches.sources --parts plane digits
    python -m experiments.benches.sources --parts segments --cases eight_gaussians --segments 1 2 4

Every value of a student is given with its teacher's, on fresh samples of the source. Distances are to
held-out data, and the floor is the distance between two halves of these.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koopflow import FlowTeacher, KoopmanDistiller, SegmentedDistiller, datasets, metrics

from ..compare.problems import problem
from ..environment import versions

Samples = NDArray[np.float32]
COUNT = 20_000
EXACT = 2_000  # Largest number of samples for the exact distance.
EVALUATED = 2_000
POLISHED = 500
SEED = 987_654_321


def digits_of(kind: int, seed: int) -> tuple[Samples, Samples]:
    """Images ``[N, 64]`` of one digit, for training and held out."""
    images, labels = datasets.digits()
    own = images[labels == kind].reshape(-1, 64)
    train, held_out = datasets.split(own, held_out=60, seed=seed)
    return np.asarray(train), np.asarray(held_out)


def plane(make: Callable[..., Any], seed: int) -> tuple[Samples, Samples]:
    """Points of the plane, for training and held out."""
    return make(COUNT, seed=2 * seed), make(2 * EXACT, seed=2 * seed + 1)


PAIRS: dict[str, Callable[[int], tuple[tuple[Samples, Samples], tuple[Samples, Samples]]]] = {
    "8 Gaussians to moons": lambda seed: (
        plane(datasets.eight_gaussians, seed),
        plane(datasets.moons, seed),
    ),
    "moons to checkerboard": lambda seed: (
        plane(datasets.moons, seed),
        plane(datasets.checkerboard, seed),
    ),
    "digits, 3 to 8": lambda seed: (digits_of(3, seed), digits_of(8, seed)),
    "digits, 3 to 8, noise 0.3": lambda seed: (digits_of(3, seed), digits_of(8, seed)),
}
# Deviation of the noise that is added to rows of the source.
NOISE = {"digits, 3 to 8, noise 0.3": 0.3}


def halves(data: Samples) -> float:
    """W2 between two halves of a set, which is the sampling floor."""
    half = min(len(data) // 2, EXACT)
    return metrics.wasserstein2(data[:half], data[half : 2 * half])


def between(name: str, seed: int, steps: int | None) -> dict[str, Any]:
    """Measurements of a teacher from one set to another, and of its student."""
    (source, fresh), (data, held_out) = PAIRS[name](seed)
    began = time.perf_counter()
    given = {"source": source, "source_noise": NOISE.get(name, 0.0)}
    teacher = FlowTeacher(data.shape[1:], **given, seed=seed, steps=steps).fit(data, progress=False)
    trained = time.perf_counter()
    options: dict[str, Any] = {} if steps is None else {"steps": steps}
    student = KoopmanDistiller(seed=seed, **options).fit(teacher, progress=False)
    done = time.perf_counter()
    # Rows that neither has seen.
    exact = min(len(fresh), len(held_out), EXACT)
    ends, samples = teacher.sample(x0=fresh[:exact]), student.sample(x0=fresh[:exact])
    goal = held_out[-exact:]
    scale = float(np.sqrt(held_out.reshape(len(held_out), -1).var(axis=0).sum()))
    spread = float(np.sqrt(fresh.reshape(len(fresh), -1).var(axis=0).sum()))
    back = student.invert(ends)
    rms = lambda x: float(np.sqrt(np.mean(np.sum(np.square(x).reshape(len(x), -1), axis=1))))  # noqa: E731
    return {
        "case": name,
        "seed": seed,
        "endpoint": rms(samples - ends) / scale,
        "inverse": rms(back - fresh[:exact]) / spread,
        "w2 teacher": metrics.wasserstein2(ends, goal),
        "w2 student": metrics.wasserstein2(samples, goal),
        "w2 halves": halves(held_out),
        "w2 rows": metrics.wasserstein2(fresh[:exact], goal),
        "teacher s": trained - began,
        "student s": done - trained,
    }


def kept(path: Path | None, kind: type[Any], fit: Callable[[], Any]) -> tuple[Any, float]:
    """A model that an earlier run kept in a file, or else a new one; and the seconds of its fit."""
    told = None if path is None else path.with_suffix(".json")
    if path is not None and told is not None and path.exists() and told.exists():
        return kind.load(path), float(json.loads(told.read_text())["seconds"])
    began = time.perf_counter()
    model = fit()
    seconds = time.perf_counter() - began
    if path is not None and told is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
        told.write_text(json.dumps({"seconds": seconds}))
    return model, seconds


def inverses(student: SegmentedDistiller, teacher: FlowTeacher, data: Samples) -> list[dict[str, Any]]:
    """Inversion errors on the teacher's own samples.

    They are the relative distance of the recovered noise from the teacher's, and the relative distance of the
    student's samples of that noise from the original ones.
    """
    noise = teacher.field.source.draw(POLISHED, SEED)
    ends = teacher.sample(x0=noise)
    scale = float(np.sqrt(data.var(axis=0).sum()))
    size = lambda x: float(np.sqrt(np.mean(np.sum(np.square(x), axis=1))))  # noqa: E731
    found = []
    kinds = [("newton", 0, 1e-3), *(("newton", k, damping) for damping in (1e-3, 1.0) for k in (1, 2, 4))]
    for method, steps, damping in [*kinds, *(("fixed_point", k, 0.0) for k in (1, 2, 4))]:
        before = student.evaluations
        given: dict[str, Any] = {"method": method, "polish": steps, "damping": damping}
        back = student.invert(ends, **given)
        found.append(
            {
                **given,
                "evaluations": student.evaluations - before,
                "inversion_error": size(back - noise) / size(noise),
                "round_trip_error": size(student.sample(x0=back) - ends) / scale,
            }
        )
    return found


def backwards(student: SegmentedDistiller, teacher: FlowTeacher) -> dict[str, Any]:
    """Distances of each segment's inverse from the teacher's states, with the last segment first.

    They are given for the teacher's state as input, and for the result of the later segment's inverse. The
    effect of the flow on a displacement of 0.05 from the data is given too.
    """
    times = [one.clock.start for one in student.students_] + [student.clock.end]
    states = teacher.trajectory(teacher.field.source.draw(POLISHED, SEED), times=times)
    size = lambda x: float(np.sqrt(np.mean(np.sum(np.square(x), axis=1))))  # noqa: E731
    reached, alone, together = states[-1], [], []
    for place in reversed(range(len(student.students_))):
        one = student.students_[place]
        reached = one.invert(reached)
        alone.append(size(one.invert(states[place + 1]) - states[place]))
        together.append(size(reached - states[place]))
    aside = np.random.default_rng(SEED).normal(size=states[-1].shape)
    aside *= 0.05 / size(aside)
    moved = teacher.trajectory((states[-1] + aside).astype(np.float32), times=[times[-1], times[0]])[-1]
    return {"alone": alone, "together": together, "displaced": size(moved - states[0])}


def in_segments(
    name: str,
    counts: list[int],
    seed: int,
    steps: int | None,
    shorter: dict[str, int],
    folder: Path | None,
) -> list[dict[str, Any]]:
    """Measurements of a teacher's students with several numbers of segments."""
    setting = problem(name)
    data, held_out = setting.data(seed)
    data, held_out = (x.reshape(len(x), -1) for x in (data, held_out))
    file = lambda what: None if folder is None else folder / f"{setting.file_name}-{seed}-{what}.safetensors"  # noqa: E731
    new = setting.teacher(data, seed, steps=steps)
    flat, _ = kept(file("teacher"), FlowTeacher, lambda: new.fit(data, progress=False))
    options: dict[str, Any] = ({} if steps is None else {"steps": steps}) | shorter
    exact = min(len(held_out), EXACT)
    noise = flat.field.source.draw(exact, SEED)
    own = metrics.wasserstein2(flat.sample(x0=noise), held_out[:exact])
    found = []
    for count in counts:
        pattern = KoopmanDistiller(seed=seed, **options)
        raw = SegmentedDistiller(count, student=pattern)
        place = file("-".join([f"{count}-segments", *(f"{value}-{key}" for key, value in options.items())]))
        student, seconds = kept(place, SegmentedDistiller, lambda: raw.fit(flat, progress=False))  # noqa: B023
        report = student.evaluate(flat, held_out, n=EVALUATED, resamples=2)
        found.append(
            {
                "case": name,
                "seed": seed,
                "segments": count,
                **{key: estimate.value for key, estimate in report.items()},
                "w2 student": metrics.wasserstein2(student.sample(x0=noise), held_out[:exact]),
                "w2 teacher": own,
                "seconds": seconds,
                "inverses": inverses(student, flat, held_out),
                "backwards": backwards(student, flat),
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["plane", "digits", "segments"], default=["plane"])
    parser.add_argument("--cases", nargs="+", default=["eight_gaussians/ot", "digits/ot"])
    parser.add_argument(
        "--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS), help="data sets of plane and digits"
    )
    parser.add_argument("--segments", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="training steps, for a quick run")
    parser.add_argument("--student-steps", type=int, help="training steps of each student of segments")
    parser.add_argument("--student-trajectories", type=int, help="trajectories of each student of segments")
    parser.add_argument("--folder", type=Path, help="folder in which the part of segments keeps its models")
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    print(versions(), flush=True)
    rows: list[dict[str, Any]] = []
    for seed in asked.seeds:
        for name in asked.pairs:
            if ("digits" if name.startswith("digits") else "plane") in asked.parts:
                rows.append(between(name, seed, asked.steps))
                print(json.dumps(rows[-1]), flush=True)
        if "segments" in asked.parts:
            for name in asked.cases:
                own = {"steps": asked.student_steps, "trajectories": asked.student_trajectories}
                shorter = {key: value for key, value in own.items() if value is not None}
                given = (asked.segments, seed, asked.steps, shorter, asked.folder)
                rows.extend(in_segments(name, *given))
    if asked.output:
        asked.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
