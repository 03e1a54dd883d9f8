"""Output files: what is there already is not replaced unasked, and what cannot be written is said at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .errors import UsageError


def output_folder(given: str | None) -> Path:
    """The folder of ``--output``, made, and proven to be writable."""
    if given is None:
        raise UsageError("--output: expected a folder, got nothing")
    folder = Path(given)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output: expected a folder, got the file {folder}")
    make(folder)
    return folder


def make(folder: Path) -> None:
    """Make a folder and prove that it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--output: cannot write to {folder}: {error.strerror or error}") from error


def refuse_existing(paths: Iterable[Path], *, overwrite: bool, hint: str = "") -> None:
    """Raises ``UsageError`` where a result is there already."""
    there = [str(path) for path in paths if path.exists()]
    if there and not overwrite:
        raise UsageError(f"--output: {there[0]} is there already: --overwrite replaces it{hint}")


def input_file(given: str | None, flag: str, what: str) -> Path:
    """A file that has to be there."""
    if given is None:
        raise UsageError(f"{flag}: expected {what}, got nothing")
    path = Path(given)
    if not path.is_file():
        raise UsageError(f"{flag}: expected {what}, got {given!r}, where there is no file")
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a small file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path
