"""What all cases share: imports, a student of a second, a teacher in closed form, and the line that each prints."""
import copy, io, os, pickle, sys, tempfile, threading, time, warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import numpy as np
import torch

import koopflow
from koopflow import FlowTeacher, KoopmanDistiller


def small(**options):
    """A student that trains in a second."""
    base = dict(observables=8, width=16, depth=1, steps=30, trajectories=256, path_steps=8)
    return KoopmanDistiller(**{**base, **options})


def gaussian(d=2):
    return FlowTeacher.gaussian(np.linspace(1.0, 2.0, d), np.diag(np.linspace(0.5, 1.5, d)))


def told(function):
    """The exception of a call, or None."""
    try:
        function()
    except Exception as error:
        return error
    return None


def text(error):
    return f"{type(error).__module__}.{type(error).__name__}: {str(error).splitlines()[0][:220] if str(error) else ''}"


def ours(error):
    return isinstance(error, koopflow.exceptions.KoopflowError)


def answer(main):
    """Prints what the case answers; an exception is a FAIL."""
    try:
        verdict = main()
    except BaseException as error:
        import traceback

        traceback.print_exc()
        verdict = f"FAIL unexpected {text(error)}"
    print(verdict, flush=True)
