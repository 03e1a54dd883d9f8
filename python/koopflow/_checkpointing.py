"""Checks of the files that training writes while it runs."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from typing import Any

from . import _core
from ._arrays import StrOrBytesPath, as_integer, as_number, as_path
from .exceptions import ArgumentError, CheckpointError

# Description of a file that koopflow did not write.
OTHER = "something else"


def checkpointing(
    kind: str,
    checkpoint: StrOrBytesPath | None,
    every: int | None,
    minutes: float | None,
    resume: StrOrBytesPath | None,
) -> dict[str, Any]:
    """Arguments of the core for writing the state of a training of ``kind`` and for resuming it.

    They are checked before training begins. Raises ``ArgumentError`` for times without a file or that are not
    positive, and the errors of :func:`check_place`.
    """
    if checkpoint is None and not (every is None and minutes is None):
        raise ArgumentError("checkpoint: expected a file, since it is to be written regularly, got None")
    if every is not None:
        every = as_integer(every, "checkpoint_every", least=1)
    if minutes is not None:
        positive = "a positive number"
        minutes = as_number(minutes, "checkpoint_minutes", positive, lambda value: 0 < value < math.inf)
    return {
        "checkpoint": check_place("checkpoint", checkpoint, kind),
        "checkpoint_every": every,
        "checkpoint_seconds": None if minutes is None else 60.0 * minutes,
        "resume": None if resume is None else as_path(resume, "resume"),
    }


def check_place(argument: str, file: StrOrBytesPath | None, kind: str, *, reads: bool = False) -> str | None:
    """The path of a file, as text, after a check that it can be written.

    With ``reads``, an existing file will only be read; otherwise it may be replaced if it is of ``kind`` or
    empty. Raises ``ArgumentError`` for something that is not a path, a folder, or a file of another kind.
    Raises the system's ``OSError``, such as ``FileNotFoundError``, if the file cannot be created. All
    messages name the argument.
    """
    if file is None:
        return None
    path = as_path(file, argument)
    if os.path.isdir(path):
        raise ArgumentError(f"{argument}: expected a file, got the folder {path!r}")
    if reads and os.path.exists(path):
        return path
    # Through a symbolic link the target is written, by way of a new file in the target's folder.
    folder, name = os.path.split(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{argument}: no folder {folder!r} for {name!r}")
    try:
        with contextlib.suppress(FileNotFoundError):
            # This fails for a name that is too long.
            os.stat(path)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, f"{argument}: {error.strerror}", path) from error
    found = kind_of(path)
    if found not in (None, kind):
        raise ArgumentError(f"{argument}: expected a new file or one of {kind}, got {path!r} of {found}")
    return path


def kind_of(path: str) -> str | None:
    """What a file holds, for instance ``"a student"``; None for a missing or empty file."""
    try:
        kind = _core.describe_file(path)[0] if os.path.getsize(path) else None
    except FileNotFoundError:
        return None
    except CheckpointError:
        return OTHER
    return kind if kind in (None, "trajectories") else f"a {kind}"


def check_apart(**files: str | None) -> None:
    """Raise ``ArgumentError``, which names both arguments, if two of the files are the same."""
    places: dict[str, str] = {}
    for argument, path in files.items():
        other = places.setdefault(os.path.realpath(path), argument) if path else argument
        if other != argument:
            raise ArgumentError(f"{argument}: expected another file than that of {other}, got {path!r}")
