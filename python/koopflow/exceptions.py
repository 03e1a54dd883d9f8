"""The exceptions that koopflow raises, all subclasses of :class:`KoopflowError`."""

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
    """Base class of koopflow's exceptions. It is raised itself only for errors inside koopflow."""


class ArgumentError(KoopflowError, ValueError):
    """An argument is outside its range. The message names it, what was expected and what was got."""


class ShapeError(KoopflowError, ValueError):
    """An array has the wrong shape; the message names the argument and both shapes."""


class DtypeError(KoopflowError, TypeError, ValueError):
    """An array holds values of a type that koopflow cannot use there."""


class DeviceError(KoopflowError, ValueError):
    """A device is unknown or not on this machine, or an array is on the wrong device."""


class NonFiniteError(KoopflowError, ValueError):
    """An array holds NaN or infinite values."""


class TeacherError(KoopflowError, ValueError):
    """A teacher's velocity field failed, or returned something other than a velocity.

    An exception raised by the teacher's own code is the ``__cause__``.
    """


class SteeringError(KoopflowError, ValueError):
    """A function that scores samples failed, or did not return one number for each sample.

    An exception raised by the function itself is the ``__cause__``. ``found`` holds the samples that were
    made before the failure, or None.
    """

    found: Any = None


class CheckpointError(KoopflowError, ValueError):
    """A file is not a koopflow checkpoint (or, where one is expected, not a TorchScript module), is damaged,
    or was written by a newer version."""


class DatasetError(KoopflowError, ValueError):
    """A file of data has an unexpected format, is damaged, is empty or does not match another file."""


class NotFittedError(KoopflowError, ValueError, AttributeError):
    """A method that needs a fitted student or teacher was called before ``fit``."""


class OutOfMemoryError(KoopflowError, MemoryError):
    """The computer or the GPU ran out of memory. A smaller batch, or fewer samples at once, may fit."""


class DivergenceError(KoopflowError, RuntimeError):
    """A solver or a training run left the range of finite numbers."""


class DistributedError(KoopflowError, RuntimeError):
    """Another of the processes that share a fit ended, failed, does not respond, or got other arguments."""
