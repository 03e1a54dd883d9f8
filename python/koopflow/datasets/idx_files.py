"""IDX files: the format of MNIST, Fashion-MNIST and their kin."""

from __future__ import annotations

import errno
import struct
from math import prod
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..exceptions import ArgumentError, DatasetError, DtypeError
from ._files import check_count, existing, existing_folder, read
from .pixels import Images, Labels, from_uint8

# By the third byte of the magic number; the fourth is the number of dimensions.
DTYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
PREFIXES = {"train": "train", "test": "t10k"}


def idx(
    images: str | PathLike[str], labels: str | PathLike[str] | None = None
) -> tuple[Images, Labels | None]:
    """Images, and their labels, of IDX files.

    Parameters
    ----------
    images : path
        A file of unsigned bytes in three dimensions (``train-images-idx3-ubyte``), gzipped or not.
    labels : path, optional
        One of unsigned bytes in one dimension (``train-labels-idx1-ubyte``).

    Returns
    -------
    images : array, ``[N, 1, H, W]``, float32
        Scaled from [0, 255] to [-1, 1].
    labels : array, ``[N]``, int64, or None
        None where no file of labels was given.

    Raises
    ------
    FileNotFoundError
        When a file is not there.
    DatasetError
        When a file is no IDX file, has another number of dimensions, is empty, too short, too long or a
        damaged gzip file, or when there are not as many labels as images.
    DtypeError
        When a file holds something else than unsigned bytes.
    """
    pixels = _read(existing(images), 3)
    if labels is None:
        return from_uint8(pixels[:, None]), None
    numbers = _read(existing(labels), 1)
    check_count(Path(labels), len(numbers), len(pixels), images)
    return from_uint8(pixels[:, None]), numbers.astype(np.int64)


def mnist(folder: str | PathLike[str], *, split: str = "train") -> tuple[Images, Labels]:
    """MNIST from the four files that it is published in; nothing is downloaded.

    Parameters
    ----------
    folder : path
        Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
        ``t10k-labels-idx1-ubyte``, or those of the split that is asked for; gzipped (``.gz``) or not, also
        as ``train-images.idx3-ubyte``. torchvision's root folder will do as well.
    split : {"train", "test"}, default "train"
        60,000 images or 10,000.

    Returns
    -------
    images : array, ``[N, 1, 28, 28]``, float32
        In [-1, 1], white on black.
    labels : array, ``[N]``, int64
        The digit that each image shows.

    Raises
    ------
    FileNotFoundError
        When the folder or one of the two files is not there.
    ArgumentError
        When ``split`` is another word or ``folder`` is a file.
    DatasetError, DtypeError
        As :func:`idx`.
    """
    return _labelled(existing_folder(folder), split, "MNIST/raw")


def fashion_mnist(folder: str | PathLike[str], *, split: str = "train") -> tuple[Images, Labels]:
    """Fashion-MNIST, whose files are named and laid out like those of MNIST; nothing is downloaded.

    Parameters
    ----------
    folder : path
        As for :func:`mnist`: the two data sets must lie in different folders.
    split : {"train", "test"}, default "train"
        60,000 images or 10,000.

    Returns
    -------
    images : array, ``[N, 1, 28, 28]``, float32
        In [-1, 1], light clothes on black.
    labels : array, ``[N]``, int64
        0 T-shirt, 1 trousers, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 boot.

    Raises
    ------
    FileNotFoundError, ArgumentError, DatasetError, DtypeError
        As :func:`mnist`.
    """
    return _labelled(existing_folder(folder), split, "FashionMNIST/raw")


def recognises(place: Path) -> bool:
    """Whether a file, or a folder, is of this format."""
    if place.is_dir():
        return any(_find(place, prefix, "images", "raw") for prefix in PREFIXES.values())
    magic = read(place, 4)
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in DTYPES


def read_any(place: Path, split: str | None) -> tuple[Images, Labels | None]:
    """Of a folder a split; of a file its images, and the labels that lie beside it under their usual name."""
    if place.is_dir():
        return _labelled(place, split or "train", "raw")
    if split is not None:
        raise ArgumentError(f"split: expected None, since {place} is one file, got {split!r}")
    beside = place.with_name(place.name.replace("images", "labels").replace("idx3", "idx1"))
    return idx(place, beside if beside != place and beside.exists() else None)


def _labelled(folder: Path, split: str, nested: str) -> tuple[Images, Labels]:
    if split not in PREFIXES:
        raise ArgumentError(f"split: expected 'train' or 'test', got {split!r}")
    images, labels = (
        _find(folder, PREFIXES[split], what, nested) or _missing(folder, PREFIXES[split], what)
        for what in ("images", "labels")
    )
    pixels, numbers = idx(images, labels)
    assert numbers is not None
    return pixels, numbers


def _find(folder: Path, prefix: str, what: str, nested: str) -> Path | None:
    dimensions = {"images": 3, "labels": 1}[what]
    for place in (folder, folder / nested):
        for joint in "-.":
            for packed in ("", ".gz"):
                file = place / f"{prefix}-{what}{joint}idx{dimensions}-ubyte{packed}"
                if file.is_file():
                    return file
    return None


def _missing(folder: Path, prefix: str, what: str) -> Path:
    name = f"{prefix}-{what}-idx{ {'images': 3, 'labels': 1}[what] }-ubyte"
    raise FileNotFoundError(errno.ENOENT, "no such file, gzipped or not", str(folder / name))


def _read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Bytes of the shape that the header says."""
    if path.is_dir():
        raise ArgumentError(f"{path}: expected an IDX file, got a folder")
    content = read(path)
    header = 4 + 4 * dimensions
    expected = f"an IDX file of unsigned bytes, magic number 0x0000080{dimensions}"
    if len(content) < 4:
        raise DatasetError(f"{path}: expected {expected}, got {len(content)} bytes")
    zeros, dtype, ndim = struct.unpack(">HBB", content[:4])
    if zeros == 0 and dtype in DTYPES and dtype != 8:
        raise DtypeError(f"{path}: expected {expected}, got {DTYPES[dtype]}")
    if (zeros, dtype, ndim) != (0, 8, dimensions):
        raise DatasetError(f"{path}: expected {expected}, got 0x{content[:4].hex()}")
    if len(content) < header:
        raise DatasetError(f"{path}: expected a header of {header} bytes, got {len(content)}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if 0 in shape:
        raise DatasetError(f"{path}: expected at least one image or label, got the shape {shape}")
    length, got = prod(shape), len(content) - header
    if got != length:
        problem = "the file is cut off" if got < length else "the file goes on"
        raise DatasetError(f"{path}: expected {length} bytes for shape {shape}, got {got}: {problem}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
