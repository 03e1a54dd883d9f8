"""The ``koopflow`` command: which command runs, and how it ends."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from .._versions import show_versions
from ..distributed import join, launched
from ..exceptions import KoopflowError, TeacherError
from ..options import nearest
from .demo import demo
from .export import export
from .flow import flow_spectrum
from .forecast import forecast
from .models import compare, evaluate, invert, sample, spectrum
from .options import Settings, Stopped, UsageError, command
from .tilt import tilt
from .training import distill, train_teacher

# Exit codes besides 0.
USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130
# Commands that the ranks of torchrun share.
SHARED = ("train-teacher", "distill", "forecast")
# System errors that say nothing about the place that was given: a disk that fills up or breaks.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@command()
def versions(_: Settings) -> int:
    """Prints the versions of koopflow and of what it runs on."""
    show_versions()
    return 0


# Each command, and what the help says of it.
COMMANDS = {
    "train-teacher": (train_teacher, "train a flow-matching teacher on data"),
    "distill": (distill, "distil a teacher into a one-step student"),
    "sample": (sample, "draw samples of a student or a teacher"),
    "invert": (invert, "find what data came from, by a student's inverse"),
    "spectrum": (spectrum, "take a student's generator apart"),
    "flow-spectrum": (flow_spectrum, "read what the paths of a teacher or student determine"),
    "tilt": (tilt, "draw samples given an observation or an energy"),
    "forecast": (forecast, "fit a forecaster to observed sequences and forecast them"),
    "evaluate": (evaluate, "measure a student against its teacher and held-out data"),
    "compare": (compare, "compare ways to sample a teacher in few steps"),
    "export": (export, "write a student's one step as an ONNX file or a program of torch.export"),
    "demo": (demo, "train, distil and compare on two moons and handwritten digits"),
    "versions": (versions, "print what a bug report needs"),
}
HELP = f"""usage: koopflow COMMAND [options]

One-step, interpretable sampling of flow-matching models by Koopman operators.

commands:
{chr(10).join(f"  {name:<14} {words}" for name, (_, words) in COMMANDS.items())}

koopflow COMMAND --help lists the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    2 for a wrong argument, key or file, 1 for a failure, 130 after Ctrl-C; a line on standard error says why.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None or getattr(sys, stream).closed:
            # Services run without them; bars, warnings and other libraries all expect both.
            setattr(sys, stream, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    name, *rest = sys.argv[1:] if arguments is None else arguments or [""]
    code = 0
    try:
        code = _run(name, rest)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on, as in koopflow ... | head, and Python must not try to write what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(name: str, arguments: Sequence[str]) -> int:
    """Run the command of that name, and say in one line what ended it."""
    if name in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if name not in COMMANDS:
        said = f"no command {name!r}{nearest(name, COMMANDS)}" if name else "expected a command"
        _say(f"koopflow: error: {said} (see koopflow --help)")
        return USAGE_ERROR
    said, code = f"koopflow {name}: error: ", USAGE_ERROR
    try:
        chosen = COMMANDS[name][0]()
        settings = chosen.parse(arguments)
        with warnings.catch_warnings():
            # A command says itself that it was interrupted; any other warning is a line.
            warnings.filterwarnings("ignore", message="interrupted after", category=RuntimeWarning)
            warnings.showwarning = lambda message, *_, **__: _say(f"koopflow {name}: warning: {message}")
            if launched():
                if name not in SHARED:
                    raise UsageError(f"expected one process, as all but {', '.join(SHARED)}; got torchrun's")
                if not join().leads:
                    warnings.simplefilter("ignore")
            return chosen.run(settings)
    except KeyboardInterrupt:
        said, code = "koopflow: interrupted", INTERRUPTED
    except Stopped as stopped:
        said, code = f"koopflow {name}: {stopped}", INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        said += f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        code = FAILURE if error.errno in FULL else USAGE_ERROR
    except (UsageError, KoopflowError) as error:
        said += str(error)
        # What koopflow says of an option, a file or data that a person gave is a ValueError too.
        if not isinstance(error, UsageError | ValueError) or isinstance(error, TeacherError):
            code = FAILURE
    except (ImportError, MemoryError, RuntimeError) as error:
        # A package of an extra; NumPy and torch, where koopflow asked for more memory than there is.
        said += "out of memory: " * isinstance(error, MemoryError) + str(error).partition("\n")[0]
        code = FAILURE
    _say(said)
    return code


def _say(message: str) -> None:
    # One line, whatever the message is made of.
    print(" ".join(message.split()), file=sys.stderr)
