"""Progress events as TensorBoard scalars, through torch's own writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from os import PathLike, fspath
from typing import Any

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

    Raises :class:`~koopflow.exceptions.ArgumentError` when tensorboard, which is no dependency, is missing.

    Examples
    --------
    ::

        with TensorBoardLogger("runs/teacher") as logger:
            teacher.fit(data, callback=logger)
        student.fit(teacher, log_dir="runs/student")
    """

    def __init__(self, log_dir: str | PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            text = "TensorBoard's event files need a package that is not installed: pip install tensorboard"
            raise ArgumentError(f"log_dir: {text}") from error
        self._writer: Any = SummaryWriter(log_dir=fspath(log_dir), flush_secs=10)

    def __call__(self, event: ProgressEvent) -> None:
        """Write one event."""
        for name, value in event["values"].items():
            self._writer.add_scalar(f"{event['stage']}/{name}", value, event["step"])

    def close(self) -> None:
        """Write what is left and close the event file."""
        self._writer.close()

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
