"""MNIST at 28x28: a class-conditional teacher, its students, and solvers of few steps.

    python -m experiments.benches.mnist --data FOLDER --output runs/mnist                # hours on 2 cores
    python -m experiments.benches.mnist --data FOLDER --output runs/mnist --only hierarchical
    python -m experiments.benches.mnist --data FOLDER --output runs/quick --quick        # whether it runs

FOLDER has MNIST's official test files, 10,000 labelled digits: 8,000 to train on, 2,000 held out by one fixed
split, which nothing but the last measurement sees. Teachers and students are kept in ``--output``, and a
second call goes on with what is missing. Distances are in 64 features of a classifier that is trained here.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from koopflow import FlowTeacher, KoopmanDistiller, UNet, plotting

from ...environment import versions
from ..images import CLASSES
from .judge import Judge, decibels

TIMES = [0.0, 0.25, 0.5, 0.75, 1.0]
SOLVERS: dict[str, dict[str, Any]] = {
    **{f"Euler, {steps}": {"solver": "euler", "steps": steps} for steps in (1, 2, 4, 8, 20)},
    **{f"AB2, {steps}": {"solver": "ab2", "steps": steps} for steps in (4, 8)},
    "Heun, 4 (8)": {"solver": "heun", "steps": 4},
}
# An endpoint alone, from one lift: a plain U-Net between noise and data.
PLAIN = dict.fromkeys(("path", "target", "inverse", "round_trip", "phase"), 0.0)
PAPER = dict.fromkeys(("endpoint", "path", "inverse", "round_trip"), 0.0)
PAPER |= {"consistency": 1.0, "phase": 1.0, "target": 1.0}
STUDENTS: dict[str, dict[str, Any]] = {
    "hierarchical": {"basis": "hierarchy", "warm_start": True},
    "paper": {
        "basis": "unet",
        "generator": "dense",
        "architecture": {"lifts": 1},
        "trajectories": {"pairs": "endpoints"},
        "objective": {"weights": PAPER},
    },
    "plain U-Net": {
        "basis": "unet",
        "architecture": {"lifts": 1},
        "objective": {"weights": PLAIN},
        "training": {"metric": "endpoint_error"},
    },
}
POLISH = (0, 1, 3, 6)  # Steps of the fixed point: 1 + 1 evaluations and two for each step.


def say(name: str, row: dict[str, Any]) -> None:
    print(json.dumps({"model": name, **row}), flush=True)


def taught(judge: Judge, seed: int, options: argparse.Namespace) -> FlowTeacher:
    file = options.output / f"teacher-{seed}.safetensors"
    if file.exists():
        return FlowTeacher.load(file, device=options.device)
    network = UNet(channels=options.channels, multipliers=(1, 2, 2), attention=(4,), heads=4)
    teacher = FlowTeacher(
        judge.train.shape[1:],
        network=network,
        num_classes=CLASSES,
        steps=options.teacher_steps,
        batch_size=64,
        seed=seed,
        device=options.device,
    ).fit(judge.train, condition=judge.train_labels, progress=options.progress)
    teacher.save(file)
    return teacher


def distilled(
    name: str, teacher: FlowTeacher, seed: int, options: argparse.Namespace
) -> tuple[KoopmanDistiller, dict[str, float]]:
    file = options.output / f"{name.replace(' ', '-')}-{seed}.safetensors"
    if file.exists():
        student = KoopmanDistiller.load(file, device=options.device)
    else:
        given = STUDENTS[name]
        student = KoopmanDistiller(
            unet=teacher.network,
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=seed,
            device=options.device,
            **{
                **given,
                "training": {"evaluate_every": max(options.steps // 6, 1), **given.get("training", {})},
                "trajectories": {
                    "count": options.trajectories,
                    "path_steps": 8,
                    **given.get("trajectories", {}),
                },
            },
        ).fit(
            teacher,
            trajectory_file=options.output / f"trajectories-{seed}.safetensors",
            progress=options.progress,
        )
        student.save(file)
    history = student.history_
    return student, {"seconds": history["seconds"], "trajectory seconds": history["trajectory_seconds"]}


def timed(work: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    answer = work()
    return answer, time.perf_counter() - started


def compared(judge: Judge, seed: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    teacher = taught(judge, seed, options)
    given = {"x0": judge.noise, "condition": judge.labels}
    (exact, seconds) = timed(
        lambda: np.asarray(teacher.trajectory(judge.noise, times=TIMES, condition=judge.labels))
    )
    rows: dict[str, dict[str, Any]] = {
        "digits trained on": judge.floor(),
        "teacher, dopri5": {
            **judge.quality(exact[-1]),
            "sampling": 1.0,
            "seconds": teacher.history_["seconds"],
        },
    }
    line = exact[0] + (exact[-1] - exact[0]) * np.asarray(TIMES)[:, None, None, None, None]
    rows["straight line to the teacher's end"] = judge.errors(line[1:], exact[1:])
    samples = {"held out": judge.held_out, "teacher": exact[-1]}
    for name in ("digits trained on", "teacher, dopri5", "straight line to the teacher's end"):
        say(name, rows[name])
    for name, solver in SOLVERS.items():
        ends, spent = timed(lambda solver=solver: np.asarray(teacher.sample(**given, **solver)))
        error = judge.errors(np.stack([ends, ends]), np.stack([exact[-1]] * 2))["endpoint"]
        rows[name] = {**judge.quality(ends), "endpoint": error, "sampling": spent / seconds}
        samples[name] = ends
        say(name, rows[name])
    for name in options.only or STUDENTS:
        student, cost = distilled(name, teacher, seed, options)
        ends, spent = timed(lambda student=student: np.asarray(student.sample(**given)))
        path = np.asarray(student.sample_path(judge.noise, times=TIMES[1:], condition=judge.labels))
        back = np.asarray(student.invert(exact[-1], condition=judge.labels))
        rows[name] = {
            **judge.quality(ends),
            **judge.errors(path, exact[1:]),
            "inversion": float(
                np.sqrt(np.mean((back - judge.noise).astype(np.float64) ** 2))
            ),  # The noise's own norm is one a pixel.
            **round_trips(student, judge, options),
            "sampling": spent / seconds,
            **cost,
        }
        samples[name] = ends
        say(name, rows[name])
    if seed == options.seeds[0]:
        for name, images in samples.items():
            file = "".join(letter if letter.isalnum() else "-" for letter in name)
            plotting.save_image_grid(options.output / f"{file}.png", images[:40], columns=10)
    return rows


def round_trips(student: KoopmanDistiller, judge: Judge, options: argparse.Namespace) -> dict[str, float]:
    """Held-out digits to noise and back, in dB, by the number of evaluations."""
    count = min(options.round_trips, len(judge.held_out))
    images, labels = judge.held_out[:count], judge.held_out_labels[:count]
    found = {}
    for polish in POLISH:
        noise = student.invert(images, polish=polish, method="fixed_point", condition=labels)
        again = student.sample(x0=np.asarray(noise), condition=labels)
        found[f"dB, {2 + 2 * polish} evaluations"] = decibels(images, again)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with t10k-images-idx3-ubyte.gz and its labels")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--teacher-steps", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--trajectories", type=int, default=8192)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--round-trips", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=12, help="of the classifier")
    parser.add_argument("--only", nargs="+", choices=list(STUDENTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    options = parser.parse_args()
    if options.quick:
        options.teacher_steps, options.steps, options.trajectories = 10, 5, 64
        options.samples, options.epochs, options.round_trips = 100, 1, 20
    options.output.mkdir(parents=True, exist_ok=True)
    print(versions(), flush=True)
    results = {}
    for seed in options.seeds:
        judge = Judge(options.data, samples=options.samples, epochs=options.epochs, seed=seed)
        print(f"seed {seed}: the classifier knows {judge.accuracy:.2%} of the held-out digits", flush=True)
        results[seed] = compared(judge, seed, options)
        (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
