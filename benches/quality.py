"""The README's results: how closely default students follow their teachers, and how fast.

    python benches/quality.py                    # every case, seeds 0 1 2
    python benches/quality.py --cases moons digits --seeds 0 --output quality.json

Every case trains a teacher with the defaults, distils it with the defaults, and evaluates on noise that
neither has seen and on held-out data. A seed fixes data, teacher, student and evaluation noise. Seconds are
the whole wall-clock of ``KoopmanDistiller.fit``, trajectories included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import koopflow
from koopflow import FlowTeacher, KoopmanDistiller, datasets

EVALUATION_SEED = 900_000_000


@dataclass(frozen=True)
class Case:
    """A data set, a teacher, and the most that its errors may be (issue: quality bars)."""

    name: str
    data: Callable[[int], tuple[np.ndarray, np.ndarray]]
    teacher: Callable[[np.ndarray, int], FlowTeacher]
    bars: dict[str, float]
    n: int = 2000


def plane(make: Callable[..., np.ndarray]) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    return lambda seed: (make(20_000, seed=2 * seed), make(4_000, seed=2 * seed + 1))


def digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    train, held_out = datasets.split(datasets.digits()[0], held_out=500, seed=seed)
    return train, held_out


MEAN, COVARIANCE = np.array([1.0, -2.0]), np.array([[2.0, 0.6], [0.6, 0.5]])


def gaussian(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return tuple(random.multivariate_normal(MEAN, COVARIANCE, n).astype("f4") for n in (20_000, 4_000))


def trained(**options: Any) -> Callable[[np.ndarray, int], FlowTeacher]:
    def teacher(data: np.ndarray, seed: int) -> FlowTeacher:
        return FlowTeacher(event_shape=data.shape[1:], seed=seed, **options).fit(data, progress=False)

    return teacher


STRAIGHT = {
    "endpoint_error": 0.03,
    "inversion_error": 0.035,
    "round_trip_error": 0.075,
    "w2_ratio": 1.2,
    "seconds": 60,
}
CURVED = {"endpoint_error": 0.03, "path_over_line": 1 / 4, "seconds": 60}
CASES = [
    Case("moons, OT", plane(datasets.moons), trained(), STRAIGHT),
    Case("8 gaussians, OT", plane(datasets.eight_gaussians), trained(), STRAIGHT),
    Case("checkerboard, OT", plane(datasets.checkerboard), trained(), STRAIGHT),
    Case("swiss roll, OT", plane(datasets.swiss_roll), trained(), STRAIGHT),
    Case("moons, independent", plane(datasets.moons), trained(coupling="independent"), CURVED, n=1000),
    Case(
        "checkerboard, independent",
        plane(datasets.checkerboard),
        trained(coupling="independent"),
        CURVED,
        n=1000,
    ),
    Case("moons, VP", plane(datasets.moons), trained(coupling="independent", path="vp"), CURVED, n=1000),
    Case(
        "checkerboard, VP", plane(datasets.checkerboard), trained(coupling="independent", path="vp"), CURVED
    ),
    Case(
        "Gaussian, analytic",
        gaussian,
        lambda data, seed: FlowTeacher.gaussian(MEAN, COVARIANCE),
        {"endpoint_error": 1e-2, "path_error": 1e-2, "inversion_error": 2e-2, "seconds": 60},
        n=1000,
    ),
    Case(
        "digits, OT",
        digits,
        trained(),
        {"endpoint_error": 0.22, "inversion_error": 0.30, "w2_ratio": 1.03, "seconds": 120},
        n=500,
    ),
]
COLUMNS = {
    "endpoint_error": "endpoint",
    "path_error": "path",
    "path_over_line": "path / straight line",
    "inversion_error": "inversion",
    "round_trip_error": "round trip",
    "w2_ratio": "W2 / teacher's",
    "seconds": "fit, s",
}


def measure(case: Case, seed: int) -> dict[str, float]:
    """One row: train, distil, evaluate."""
    train, held_out = case.data(seed)
    teacher = case.teacher(train, seed)
    student = KoopmanDistiller(seed=seed).fit(teacher, progress=False)
    report = student.evaluate(teacher, held_out, n=case.n, seed=EVALUATION_SEED + seed)
    return {
        "endpoint_error": report.endpoint_error,
        "path_error": report.path_error,
        "path_over_line": report.path_error / report.straight_line_path_error,
        "inversion_error": report.inversion_error,
        "round_trip_error": report.round_trip_error,
        "w2_ratio": report.student.wasserstein2 / report.teacher.wasserstein2,
        "w2_teacher": report.teacher.wasserstein2,
        "w2_floor": report.floor.wasserstein2,
        "seconds": student.history_["seconds"],
    }


def cell(values: list[float], column: str, bars: dict[str, float]) -> str:
    digits = {"seconds": 0, "w2_ratio": 3}.get(column, 4)
    text = f"{statistics.median(values):.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f}-{max(values):.{digits}f})"
    missed = column in bars and max(values) > bars[column]
    return f"**{text}, over {bars[column]:g}**" if missed else text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=[""], help="only cases that contain one of these")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, help="write every number as JSON")
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads"
    print(f"koopflow {koopflow.__version__}, torch {torch.__version__}, {machine}, seeds {options.seeds}\n")
    print(f"| teacher | {' | '.join(COLUMNS.values())} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    results: dict[str, Any] = {"machine": machine, "seeds": options.seeds, "cases": {}}
    for case in CASES:
        if not any(part in case.name for part in options.cases):
            continue
        rows = [measure(case, seed) for seed in options.seeds]
        results["cases"][case.name] = rows
        cells = [cell([row[column] for row in rows], column, case.bars) for column in COLUMNS]
        print(f"| {case.name} | {' | '.join(cells)} |", flush=True)
        if options.output:
            options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
