"""CIFAR-10 in its binary version: records of a label and 3 x 32 x 32 bytes."""

from __future__ import annotations

import errno
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..exceptions import ArgumentError, DatasetError
from ._files import existing_folder
from .pixels import Images, Labels, from_uint8

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
CLASSES = 10
FILES = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
NESTED = "cifar-10-batches-bin"


def cifar10(folder: str | PathLike[str], *, split: str = "train") -> tuple[Images, Labels]:
    """CIFAR-10 from the files of its binary version; nothing is downloaded.

    Parameters
    ----------
    folder : path
        Holds ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, or those of the split that
        is asked for, itself or in ``cifar-10-batches-bin``.
    split : {"train", "test"}, default "train"
        50,000 images or 10,000.

    Returns
    -------
    images : array, ``[N, 3, 32, 32]``, float32
        Scaled from [0, 255] to [-1, 1].
    labels : array, ``[N]``, int64
        0 airplane, 1 automobile, 2 bird, 3 cat, 4 deer, 5 dog, 6 frog, 7 horse, 8 ship, 9 truck.

    Raises
    ------
    FileNotFoundError
        When the folder or one of the files is not there.
    ArgumentError
        When ``split`` is another word or ``folder`` is a file.
    DatasetError
        When a file is empty, is not a whole number of records, or has labels beyond 9.
    """
    return _read_split(existing_folder(folder), split)


def recognises(place: Path) -> bool:
    """Whether a file, or a folder, is of this format."""
    if place.is_dir():
        names = [name for files in FILES.values() for name in files]
        return any((_home(place) / name).is_file() for name in names)
    return place.suffix == ".bin"


def read_any(place: Path, split: str | None) -> tuple[Images, Labels]:
    """Of a folder a split; a file whole."""
    if place.is_dir():
        return _read_split(place, split or "train")
    if split is not None:
        raise ArgumentError(f"split: expected None, since {place} is one file, got {split!r}")
    return _decode([_records(place)])


def _read_split(folder: Path, split: str) -> tuple[Images, Labels]:
    if split not in FILES:
        raise ArgumentError(f"split: expected 'train' or 'test', got {split!r}")
    home = _home(folder)
    for name in FILES[split]:
        if not (home / name).is_file():
            pickled = (home / name).with_suffix("").exists() or (folder / "cifar-10-batches-py").exists()
            hint = " (only the Python version of CIFAR-10: the binary one is needed)" if pickled else ""
            raise FileNotFoundError(errno.ENOENT, f"no such file{hint}", str(home / name))
    return _decode([_records(home / name) for name in FILES[split]])


def _home(folder: Path) -> Path:
    return folder / NESTED if (folder / NESTED).is_dir() else folder


def _records(path: Path) -> NDArray[np.uint8]:
    """``[N, 3073]``."""
    content = path.read_bytes()
    if not content:
        raise DatasetError(f"{path}: expected at least one image, got an empty file")
    whole, rest = divmod(len(content), RECORD)
    if rest:
        raise DatasetError(
            f"{path}: expected records of {RECORD} bytes, got {whole} of them and {rest} bytes more"
        )
    records = np.frombuffer(content, np.uint8).reshape(whole, RECORD)
    wrong = np.flatnonzero(records[:, 0] >= CLASSES)
    if len(wrong):
        first = int(wrong[0])
        raise DatasetError(f"{path}: expected labels of 0 to 9, got {records[first, 0]} in record {first}")
    return records


def _decode(batches: list[NDArray[np.uint8]]) -> tuple[Images, Labels]:
    records = np.concatenate(batches)
    return from_uint8(records[:, 1:].reshape(-1, *SHAPE)), records[:, 0].astype(np.int64)
