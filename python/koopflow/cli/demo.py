"""``koopflow demo``: everything at once on two small data sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .errors import UsageError


def add_to(commands: Any) -> None:
    """Add the command to subparsers."""
    demo = commands.add_parser(
        "demo",
        help="train, distil and compare on two moons and handwritten digits",
        description=(
            "Trains a flow-matching teacher on two moons and on handwritten digits, distils each "
            "into a Koopman student, and writes a table (also as JSON) and pictures: how close the "
            "student's one-step samples come to its teacher's and to held-out data, and at what cost. "
            "Training is bounded in time, so numbers vary from machine to machine."
        ),
    )
    demo.add_argument(
        "--quick",
        action="store_true",
        help="shorter training, for a first look (under 90 seconds on 2 cores)",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("koopflow-demo"),
        metavar="FOLDER",
        help="where table and pictures go (default: %(default)s)",
    )
    demo.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="fixes everything random (default: %(default)s)"
    )
    demo.add_argument(
        "--device", default="cpu", metavar="NAME", help="cpu, cuda, cuda:N or auto (default: %(default)s)"
    )
    demo.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from .. import demo

    try:
        demo.run(demo.DemoOptions(options.quick, options.output, options.seed, options.device))
    except demo.OutputError as error:
        raise UsageError(str(error)) from error
    return 0


def _seed(text: str) -> int:
    value = int(text) if text.isdigit() else -1
    if not 0 <= value < 2**62:
        raise argparse.ArgumentTypeError(f"expected a non-negative integer, got {text!r}")
    return value
