"""The ``koopflow`` command: dispatch to its subcommands, exit codes and error messages."""

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
# Commands that run on several ranks of torchrun.
SHARED = ("train-teacher", "distill", "forecast")
# System errors that are not caused by the given path: a full or broken disk.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@command()
def versions(_: Settings) -> int:
    """Prints the versions of koopflow and of the packages and devices that it uses."""
    show_versions()
    return 0


# Each command, and its line in the help.
COMMANDS = {
    "train-teacher": (train_teacher, "train a flow-matching teacher on data"),
    "distill": (distill, "distil a teacher into a one-step student"),
    "sample": (sample, "draw samples from a student or a teacher"),
    "invert": (invert, "map data to noise by a student's inverse"),
    "spectrum": (spectrum, "list the modes of a student's generator"),
    "flow-spectrum": (flow_spectrum, "compute the spectrum of the flow of a teacher or student"),
    "tilt": (tilt, "draw samples given an observation or an energy"),
    "forecast": (forecast, "fit a forecaster to observed sequences and forecast them"),
    "evaluate": (evaluate, "measure a student against its teacher and held-out data"),
    "compare": (compare, "compare methods that sample a teacher in few steps"),
    "export": (export, "write a student's one-step map as an ONNX file or a program of torch.export"),
    "demo": (demo, "train, distil and compare on two moons and handwritten digits"),
    "versions": (versions, "print the versions that a bug report needs"),
}
HELP = f"""usage: koopflow COMMAND [options]

One-step, interpretable sampling of flow-matching models by Koopman operators.

commands:
{chr(10).join(f"  {name:<14} {words}" for name, (_, words) in COMMANDS.items())}

koopflow COMMAND --help lists the options of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    The code is 2 for a wrong argument, key or file, 1 for a failure and 130 after Ctrl-C. A line on standard
    error gives the reason.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None or getattr(sys, stream).closed:
            # Services may run without these streams, but bars, warnings and other libraries expect them.
            setattr(sys, stream, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    name, *rest = sys.argv[1:] if arguments is None else arguments or [""]
    code = 0
    try:
        code = _run(name, rest)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader is gone, as in koopflow ... | head. Python must not write the rest of its buffer at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(name: str, arguments: Sequence[str]) -> int:
    """Run the command of that name, and report errors in one line."""
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
            # Commands report interruptions themselves. Every other warning is printed as one line.
            warnings.filterwarnings("ignore", message="interrupted after", category=RuntimeWarning)
            warnings.showwarning = lambda message, *_, **__: _say(f"koopflow {name}: warning: {message}")
            if launched():
                if name not in SHARED:
                    raise UsageError(
                        f"expected one process, got ranks of torchrun, which only {', '.join(SHARED)} can use"
                    )
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
        # koopflow's errors about options, files and data of the user are ValueErrors as well.
        if not isinstance(error, UsageError | ValueError) or isinstance(error, TeacherError):
            code = FAILURE
    except (ImportError, MemoryError, RuntimeError) as error:
        # A missing optional package, or NumPy and torch when memory runs out.
        said += "out of memory: " * isinstance(error, MemoryError) + str(error).partition("\n")[0]
        code = FAILURE
    _say(said)
    return code


def _say(message: str) -> None:
    # The message may have line breaks.
    print(" ".join(message.split()), file=sys.stderr)
