"""The exceptions that koopflow raises, all of them :class:`KoopflowError`."""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DatasetError",
    "DeviceError",
    "DistributedError",
    "DivergenceError",
    "DtypeError",
    "KoopflowError",
    "NonFiniteError",
    "NotFittedError",
    "OutOfMemoryError",
    "ShapeError",
    "SteeringError",
    "TeacherError",
]


class KoopflowError(Exception):
    """The root of koopflow's exceptions; raised itself for what should never happen."""


class ArgumentError(KoopflowError, ValueError):
    """An argument is outside its range; the message names it, what was got and what was expected."""


class ShapeError(KoopflowError, ValueError):
    """An array has the wrong shape; the message names the argument and both shapes."""


class DtypeError(KoopflowError, TypeError, ValueError):
    """An array holds values of a type that koopflow cannot use there."""


class DeviceError(KoopflowError, ValueError):
    """A device is unknown, is not on this machine, or does not hold the array that it should."""


class NonFiniteError(KoopflowError, ValueError):
    """An array holds NaN or infinite values."""


class TeacherError(KoopflowError, ValueError):
    """A teacher's velocity field failed or answered with something else than a velocity.

    The exception that the teacher's own code raised, if any, is the ``__cause__``.
    """


class SteeringError(KoopflowError, ValueError):
    """A function that says what is asked of samples failed, or answered with something else than a number for
    each.

    The exception that it raised itself, if any, is the ``__cause__``; ``found`` holds the samples that were
    made before, or None.
    """

    found: Any = None


class CheckpointError(KoopflowError, ValueError):
    """A file is not a koopflow checkpoint (or a TorchScript module, if that is asked for), is damaged, or
    was written by a newer version."""


class DatasetError(KoopflowError, ValueError):
    """A file of data is not what it should be, is damaged, is empty or does not go with another."""


class NotFittedError(KoopflowError, ValueError, AttributeError):
    """A method that needs a fitted student or teacher was called before ``fit``."""


class OutOfMemoryError(KoopflowError, MemoryError):
    """Memory ran out, the computer's or the GPU's; a smaller batch, or fewer samples at once, may fit."""


class DivergenceError(KoopflowError, RuntimeError):
    """A solver or a training run left the range of finite numbers."""


class DistributedError(KoopflowError, RuntimeError):
    """Another of the processes that share a fit is gone, failed, does not answer, or was given something
    else."""
