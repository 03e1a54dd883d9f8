"""MNIST at 28x28: a class-conditional teacher, its students, and solvers of few steps.

    python -m experiments.benches.mnist --data FOLDER --output runs/mnist                # hours on 2 cores
    python -m experiments.benches.mnist --data FOLDER --output runs/mnist --only hierarchical
    python -m experiments.benches.mnist --data FOLDER --output runs/quick --quick        # whether it runs

FOLDER has MNIST's official test files, 10,000 labelled digits. One fixed split uses 8,000 for training and
holds out 2,000, which only the final measurement uses. Teachers and students are kept in ``--output``, and a
second call continues with what is missing. Distances are in 64 features of a classifier that is trained here.
The hierarchical student is trained with the features of a second classifier, with another seed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from koopflow import FlowTeacher, KoopmanDistiller, plotting

from ...environment import versions
from .judge import Images, Judge, decibels
from .models import NAMES, OTHERS, Model, distilled, seconds_of, taught

TIMES = [0.0, 0.25, 0.5, 0.75, 1.0]
SOLVERS: dict[str, dict[str, Any]] = {
    **{f"Euler, {steps}": {"solver": "euler", "steps": steps} for steps in (1, 2, 4, 8, 20)},
    **{f"AB2, {steps}": {"solver": "ab2", "steps": steps} for steps in (4, 8)},
    "Heun, 4 (8)": {"solver": "heun", "steps": 4},
}
POLISH = (0, 1, 3)  # Numbers of polishing steps: each takes two evaluations, in addition to 1 + 1.
Row = dict[str, Any]


def say(name: str, row: Row) -> None:
    print(json.dumps({"model": name, **row}), flush=True)


def timed(work: Any) -> tuple[Any, float]:
    """A result and its processor seconds, which vary less than wall-clock time on a busy machine."""
    started = time.process_time()
    answer = work()
    return answer, time.process_time() - started


def exact_paths(teacher: FlowTeacher, judge: Judge, seed: int, options: argparse.Namespace) -> Any:
    """The teacher's solutions ``[T, N, ...]`` and their seconds, kept for later calls."""
    file = options.output / f"exact-{seed}-{len(judge.noise)}.npz"
    if not file.exists():
        solve = lambda: np.asarray(teacher.trajectory(judge.noise, times=TIMES, condition=judge.labels))  # noqa: E731
        states, seconds = timed(solve)
        np.savez(file, states=states, seconds=seconds)
    kept = np.load(file)
    return kept["states"], float(kept["seconds"])


def between(start: Images, end: Images) -> Images:
    """States on straight lines, ``[T, N, ...]``."""
    return start + (end - start) * np.asarray(TIMES)[:, None, None, None, None]


def compared(judge: Judge, seed: int, options: argparse.Namespace) -> dict[str, Row]:
    teacher = taught(judge, seed, options)
    given = {"x0": judge.noise, "condition": judge.labels}
    exact, seconds = exact_paths(teacher, judge, seed, options)
    line = between(exact[0], exact[-1])
    rows: dict[str, Row] = {
        "digits trained on": judge.floor(),
        "teacher, dopri5": {
            **judge.quality(exact[-1]),
            "sampling": 1.0,
            "training": 1.0,
            "processor seconds": (cost := seconds_of("teacher", seed, options.output)),
        },
        "straight line to the teacher's end": judge.errors(line[1:], exact[1:]),
    }
    samples: dict[str, Images] = {"held out": judge.held_out, "teacher": exact[-1]}
    for name, row in rows.items():
        say(name, row)
    for name, solver in SOLVERS.items() if options.solvers else ():
        ends, spent = timed(lambda solver=solver: np.asarray(teacher.sample(**given, **solver)))
        error = judge.errors(np.stack([ends, ends]), np.stack([exact[-1]] * 2))["endpoint"]
        rows[name] = {**judge.quality(ends), "endpoint": error, "sampling": spent / seconds}
        samples[name] = ends
        say(name, rows[name])
    for name in options.only or NAMES:
        student = distilled(name, teacher, judge, seed, options)
        ends, spent = timed(lambda student=student: np.asarray(student.sample(**given)))
        rows[name] = {
            **judge.quality(ends),
            **judge.errors(np.stack([ends, ends]), np.stack([exact[-1]] * 2)),
            **(of_paths(student, judge, exact, options)),
            "sampling": spent / seconds,
            "training": seconds_of(name, seed, options.output) / cost,
        }
        samples[name] = ends
        say(name, rows[name])
    if seed == options.seeds[0]:
        for name, images in samples.items():
            file = "".join(letter if letter.isalnum() else "-" for letter in name)
            plotting.save_image_grid(options.output / f"{file}.png", images[:40], columns=10)
    return rows


def of_paths(student: Model, judge: Judge, exact: Images, options: argparse.Namespace) -> dict[str, float]:
    """Measures that only Koopman students have: path errors and inversion."""
    if not isinstance(student, KoopmanDistiller):
        return {"path": float("nan")}
    path = np.asarray(student.sample_path(judge.noise, times=TIMES[1:], condition=judge.labels))
    back = np.asarray(student.invert(exact[-1], condition=judge.labels))
    more = {}
    # The straight line to the student's own endpoint is the path that one evaluation alone would give.
    own = np.asarray(student.sample(x0=judge.noise, condition=judge.labels))
    straight = judge.errors(between(judge.noise, own)[1:], exact[1:])["path"]
    for steps in (2, 4):
        ends = student.sample(x0=judge.noise, condition=judge.labels, steps=steps)
        more |= {f"{name}, {steps} steps": value for name, value in judge.quality(np.asarray(ends)).items()}
    return {
        **judge.errors(path, exact[1:]),
        **more,
        "path, straight": straight,
        # The noise has unit variance in every pixel, so the error is relative.
        "inversion": float(np.sqrt(np.mean((back - judge.noise).astype(np.float64) ** 2))),
        **round_trips(student, judge, options),
    }


def round_trips(student: KoopmanDistiller, judge: Judge, options: argparse.Namespace) -> dict[str, float]:
    """PSNR, in dB, of held-out digits mapped to noise and back, by the number of evaluations."""
    count = min(options.round_trips, len(judge.held_out))
    images, labels = judge.held_out[:count], judge.held_out_labels[:count]
    found = {}
    for polish in POLISH:
        noise = student.invert(images, polish=polish, method="anderson", condition=labels)
        again = student.sample(x0=np.asarray(noise), condition=labels)
        found[f"dB, {2 + 2 * polish} evaluations"] = decibels(images, again)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with t10k-images-idx3-ubyte.gz and its labels")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--teacher-steps", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=1450, help="training steps of a student with a U-Net")
    parser.add_argument("--baseline-steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--trajectories", type=int, default=8192)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--round-trips", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=20, help="training epochs of the classifiers")
    parser.add_argument("--only", nargs="+", choices=[*NAMES, *OTHERS])
    parser.add_argument("--no-solvers", dest="solvers", action="store_false", help="omit few-step solvers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    options = parser.parse_args()
    if options.quick:
        options.teacher_steps, options.steps, options.trajectories = 10, 5, 64
        options.samples, options.epochs, options.round_trips, options.baseline_steps = 100, 1, 20, 5
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    print(versions(), flush=True)
    results = {}
    for seed in options.seeds:
        judge = Judge(options.data, options.output, samples=options.samples, epochs=options.epochs, seed=seed)
        print(f"seed {seed}: accuracy of the classifier on held-out digits {judge.accuracy:.2%}", flush=True)
        results[seed] = compared(judge, seed, options)
        (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
