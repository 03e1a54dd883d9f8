"""What following the flow costs: endpoint error against phase error, for each ``fidelity``.

    python benches/fidelity.py                         # every case, seeds 0 1 2
    python benches/fidelity.py --cases moons --seeds 0

Each row is the mean over the seeds; a seed fixes data, teacher, student and evaluation noise. Times are the
whole wall-clock of ``KoopmanDistiller.fit``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from typing import Any

import numpy as np
import torch

from koopflow import EvaluationReport, FlowTeacher, KoopmanDistiller, datasets

EVALUATION_SEED = 900_000_000
CASES: dict[str, dict[str, Any]] = {
    "8 gaussians, OT": {"data": datasets.eight_gaussians},
    "moons, independent": {"data": datasets.moons, "coupling": "independent"},
    "checkerboard, VP": {"data": datasets.checkerboard, "coupling": "independent", "path": "vp"},
    "digits, OT": {"data": None},
}
COLUMNS = ("endpoint", "path / line", "inversion", "round trip", "2, 4, 8 re-encodings", "phase", "residual")


def split(make: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if make is None:
        train, held_out = datasets.split(datasets.digits()[0], held_out=500, seed=seed)
        return train, held_out
    return make(20_000, seed=2 * seed), make(4_000, seed=2 * seed + 1)


def cells(reports: list[EvaluationReport], seconds: list[float]) -> list[str]:
    def mean(value: Any) -> float:
        return statistics.mean(value(report) for report in reports)

    again = [mean(lambda r, k=k: r.re_encoding_errors[k]) for k in (2, 4, 8)]
    return [
        f"{mean(lambda r: r.endpoint_error):.4f}",
        f"{mean(lambda r: r.path_error / r.straight_line_path_error):.3f}",
        f"{mean(lambda r: r.inversion_error):.4f}",
        f"{mean(lambda r: r.round_trip_error):.4f}",
        " / ".join(f"{error:.4f}" for error in again),
        f"{mean(lambda r: r.phase_error):.3f}",
        f"{mean(lambda r: r.consistency_residual):.3f}",
        f"{statistics.mean(seconds):.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=[""], help="only cases that contain one of these")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} CPUs, seeds {options.seeds}\n")
    print(f"| teacher | fidelity | {' | '.join(COLUMNS)} | fit, s |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name, case in CASES.items():
        if not any(part in name for part in options.cases):
            continue
        arguments = {key: value for key, value in case.items() if key != "data"}
        teachers = {}
        for seed in options.seeds:
            train, held_out = split(case["data"], seed)
            teacher = FlowTeacher(event_shape=train.shape[1:], seed=seed, **arguments)
            teachers[seed] = teacher.fit(train, progress=False), held_out
        for fidelity in ("endpoint", "balanced", "spectral"):
            reports, seconds = [], []
            for seed, (teacher, held_out) in teachers.items():
                student = KoopmanDistiller(fidelity=fidelity, seed=seed).fit(teacher, progress=False)
                n = 500 if case["data"] is None else 1000
                reports.append(student.evaluate(teacher, held_out, n=n, seed=EVALUATION_SEED + seed))
                seconds.append(student.history_["seconds"])
            print(f"| {name} | {fidelity} | {' | '.join(cells(reports, seconds))} |", flush=True)


if __name__ == "__main__":
    main()
