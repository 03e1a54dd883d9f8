"""Flows in phase space, compared with flows of positions, in few evaluations: the table of docs/chains.md.

    python -m experiments.benches.phase_space                     # three seeds, half an hour on one core
    python -m experiments.benches.phase_space --cases grid --seeds 0
    python -m experiments.benches.phase_space --quick             # whether it runs

Both teachers have the same width, depth and number of training steps, with optimal-transport coupling. W2 is
between 2,000 positions and held-out data, after 5 and 10 evaluations of each solver, and after one evaluation
of a student, which is distilled from each teacher with the same options. A seed determines data, models and
samples. Cells are means over the seeds, with their range.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from koopflow import FlowTeacher, KoopmanDistiller, datasets
from koopflow.metrics import wasserstein2

from ..environment import versions

TRAINED, HELD_OUT = 20_000, 2_000
# Number of evaluations of one step.
SOLVERS = {"euler": 1, "ab2": 1, "midpoint": 2, "heun": 2}


def five_rolls(n: int, seed: int) -> np.ndarray:
    """Swiss rolls at the middle and the corners of a square: ``[n, 2]``, float32."""
    centres = np.array([[0.0, 0.0], [2.5, 2.5], [-2.5, 2.5], [2.5, -2.5], [-2.5, -2.5]])
    chosen = centres[np.random.default_rng(seed).integers(0, 5, n)]
    return (chosen + 0.4 * datasets.swiss_roll(n, noise=0.5, seed=seed)).astype(np.float32)


def grid(n: int, seed: int) -> np.ndarray:
    """Nine Gaussians of deviation 0.15, three by three: ``[n, 2]``, float32."""
    rng = np.random.default_rng(seed)
    return (2.0 * rng.integers(-1, 2, (n, 2)) + 0.15 * rng.standard_normal((n, 2))).astype(np.float32)


CASES = {"five rolls": five_rolls, "grid": grid}


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3_000, help="training steps of each teacher")
    parser.add_argument("--student-steps", type=int, default=2_000)
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    parser.add_argument("--output", type=Path, help="write every number as JSON")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.student_steps, options.seeds = 30, 10, options.seeds[:1]
    return options


def distances(
    teacher: FlowTeacher, student: KoopmanDistiller, held_out: np.ndarray, seed: int
) -> dict[str, float]:
    """W2 of positions, by solver and number of evaluations."""

    def distance(samples: np.ndarray) -> float:
        positions = samples[:, 0] if samples.ndim == 3 else samples
        return float(wasserstein2(positions, held_out))

    found = {"converged": distance(teacher.sample(HELD_OUT, seed=seed))}
    for evaluations, (solver, each) in itertools.product((5, 10), SOLVERS.items()):
        if evaluations % each == 0:
            samples = teacher.sample(HELD_OUT, seed=seed, solver=solver, steps=evaluations // each)
            found[f"{solver}, {evaluations}"] = distance(samples)
    return {**found, "student, 1": distance(student.sample(HELD_OUT, seed=seed))}


def runs(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for seed, case in itertools.product(options.seeds, options.cases):
        data, held_out, others = (
            CASES[case](n, 3 * seed + part) for part, n in enumerate((TRAINED, HELD_OUT, HELD_OUT))
        )
        given: dict[str, Any] = {"width": 128, "depth": 3, "steps": options.steps, "seed": seed}
        teachers = {
            "positions": FlowTeacher((2,), **given).fit(data, progress=False),
            "phase space": FlowTeacher.phase(data, progress=False, **given),
        }
        for name, teacher in teachers.items():
            # Options are fixed, since defaults depend on the dimension, which is doubled in phase space.
            shape = {"observables": 48, "width": 128, "depth": 3}
            student = KoopmanDistiller(**shape, steps=options.student_steps, seed=seed)
            student.fit(teacher, progress=False)
            found = distances(teacher, student, held_out, seed + 1)
            row = {"case": case, "teacher": name, "seed": seed}
            rows.append({**row, "data": float(wasserstein2(others, held_out)), **found})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds, with their range."""
    columns = [name for name in rows[0] if name not in ("case", "teacher", "seed")]
    lines = ["| data | teacher | " + " | ".join(columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for design in sorted({(row["case"], row["teacher"]) for row in rows}):
        own = [row for row in rows if (row["case"], row["teacher"]) == design]
        cells = []
        for column in columns:
            values = [row[column] for row in own]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.3f}{spread}")
        lines.append("| " + " | ".join([*design, *cells]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    print(f"{versions()}, seeds {options.seeds}")
    rows = runs(options)
    print(table(rows))
    if options.output is not None:
        options.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
