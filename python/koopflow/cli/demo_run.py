"""``koopflow demo``: the main job, from data to one-step samples, with the numbers that judge them."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__, _core, datasets
from .._arrays import rms_norm, total_std
from ..students.distiller import KoopmanDistiller
from ..students.evaluation import timed
from ..teachers.teacher import FlowTeacher
from .demo_pictures import draw_digits, draw_plane

# Beyond every seed that trains something here.
NOISE_SEED = 987_654_321
EULER_STEPS = (1, 4, 20, 100)


class OutputError(Exception):
    """The output folder cannot be written."""


@dataclass(frozen=True)
class DemoOptions:
    """What ``koopflow demo`` was asked for."""

    quick: bool = False
    output: Path = Path("koopflow-demo")
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Case:
    """One data set, and the seconds that its teacher and its student may train."""

    name: str
    train: NDArray[Any]
    held_out: NDArray[Any]
    teacher_seconds: float
    student_seconds: float
    trajectories: int | None
    draw: Callable[..., list[Path]]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: str
    evaluations: int | None
    seconds_per_10k: float | None
    sliced_wasserstein: float
    energy: float
    endpoint_error: float | None


def run(options: DemoOptions) -> dict[str, Any]:
    """Run both cases, print their tables, and write ``results.json`` and the pictures.

    Raises
    ------
    OutputError
        When the output folder cannot be written.
    DeviceError
        When there is no such device.
    KeyboardInterrupt
        After Ctrl-C, also where training alone would have kept what it had.
    """
    prepare(options.output)
    # The cheapest thing that needs the device.
    FlowTeacher.gaussian(np.zeros(1, np.float32), np.eye(1, dtype=np.float32), device=options.device)
    started = time.perf_counter()
    results: dict[str, Any] = {
        "koopflow": __version__,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads",
        "device": options.device,
        "seed": options.seed,
        "quick": options.quick,
        "cases": {},
    }
    written: list[Path] = []
    for case in cases(options):
        summary, pictures = run_case(case, options)
        results["cases"][case.name] = summary
        written += pictures
    results["seconds"] = time.perf_counter() - started
    table = options.output / "results.json"
    table.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\n{results['seconds']:.0f} s in all; wrote {len(written) + 1} files to {options.output}:")
    print("  " + ", ".join(path.name for path in [table, *written]))
    return results


def prepare(folder: Path) -> None:
    """Make the folder and prove that it can be written. Raises ``OutputError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error


def cases(options: DemoOptions) -> list[Case]:
    """Two moons and handwritten digits."""
    seed, quick = options.seed, options.quick
    images, _ = datasets.digits()
    train, held_out = datasets.split(images, held_out=500, seed=seed)
    return [
        Case(
            "moons",
            datasets.moons(20_000, seed=2 * seed),
            datasets.moons(4_000, seed=2 * seed + 1),
            teacher_seconds=5.0 if quick else 30.0,
            student_seconds=8.0 if quick else 35.0,
            trajectories=None,
            draw=draw_plane,
        ),
        Case(
            "digits",
            train,
            held_out,
            teacher_seconds=10.0 if quick else 90.0,
            student_seconds=20.0 if quick else 100.0,
            # The default's many would take all of a short training's time.
            trajectories=4_096 if quick else None,
            draw=draw_digits,
        ),
    ]


def run_case(case: Case, options: DemoOptions) -> tuple[dict[str, Any], list[Path]]:
    """Train, distil, compare and draw one case."""
    shape = case.train.shape[1:]
    print(f"\n{case.name}: {len(case.train)} samples of shape {shape}, {len(case.held_out)} held out")
    seed, device = options.seed, options.device
    with warnings.catch_warnings():
        # An interrupt is raised below, in place of the warning that a kept result gets.
        warnings.simplefilter("ignore", RuntimeWarning)
        teacher = FlowTeacher(
            shape, coupling="ot", max_seconds=case.teacher_seconds, seed=seed, device=device
        ).fit(case.train)
        stop_if_interrupted(teacher.history)
        print(f"  teacher: {teacher.history['steps']} steps in {teacher.history['seconds']:.0f} s")
        student = KoopmanDistiller(
            trajectories=case.trajectories, max_seconds=case.student_seconds, seed=seed, device=device
        ).fit(teacher)
        stop_if_interrupted(student.history_)
    history = student.history_
    print(
        f"  student: {student.n_observables_} observables, {history['steps']} steps in "
        f"{history['seconds']:.0f} s, trajectories {history['trajectory_seconds']:.0f} s of them\n"
    )
    rows, ends = compare(teacher, student, case, count=2_000 if options.quick else 8_000)
    print(table(rows))
    report = student.evaluate(teacher, case.held_out, n=500 if options.quick else 2_000, seed=NOISE_SEED)
    print(
        f"\n  path error {report.path_error:.4f} (straight line {report.straight_line_path_error:.4f}), "
        f"inversion error {report.inversion_error:.4f}, round trip {report.round_trip_error:.4f}"
    )
    student.save(options.output / f"{case.name}-student.safetensors")
    pictures = case.draw(options.output, case.name, case.held_out, teacher, student, ends, NOISE_SEED)
    summary = {
        "rows": [vars(row) for row in rows],
        "evaluation": report.to_dict(),
        "teacher": {name: teacher.history[name] for name in ("steps", "seconds", "stopped")},
        "student": {
            "observables": student.n_observables_,
            **{
                name: history[name]
                for name in ("steps", "seconds", "trajectory_seconds", "stopped", "best_step")
            },
        },
    }
    return summary, pictures


def stop_if_interrupted(history: dict[str, Any]) -> None:
    """Training keeps what it has on Ctrl-C; the demo has no use for half a result."""
    if history.get("stopped") == "interrupted":
        raise KeyboardInterrupt


def compare(
    teacher: FlowTeacher, student: KoopmanDistiller, case: Case, *, count: int
) -> tuple[list[Row], dict[str, NDArray[Any]]]:
    """Every sampler from the same noise: its cost, its distance to data, its distance to dopri5."""
    noise = _core.normal((count, *teacher.event_shape), NOISE_SEED)
    scale = total_std(case.held_out)
    samplers: dict[str, tuple[Any, Callable[[], Any]]] = {
        "teacher, dopri5": (teacher, partial(teacher.sample, x0=noise))
    }
    for steps in EULER_STEPS:
        euler = partial(teacher.sample, x0=noise, solver="euler", steps=steps)
        samplers[f"teacher, Euler {steps}"] = (teacher, euler)
    samplers["student, 1 step"] = (student, partial(student.sample, x0=noise))
    student.sample(x0=noise[:16])  # the propagator is folded once, on first use

    # Equally many samples on both sides, so that the floor is one for every row.
    size = min(2_000, count, len(case.held_out), len(case.train))
    held_out = case.held_out[:size]
    rows, ends = [], {}
    for method, (model, sampler) in samplers.items():
        before = model.evaluations
        samples, seconds = timed(sampler)
        evaluations = model.evaluations - before
        ends[method] = samples
        exact = ends["teacher, dopri5"]
        rows.append(
            Row(
                method,
                evaluations,
                seconds * 10_000 / count,
                _core.sliced_wasserstein(samples[:size], held_out),
                _core.energy_distance(samples[:size], held_out),
                rms_norm(samples - exact) / scale if samples is not exact else None,
            )
        )
    fresh = case.train[:size]
    floor = (_core.sliced_wasserstein(fresh, held_out), _core.energy_distance(fresh, held_out))
    return [*rows, Row("data against data", None, None, *floor, None)], ends


def table(rows: list[Row]) -> str:
    """The rows as text; the last one is the sampling floor."""
    lines = [
        f"  {'':<18}{'NFE':>5}{'s per 10,000':>14}{'sliced W2':>11}{'energy':>10}{'endpoint error':>16}",
        "  " + "-" * 74,
    ]
    for row in rows:
        evaluations = "" if row.evaluations is None else str(row.evaluations)
        seconds = "" if row.seconds_per_10k is None else f"{row.seconds_per_10k:.4f}"
        error = "" if row.endpoint_error is None else f"{row.endpoint_error:.4f}"
        lines.append(
            f"  {row.method:<18}{evaluations:>5}{seconds:>14}{row.sliced_wasserstein:>11.4f}"
            f"{row.energy:>10.4f}{error:>16}"
        )
    return "\n".join(lines)
