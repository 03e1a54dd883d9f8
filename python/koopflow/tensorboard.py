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
    event's step. Pass the logger as any ``callback=``. ``KoopmanDistiller.fit(..., log_dir=...)`` makes and
    closes one itself. The logger is a context manager; values are written within ten seconds, and when it is
    closed.

    Parameters
    ----------
    log_dir : path
        Folder of the event files, created if it does not exist. Use one folder for each run, so that
        TensorBoard shows the runs as separate curves.

    Raises
    ------
    ArgumentError
        If the package tensorboard is not installed. It is not a dependency of koopflow.

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
        """Write the remaining values and close the event file."""
        with self._going_on():
            self._writer.close()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """A context that turns the first error of writing into a warning, so that the fit goes on."""
        try:
            yield
        except OSError as error:
            if not self._failed:
                self._failed = True
                text = f"log_dir: {self._folder} could not be written, so its curves end here: {error}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickled in another process, the logger opens a second event file in the same folder.
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
