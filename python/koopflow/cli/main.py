"""The ``koopflow`` command: which command runs, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..exceptions import (
    ArgumentError,
    CheckpointError,
    DeviceError,
    DtypeError,
    KoopflowError,
    NonFiniteError,
    ShapeError,
)
from . import demo, distill, evaluate, sample, spectrum, train_teacher, versions
from .command import Parser
from .errors import FAILURE, INTERRUPTED, USAGE_ERROR, Stopped, UsageError

# What koopflow says of an option, a file or data that a person gave.
_USAGE = (
    UsageError,
    ArgumentError,
    CheckpointError,
    DeviceError,
    DtypeError,
    NonFiniteError,
    ShapeError,
    FileNotFoundError,
)


def parser() -> Parser:
    """The command line."""
    root = Parser(
        prog="koopflow",
        description="One-step, interpretable sampling of flow-matching models by Koopman operators.",
    )
    commands = root.add_subparsers(dest="command", metavar="command", required=True)
    for module in (train_teacher, distill, sample, spectrum, evaluate):
        module.command().add_to(commands)
    demo.add_to(commands)
    versions.add_to(commands)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    2 for a wrong argument, key or file, 1 for a failure, 130 after Ctrl-C; each says why in one line on
    standard error.
    """
    options = parser().parse_args(arguments)
    name = f"koopflow {options.command}"
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:
        return _fail("koopflow: interrupted", INTERRUPTED)
    except Stopped as stopped:
        return _fail(f"{name}: {stopped}", INTERRUPTED)
    except OverflowError as error:
        return _fail(f"{name}: error: a number is out of its range: {error}", USAGE_ERROR)
    except _USAGE as error:
        return _fail(f"{name}: error: {error}", USAGE_ERROR)
    except (KoopflowError, OSError) as error:
        return _fail(f"{name}: error: {error}", FAILURE)
    return code


def _fail(message: str, code: int) -> int:
    # One line, whatever the message is made of.
    print(" ".join(message.split()), file=sys.stderr)
    return code
