"""Measurements of steering: the tables of docs/steering.md.

    python -m experiments.benches.steering                          # three seeds, hours on one core
    python -m experiments.benches.steering --parts gaussian cost
    python -m experiments.benches.steering --parts plane --problems moons --seeds 0 --refit
    python -m experiments.benches.steering --quick                  # whether it runs

The parts are:

- *gaussian*: mean, covariance and log evidence of Gaussian teachers given observations, 20 problems per seed.
- *plane*: noisy projections and half planes, by W2 to rejection samples of the teacher, compared with
guidance of
  its ODE; with ``--refit`` also after distilling the weighted samples again.
- *digits*: digits with half of the pixels hidden: coverage of intervals, and accuracy of a classifier.
- *targets*: energies: effective fractions and errors of log Z, of students and of their teachers; with
  ``--rivals`` also of flows of zuko and nflows with the same training time, if students are trained in this
  run.
- *cost*: ``sample(n, log_prob=True)`` compared with ``sample(n)``.

Trained models are kept in the folder ``--models``, so that an interrupted run can continue.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...environment import machine, versions
from ..flow_spectrum.tables import plain
from . import cost, digits, gaussian, plane, targets

PARTS = ("gaussian", "plane", "digits", "targets", "cost")


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--problems", nargs="+", choices=list(plane.PROBLEMS), default=list(plane.PROBLEMS))
    parser.add_argument("--targets", nargs="+", choices=list(targets.TARGETS), default=list(targets.TARGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="training steps of every student, instead of its default")
    parser.add_argument("--teacher-steps", type=int, help="training steps of the teachers of targets")
    parser.add_argument("--images", type=int, default=100, help="held-out digits")
    parser.add_argument("--refit", action="store_true", help="distil the weighted samples again")
    parser.add_argument("--rivals", action="store_true", help="compare targets with zuko and nflows")
    parser.add_argument("--models", type=Path, default=Path("runs/steering"), help="folder of all models")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    parser.add_argument("--output", type=Path, help="write every number as JSON")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.teacher_steps, options.images, options.seeds = 40, 200, 2, options.seeds[:1]
    return options


def main() -> None:
    options = parsed()
    print(f"{versions()}, seeds {options.seeds}")
    results: dict[str, Any] = {"machine": machine(), "options": {k: str(v) for k, v in vars(options).items()}}

    def say(part: str, rows: dict[str, list[dict[str, float]]]) -> None:
        results[part] = rows
        print(f"\n### {part}\n\n{plain(rows)}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(results, indent=2) + "\n")

    seeds, folder = options.seeds, options.models
    if "gaussian" in options.parts:
        say("gaussian", by_dimension([gaussian.measure(s, 1 if options.quick else 4) for s in seeds]))
    if "plane" in options.parts:
        found = {
            name: [plane.measure(name, s, folder, options.steps, refit=options.refit) for s in seeds]
            for name in options.problems
        }
        kinds = {f"{n}, {kind}": [row[kind] for row in rows] for n, rows in found.items() for kind in rows[0]}
        say("plane", kinds)
    if "digits" in options.parts:
        say("digits", {"digits": [digits.measure(s, folder, options.steps, options.images) for s in seeds]})
    if "targets" in options.parts:
        count = 512 if options.quick else targets.COUNT
        rows = {
            name: [
                targets.measure(
                    name, s, folder, options.steps, options.teacher_steps, count, compared=options.rivals
                )
                for s in seeds
            ]
            for name in options.targets
        }
        say("targets", rows)
    if "cost" in options.parts:
        say("cost", {d: [row] for d, row in cost.measure().items()})


def by_dimension(measured: list[dict[str, list[float]]]) -> dict[str, list[dict[str, float]]]:
    """Rows of all problems by dimension, and one with the number of evidences within three errors."""
    rows: dict[str, list[dict[str, float]]] = {}
    for table in measured:
        names = [name for name in table if name != "dimension"]
        for place, d in enumerate(table["dimension"]):
            rows.setdefault(f"{d:.0f}", []).append({name: table[name][place] for name in names})
    every = [row for own in rows.values() for row in own]
    within = sum(row["evidence"] <= 3.0 for row in every)
    rows[f"all; {within} of {len(every)} log evidences within three standard errors"] = every
    return rows


if __name__ == "__main__":
    main()
