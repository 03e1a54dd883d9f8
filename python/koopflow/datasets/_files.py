"""What the readers share: paths that must exist, folders, gzip."""

from __future__ import annotations

import errno
import gzip
import zlib
from os import PathLike, fspath
from pathlib import Path

from ..exceptions import ArgumentError, DatasetError

GZIP = b"\x1f\x8b"


def existing(path: str | PathLike[str]) -> Path:
    """The path, or FileNotFoundError."""
    place = Path(fspath(path))
    if not place.exists():
        raise FileNotFoundError(errno.ENOENT, "no such file or folder", str(place))
    return place


def existing_folder(path: str | PathLike[str]) -> Path:
    """The folder, FileNotFoundError, or an ArgumentError where it is a file."""
    place = existing(path)
    if not place.is_dir():
        raise ArgumentError(f"folder: expected a folder, got the file {place}")
    return place


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name; hidden files are nobody's data."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def read(path: Path, most: int = -1) -> bytes:
    """The content of a file, unpacked where it is gzipped: all of it, or ``most`` bytes."""
    with path.open("rb") as handle:
        packed = handle.read(2) == GZIP
        handle.seek(0)
        if not packed:
            return handle.read(most)
        try:
            with gzip.GzipFile(fileobj=handle) as unpacked:
                return unpacked.read(most)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DatasetError(f"{path}: expected a whole gzip file, got a damaged one ({error})") from error


def check_count(path: Path, labels: int, images: int, source: object) -> None:
    """As many labels as images, or a DatasetError."""
    if labels != images:
        raise DatasetError(f"{path}: expected {images} labels, one for each image of {source}, got {labels}")
