"""Arrays in NPY files, and in the NPZ archives of them: described first, read when they are wanted."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..exceptions import DatasetError, DtypeError

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Stored:
    """An array in a file, of which only the header has been read."""

    file: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int

    def __str__(self) -> str:
        return str(self.file) if self.member is None else f"{self.file}, array {self.member!r}"

    def read(self) -> NDArray[Any]:
        with _opened(self.file, self.member) as (handle, _):
            handle.read(self.start)
            content = handle.read(prod(self.shape) * self.dtype.itemsize)
        return np.frombuffer(content, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


def stored_in(file: Path, member: str | None) -> Stored:
    """The array that a file says it holds, if the file is as long as that says."""
    name = str(file) if member is None else f"{file}, array {member!r}"
    try:
        with _opened(file, member) as (handle, size):
            version = np.lib.format.read_magic(handle)
            if version not in HEADERS:
                raise DatasetError(f"{name}: expected NPY version 1 or 2, got {version}")
            shape, fortran, dtype = HEADERS[version](handle)
            start = handle.tell()
    except DatasetError:
        raise
    # NumPy passes on what the tokenizer says of a header from Python 2.
    except (ValueError, SyntaxError, tokenize.TokenError) as error:
        raise DatasetError(f"{name}: expected an NPY file, got something else ({error})") from error
    if dtype.hasobject:
        raise DtypeError(f"{name}: expected numbers, got pickled Python objects ({dtype})")
    expected, got = prod(shape) * dtype.itemsize, size - start
    if any(length < 0 for length in shape):
        raise DatasetError(f"{name}: expected lengths of at least 0, got the shape {shape}")
    if got != expected:
        problem = "the file is cut off" if got < expected else "the file goes on"
        raise DatasetError(f"{name}: expected {expected} bytes of {dtype} {shape}, got {got}: {problem}")
    return Stored(file, member, shape, dtype, fortran, start)


@contextmanager
def _opened(file: Path, member: str | None) -> Iterator[tuple[IO[bytes], int]]:
    """An NPY file, or one in an NPZ file, and its length."""
    if member is None:
        with file.open("rb") as handle:
            yield handle, file.stat().st_size
        return
    try:
        with zipfile.ZipFile(file) as archive:
            info = archive.getinfo(f"{member}.npy")
            with archive.open(info) as packed:
                yield packed, info.file_size
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DatasetError(
            f"{file}, array {member!r}: expected a whole archive, got a damaged one ({error})"
        ) from error
