"""``koopflow demo``: the main job, from data to one-step samples, with numbers and pictures."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__, _core, datasets, metrics, plotting
from .._tables import text_table
from ..students import KoopmanDistiller
from ..students.evaluation import timed
from ..teachers import FlowTeacher
from .inputs import output_folder, write_text
from .options import Command, Settings
from .pictures import save

# Beyond every seed that trains something here.
NOISE_SEED = 987_654_321
EULER_STEPS = (1, 4, 20, 100)
EXACT, STUDENT = "teacher, dopri5", "student, 1 step"
HEADS = {
    "method": "method",
    "evaluations": "NFE",
    "seconds_per_10k": "s per 10,000",
    "sliced_wasserstein": "sliced W2",
    "energy": "energy",
    "endpoint_error": "endpoint error",
}


@dataclass(frozen=True)
class Case:
    """One data set, and the seconds that its teacher and its student may train."""

    name: str
    train: NDArray[Any]
    held_out: NDArray[Any]
    teacher_seconds: float
    student_seconds: float
    trajectories: int | None = None


def demo() -> Command:
    """The command ``koopflow demo``."""
    command = Command(
        "demo",
        "Trains a flow-matching teacher on two moons and on handwritten digits, distils each into a Koopman "
        "student, and writes a table (also as JSON) and pictures: how close the student's one-step samples "
        "come to its teacher's and to held-out data, and at what cost. Training is bounded in time, so "
        "numbers vary from machine to machine.",
        _run,
    )
    words = "Whether to train for a shorter time, for a first look (under 90 seconds on 2 cores)."
    command.add("", "quick", bool, default=False, words=words)
    command.add("", "output", str, "koopflow-demo", "Folder for table and pictures.")
    command.add("", "seed", int, 0, "Random seed of everything.")
    command.add("", "device", str, "cpu", "cpu, cuda, cuda:N or auto.")
    return command


def _run(settings: Settings) -> int:
    """Run both cases, print their tables, write results.json and the pictures."""
    folder, seed, device = output_folder(settings["output"]), settings["seed"], settings["device"]
    # The cheapest thing that needs the device.
    FlowTeacher.gaussian(np.zeros(1, np.float32), np.eye(1, dtype=np.float32), device=device)
    started = time.perf_counter()
    results: dict[str, Any] = {
        "koopflow": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads",
        "device": device,
        "seed": seed,
        "quick": settings["quick"],
        "cases": {},
    }
    written = [folder / "results.json"]
    for case in cases(seed, quick=settings["quick"]):
        results["cases"][case.name], pictures = run_case(case, settings, folder)
        written += pictures
    results["seconds"] = time.perf_counter() - started
    write_text(written[0], json.dumps(results, indent=2) + "\n")
    print(f"\n{results['seconds']:.0f} s in all; wrote {len(written)} files to {folder}:")
    print("  " + ", ".join(path.name for path in written))
    return 0


def cases(seed: int, *, quick: bool) -> list[Case]:
    """Two moons and handwritten digits."""
    images, _ = datasets.digits()
    train, held_out = datasets.split(images, held_out=500, seed=seed)
    moons = (datasets.moons(20_000, seed=2 * seed), datasets.moons(4_000, seed=2 * seed + 1))
    if quick:
        # The default number of trajectories would take all of a short training's time.
        return [Case("moons", *moons, 5.0, 8.0), Case("digits", train, held_out, 10.0, 20.0, 4_096)]
    return [Case("moons", *moons, 30.0, 35.0), Case("digits", train, held_out, 90.0, 100.0)]


def run_case(case: Case, settings: Settings, folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """Train, distil, measure and draw one case: its part of results.json, and the pictures."""
    shape = case.train.shape[1:]
    print(f"\n{case.name}: {len(case.train)} samples of shape {shape}, {len(case.held_out)} held out")
    shared = {"seed": settings["seed"], "device": settings["device"]}
    teacher = FlowTeacher(shape, coupling="ot", max_seconds=case.teacher_seconds, **shared)
    history = teacher.fit(case.train).history_
    stop_if_interrupted(history)
    print(f"  teacher: {history['steps']} steps in {history['seconds']:.0f} s")
    student = KoopmanDistiller(
        trajectories=case.trajectories, max_seconds=case.student_seconds, **shared
    ).fit(teacher)
    learned = student.history_
    stop_if_interrupted(learned)
    print(
        f"  student: {student.n_observables_} observables, {learned['steps']} steps in "
        f"{learned['seconds']:.0f} s, trajectories {learned['trajectory_seconds']:.0f} s of them\n"
    )
    rows, ends = compare(teacher, student, case, count=2_000 if settings["quick"] else 8_000)
    print(text_table(rows, HEADS))
    count = 500 if settings["quick"] else 2_000
    report = student.evaluate(teacher, case.held_out, n=count, seed=NOISE_SEED)
    print(
        f"\n  path error {report.path_error:.4f} (straight line {report.straight_line_path_error:.4f}), "
        f"inversion error {report.inversion_error:.4f}, round trip {report.round_trip_error:.4f}"
    )
    student.save(folder / f"{case.name}-student.safetensors")
    of_student = ("steps", "seconds", "trajectory_seconds", "stopped", "best_step")
    summary = {
        "rows": rows,
        "evaluation": report.to_dict(),
        "teacher": {name: history[name] for name in ("steps", "seconds", "stopped")},
        "student": {"observables": student.n_observables_, **{name: learned[name] for name in of_student}},
    }
    return summary, draw(case, teacher, student, ends, folder)


def stop_if_interrupted(history: dict[str, Any]) -> None:
    """Training keeps what it has on Ctrl-C; the demo has no use for half a result."""
    if history.get("stopped") == "interrupted":
        raise KeyboardInterrupt


def compare(
    teacher: FlowTeacher, student: KoopmanDistiller, case: Case, *, count: int
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """Every sampler from the same noise: its cost, its distance to data, its distance to dopri5."""
    noise = _core.normal((count, *teacher.event_shape), NOISE_SEED)
    samplers: dict[str, tuple[Any, Callable[..., Any]]] = {EXACT: (teacher, teacher.sample)}
    for steps in EULER_STEPS:
        samplers[f"teacher, Euler {steps}"] = (teacher, partial(teacher.sample, solver="euler", steps=steps))
    samplers[STUDENT] = (student, student.sample)
    student.sample(x0=noise[:16])  # the propagator is folded once, on first use

    # Equally many samples on both sides, so that the floor is one for every row.
    size = min(2_000, count, len(case.held_out), len(case.train))
    held_out, fresh = case.held_out[:size], case.train[:size]
    rows, ends = [], {}
    for method, (model, sampler) in samplers.items():
        before = model.evaluations
        ends[method], seconds = timed(partial(sampler, x0=noise))
        evaluations = model.evaluations - before
        error = None
        if method != EXACT:
            error = _core.endpoint_error(ends[method], ends[EXACT], _core.total_std(ends[EXACT])).value
        distances = _distances(ends[method][:size], held_out)
        rows.append(_row(method, evaluations, seconds * 10_000 / count, *distances, error))
    return [*rows, _row("data against data", None, None, *_distances(fresh, held_out), None)], ends


def _row(*values: Any) -> dict[str, Any]:
    return dict(zip(HEADS, values, strict=True))


def _distances(samples: NDArray[Any], data: NDArray[Any]) -> tuple[float, float]:
    return metrics.sliced_wasserstein(samples, data), metrics.energy_distance(samples, data)


def draw(
    case: Case,
    teacher: FlowTeacher,
    student: KoopmanDistiller,
    ends: dict[str, NDArray[Any]],
    folder: Path,
) -> list[Path]:
    """Samples, paths, spectrum and training."""
    plane = teacher.event_shape == (2,)
    count = min(4_000, len(case.held_out), len(ends[STUDENT])) if plane else 64
    sets = {
        "data": case.held_out[:count],
        EXACT: ends[EXACT][:count],
        "student, one step, from the same noise": ends[STUDENT][:count],
    }
    noise = _core.normal((24 if plane else 5, *teacher.event_shape), NOISE_SEED)
    times = np.linspace(0.0, 1.0, 33 if plane else 11).tolist()
    exact, ours = teacher.trajectory(noise, times=times), student.sample_path(noise, times=times)
    if plane:
        samples = plotting.side_by_side(sets)[0]
        axes = plotting.new_figure((6.6, 4.4)).add_subplot()
        title = "student's paths over the teacher's, same noise"
        paths = plotting.paths(ours, exact, ax=axes, background=case.held_out[:1500], title=title)
    else:
        for axes, (title, images) in zip(
            plotting.new_figure((10.4, 3.7)).subplots(1, 3), sets.items(), strict=True
        ):
            samples = plotting.image_grid(images, ax=axes, columns=8, title=title)
        # [T, B, 64] twice becomes, for each digit, a row of the teacher's path over one of the student's.
        rows = np.stack([exact, ours]).transpose(2, 0, 1, 3).reshape(-1, exact.shape[-1])
        title = "noise to digit: teacher's path above, student's below"
        paths = plotting.image_grid(rows, columns=len(times), limits=(-1.5, 1.5), title=title)
    title = f"{case.name}: spectrum of the student's generator"
    pictures = {
        "samples": samples,
        "paths": paths,
        "spectrum": plotting.spectrum(student.spectrum(), title=title),
        "training": plotting.loss_history(student.history_, title=f"{case.name}: distillation"),
    }
    return [save(axes, folder / f"{case.name}-{name}.png") for name, axes in pictures.items()]
