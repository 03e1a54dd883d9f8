"""Progress events as TensorBoard scalars, through torch's own writer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from typing import Any

from ._arrays import as_path
from .exceptions import ArgumentError
from .progress import ProgressEvent, ProgressFunction, ProgressMeter


class TensorBoardLogger(AbstractContextManager["TensorBoardLogger"]):
    """A callback that writes every value of every progress event as a TensorBoard scalar.

    The scalar ``student/endpoint_error`` is the value ``endpoint_error`` of the stage ``student``, at the
    event's step. Give it to any ``callback=``; ``KoopmanDistiller.fit(..., log_dir=...)`` makes and closes
    one itself. A context manager; what it holds is written when it is closed, or within ten seconds.

    Parameters
    ----------
    log_dir : path
        Folder of event files, which is made if it does not exist. One folder for each run keeps curves apart.

    Raises
    ------
    ArgumentError
        If the package tensorboard is missing. It is no dependency of koopflow.

    Examples
    --------
    ::

        with TensorBoardLogger("runs/teacher") as logger:
            teacher.fit(data, callback=logger)
        student.fit(teacher, log_dir="runs/student")
    """

    _failed = False

    def __init__(self, log_dir: str | PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            text = "TensorBoard's event files need a package that is not installed: pip install tensorboard"
            raise ArgumentError(f"log_dir: {text}") from error
        self._folder = as_path(log_dir, "log_dir")
        try:
            self._writer: Any = SummaryWriter(log_dir=self._folder, flush_secs=10)
        except OSError as error:
            raise OSError(error.errno, f"log_dir: {error.strerror}", self._folder) from error

    def __call__(self, event: ProgressEvent) -> None:
        """Write one event."""
        with self._going_on():
            for name, value in event["values"].items():
                self._writer.add_scalar(f"{event['stage']}/{name}", value, event["step"])

    def close(self) -> None:
        """Write what is left and close the event file."""
        with self._going_on():
            self._writer.close()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """A fit is worth more than its log: what can no longer be written is one warning."""
        try:
            yield
        except OSError as error:
            if not self._failed:
                self._failed = True
                text = f"log_dir: {self._folder} could not be written, its curves end here: {error}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)

    def __reduce__(self) -> tuple[Any, ...]:
        # In another process: an event file of its own in the same folder.
        return type(self), (self._folder,)

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def logged(
    log_dir: str | PathLike[str] | None, callback: ProgressFunction | None
) -> Iterator[ProgressFunction | None]:
    """A callback that logs to ``log_dir``, if any, and calls ``callback``, if any."""
    if log_dir is None:
        yield callback
        return
    with TensorBoardLogger(log_dir) as logger:
        yield ProgressMeter(progress=logger, callback=callback)
