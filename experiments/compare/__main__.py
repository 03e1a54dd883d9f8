"""``python -m experiments.compare``: koopflow's students and what a user would pick in their place."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from koopflow.exceptions import ArgumentError, DeviceError

from . import claims, compare, write
from .report import CSV, JSON, MARKDOWN

# Two minutes on two cores: whether it runs, and the order of the numbers.
QUICK = {
    "problems": ["moons/ot", "checkerboard/independent"],
    "seconds": 2.0,
    "steps": None,
    "seeds": [0],
    "trajectories": 4096,
    "teacher_steps": 1500,
    "n": 500,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, write; 2 for wrong options, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m experiments.compare", description=compare.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("problems", nargs="*", default=argparse.SUPPRESS, help="set/teacher, as in moons/ot")
    add("--output", type=Path, required=True, help="folder for tables, pictures and parts")
    add("--methods", nargs="+", default=argparse.SUPPRESS, metavar="NAME")
    add("--seconds", type=float, default=argparse.SUPPRESS)
    add("--seeds", type=int, nargs="+", default=argparse.SUPPRESS)
    for name in ("steps", "trajectories", "teacher-steps", "n"):
        add(f"--{name}", type=int, default=argparse.SUPPRESS)
    add("--device", default="cpu")
    add("--quick", action="store_true", help="two small problems, one seed")
    add("--resume", action="store_true", help="go on with the parts in the folder")
    add("--overwrite", action="store_true", help="replace results that are there")
    options = vars(parser.parse_args(arguments))
    quick, overwrite = options.pop("quick"), options.pop("overwrite")
    folder: Path = options["output"]
    if not options.get("problems"):
        options.pop("problems", None)
    there = [str(folder / name) for name in (CSV, JSON, MARKDOWN, "parts") if (folder / name).exists()]
    if there and not (options["resume"] or overwrite):
        parser.error(f"{there[0]} is there already: --overwrite replaces it, --resume goes on with it")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="interrupted after", category=RuntimeWarning)
            table = compare(**{**(QUICK if quick else {}), **options})
    except (ArgumentError, DeviceError) as error:
        parser.error(str(error))
    if len(table):
        for file in write(table, folder):
            print(f"wrote {file}")
        for claim in claims(table):
            print(claim)
    if table.interrupted or not len(table):
        print(f"stopped early; --resume goes on with the parts in {folder}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
