"""The ``koopflow`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = _Parser(
        prog="koopflow",
        description="One-step, interpretable sampling of flow-matching models by Koopman operators.",
    )
    commands = root.add_subparsers(dest="command", metavar="command", required=True)
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
    commands.add_parser(
        "versions",
        help="print what a bug report needs",
        description="Prints the versions of koopflow and of what it runs on.",
    )
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    2 for a wrong argument or an unwritable folder, 1 for a failure, 130 after Ctrl-C; each says why in one
    line on standard error.
    """
    options = parser().parse_args(arguments)
    # Heavy imports wait until the arguments are known to be right.
    from .exceptions import DeviceError, KoopflowError

    try:
        if options.command == "versions":
            from ._versions import show_versions

            show_versions()
            return 0
        from .demo import DemoOptions, OutputError, run

        try:
            run(DemoOptions(options.quick, options.output, options.seed, options.device))
        except (DeviceError, OutputError) as error:
            return _fail(f"koopflow demo: error: {error}", USAGE_ERROR)
        return 0
    except KeyboardInterrupt:
        return _fail("koopflow: interrupted", INTERRUPTED)
    except (KoopflowError, OSError) as error:
        return _fail(f"koopflow: error: {error}", FAILURE)


def _seed(text: str) -> int:
    value = int(text) if text.isdigit() else -1
    if not 0 <= value < 2**62:
        raise argparse.ArgumentTypeError(f"expected a non-negative integer, got {text!r}")
    return value


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
