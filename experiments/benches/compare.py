"""koopflow beside what a user would pick in its place: the tables of docs/results.md.

    python benches/compare.py --output runs/plane             # two-dimensional sets, 20 minutes on 2 cores
    python benches/compare.py minute --output runs/minute     # a minute a student, few of them: 15 minutes
    python benches/compare.py digits --output runs/digits     # two minutes a student: 20 minutes
    python benches/compare.py images --output runs/images     # U-Nets on digits of 16x16 pixels
    python benches/compare.py --quick --output runs/quick     # two minutes

``koopflow compare`` is the same with every setting; this file says which settings the tables have. Parts that
are finished are kept in the folder, and a second call goes on with them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from experiments.compare import METHODS, claims, compare, write
from experiments.compare.__main__ import QUICK

TABLES: dict[str, dict[str, Any]] = {
    # What compare() does where nobody says otherwise.
    "plane": {},
    "minute": {
        "problems": ["eight_gaussians/independent", "checkerboard/vp", "moons/ot", "swiss_roll/ot"],
        "methods": [
            "straight line",
            "Euler, 4 steps",
            "Euler, 20 steps",
            "koopflow",
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", nargs="?", choices=TABLES, default="plane")
    parser.add_argument("--quick", action="store_true", help="two small problems, one seed")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    options = parser.parse_args()
    settings = dict(QUICK) if options.quick else dict(TABLES[options.table])
    if options.seeds:
        settings["seeds"] = options.seeds
    table = compare(**settings, device=options.device, output=options.output)
    for file in write(table, options.output):
        print(f"wrote {file}")
    for claim in claims(table):
        print(claim)


if __name__ == "__main__":
    main()
