"""Comparison of koopflow's students with alternative methods: the tables of docs/results.md.

    python -m experiments.compare --output runs/plane           # two-dimensional sets: 20 minutes on 2 cores
    python -m experiments.compare minute --output runs/minute   # a minute for each student: 15 minutes
    python -m experiments.compare digits --output runs/digits   # two minutes for each student: 20 minutes
    python -m experiments.compare images --output runs/images   # U-Nets on digits of 16x16 pixels
    python -m experiments.compare --quick --output runs/quick   # two minutes
    python -m experiments.compare --problems files:data/mnist/ot --seconds 1800 --output runs/mnist

A table name stands for a set of settings; each option replaces one of them. Finished parts are kept in the
folder, and a second call continues with the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from koopflow.exceptions import ArgumentError, DeviceError

from . import METHODS, claims, compare, write

QUICK: dict[str, Any] = {
    "problems": ["moons/ot", "checkerboard/independent"],
    "seconds": 2.0,
    "steps": None,
    "seeds": [0],
    "trajectories": 4096,
    "teacher_steps": 1500,
    "n": 500,
}
TABLES: dict[str, dict[str, Any]] = {
    # The defaults of compare().
    "plane": {},
    "minute": {
        "problems": ["eight_gaussians/independent", "checkerboard/vp", "moons/ot", "swiss_roll/ot"],
        "methods": [
            "straight line",
            "Euler, 4 steps",
            "Euler, 20 steps",
            "AB2, 4 steps",
            "koopflow",
            "koopflow, 2 segments",
            "plain network",
            "mean velocity",
        ],
        "seconds": 60.0,
        "steps": None,
        "trajectories": 65_536,
        "seeds": [0],
    },
    "digits": {
        "problems": ["digits/ot"],
        "methods": [name for name, method in METHODS.items() if not method.straightened | method.images_only],
        "seconds": 120.0,
        "steps": 4000,
        "trajectories": 131_072,
        "n": 500,
        "seeds": [0],
    },
    "images": {
        "problems": ["digits16/ot"],
        "methods": ["dopri5", "Euler, 4 steps", "Euler, 20 steps", "hierarchical", "U-Net pixels"],
        "seconds": 300.0,
        "steps": None,
        "trajectories": 4096,
        "teacher_steps": 1500,
        "seeds": [0],
        "n": 500,
    },
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, write; the exit code is 2 for wrong options and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", nargs="?", choices=TABLES, default="plane")
    parser.add_argument("--quick", action="store_true", help="two small problems, one seed")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables and figures")
    parser.add_argument("--fresh", action="store_true", help="ignore finished parts in that folder")
    parser.add_argument("--problems", nargs="+", help="data set/teacher, such as moons/ot")
    parser.add_argument("--methods", nargs="+", help=f"names among {', '.join(METHODS)}")
    parser.add_argument("--seconds", type=float, help="training time of each student; 0 leaves it out")
    parser.add_argument("--steps", type=int, help="training steps in the second comparison; 0 leaves it out")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--trajectories", type=int, help="number of the teacher's trajectories")
    parser.add_argument("--teacher-steps", type=int, help="training steps of the teachers")
    parser.add_argument("--n", type=int, help="number of noise samples of an evaluation")
    parser.add_argument("--device", help="device of teachers and students")
    options = vars(parser.parse_args(arguments))
    output, fresh = options.pop("output"), options.pop("fresh")
    settings = {**TABLES[options.pop("table")], **(QUICK if options.pop("quick") else {})}
    settings |= {name: value for name, value in options.items() if value is not None}
    for budget in ("seconds", "steps"):
        if settings.get(budget) == 0:
            settings[budget] = None
    try:
        table = compare(**settings, output=output, resume=not fresh)
    except (ArgumentError, DeviceError) as error:
        parser.error(str(error))
    for file in write(table, output) if len(table) else []:
        print(f"wrote {file}")
    for claim in claims(table):
        print(claim)
    return 130 if table.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
