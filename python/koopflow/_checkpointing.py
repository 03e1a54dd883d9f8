"""Files that a training writes while it goes on."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any

from .exceptions import ArgumentError


def checkpointing(
    checkpoint: str | PathLike[str] | None,
    every: int | None,
    minutes: float | None,
    resume: str | PathLike[str] | None,
) -> dict[str, Any]:
    """Arguments of the core that say when training writes its state, and where it goes on from.

    Raises ``ArgumentError`` for times without a file or that are not positive, and whatever
    :func:`check_place` does: better now than after the first hour.
    """
    if checkpoint is None and not (every is None and minutes is None):
        raise ArgumentError("checkpoint: expected a file, since it is to be written regularly, got None")
    if not (every is None or every >= 1):
        raise ArgumentError(f"checkpoint_every: expected at least 1, got {every}")
    if not (minutes is None or minutes > 0):
        raise ArgumentError(f"checkpoint_minutes: expected a positive number, got {minutes}")
    if checkpoint is not None:
        check_place("checkpoint", checkpoint)
    return {
        "checkpoint": None if checkpoint is None else fspath(checkpoint),
        "checkpoint_every": every,
        "checkpoint_seconds": None if minutes is None else 60.0 * minutes,
        "resume": None if resume is None else fspath(resume),
    }


def check_place(argument: str, file: str | PathLike[str]) -> None:
    """Whether a file can be there at all. Raises ``FileNotFoundError`` or ``ArgumentError`` if not."""
    path = Path(file)
    if path.is_dir():
        raise ArgumentError(f"{argument}: expected a file, got the folder {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{argument}: no folder {str(path.parent)!r} for {path.name!r}")
