"""Errors of populations at held-out and other snapshots: the tables of docs/populations.md.

    python -m experiments.benches.populations                     # two seeds, an hour of one slow core
    python -m experiments.benches.populations --problems toggle --seeds 0 --parts met
    python -m experiments.benches.populations --quick             # whether it runs

All errors are W1 to the rows of a snapshot, given with the W1 between two random halves of these rows. The
parts are:

- *held_out*: the middle one of five snapshots, by methods that are trained on the other four.
- *met*: all snapshots but the first, by teachers that are trained on all of them, and by their students.

SERGIO, which simulates ``branches``, and MIOFlow are installed in the folder ``--folder``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...environment import machine, versions
from ..flow_spectrum.tables import plain
from . import measure
from .problems import PROBLEMS

PARTS = ("held_out", "met")


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=2000, help="steps of teachers and of torchcfm's loop")
    parser.add_argument("--student-steps", type=int, default=1500, help="of students")
    parser.add_argument("--epochs", type=int, default=100, help="of MIOFlow")
    parser.add_argument("--folder", type=Path, default=Path("runs/populations"), help="for other libraries")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything")
    parser.add_argument("--output", type=Path, help="write every number as JSON")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.student_steps, options.epochs = 30, 30, 1
        options.seeds = options.seeds[:1]
    return options


def main() -> None:
    options = parsed()
    print(f"{versions()}, seeds {options.seeds}")
    results: dict[str, Any] = {"machine": machine(), "options": {k: str(v) for k, v in vars(options).items()}}
    for part in options.parts:
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in options.problems}
        for seed in options.seeds:
            for name in options.problems:
                if part == "held_out":
                    own = (options.steps, options.student_steps, options.epochs, options.folder)
                    rows[name].append(measure.held_out(name, seed, *own))
                else:
                    rows[name].append(
                        measure.met(name, seed, options.steps, options.student_steps, options.folder)
                    )
                print(part, name, seed, rows[name][-1], flush=True)
                results[part] = rows
                if options.output:
                    options.output.write_text(json.dumps(results, indent=2) + "\n")
        print(f"\n### {part}\n\n{plain(rows)}", flush=True)


if __name__ == "__main__":
    main()
