"""Readers of images: MNIST and CIFAR-10, pictures, scikit-learn's digits, and one for all formats."""

from __future__ import annotations

import errno
import gzip
import os
import struct
import warnings
import zlib
from collections import Counter
from itertools import chain
from math import prod
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..exceptions import ArgumentError, DatasetError, DtypeError, ShapeError
from .arrays import arrays, checked_labels, existing, numpy_files, visible
from .pixels import Images, Labels, checked_size, from_uint8, resize

IDX_PREFIXES = {"train": "train", "test": "t10k"}
IDX_NAMES = {3: "images", 1: "labels"}
# Types of IDX files that are not unsigned bytes, by the third byte of the magic number.
IDX_DTYPES = {9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
DIGITS_SIDE = 8
CIFAR_SHAPE, CIFAR_CLASSES = (3, 32, 32), 10
CIFAR_FILES = {"train": [f"data_batch_{k}.bin" for k in range(1, 6)], "test": ["test_batch.bin"]}
# Options of :func:`images` that belong to one format.
OPTIONS = {"IDX": {"split"}, "CIFAR-10": {"split"}, "NumPy": {"layout", "limits"}, "picture": {"channels"}}
PICTURES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Endings of files other than pictures that are ignored without a warning.
NOTES = ("", ".csv", ".db", ".ini", ".json", ".md", ".txt", ".xml")


def images(
    path: str | PathLike[str],
    *,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    resample: str = "bicubic",
    layout: str | None = None,
    limits: tuple[float, float] | None = None,
    channels: int | None = None,
    labels: Literal[False] | None = None,
) -> tuple[Images, Labels | None]:
    """Read images, and labels if there are any, from a file or folder in any format of this package.

    IDX files and the folder of MNIST are read by :func:`idx` and :func:`mnist`; ``.bin`` files and the folder
    of CIFAR-10 by :func:`cifar10`; ``.npy`` and ``.npz`` files and folders of them by :func:`arrays`;
    pictures (PNG, JPEG ...) and folders of pictures or of classes by :func:`image_folder`.

    Parameters
    ----------
    path : path
        File or folder; nothing is downloaded.
    split : {"train", "test"}, optional
        Part of MNIST or CIFAR-10 that is read from a folder; None reads ``"train"``.
    size, resample, channels
        As in :func:`image_folder`; ``channels`` is for pictures only.
    layout, limits
        As in :func:`arrays`, for NumPy files only.
    labels : False, optional
        False reads images without labels.

    Raises
    ------
    DatasetError, ArgumentError
        If the format is unknown or there are several, or an option belongs to another format. The errors of
        the format's reader are raised too.
    """
    place = existing(path)
    recognisers = {"IDX": _is_idx, "CIFAR-10": _is_cifar, "NumPy": numpy_files, "picture": _is_picture}
    kinds = [name for name, recognises in recognisers.items() if recognises(place)]
    if len(kinds) != 1:
        got = f"{' and '.join(kinds)} files in the same folder" if kinds else _described(place)
        raise DatasetError(f"{place}: expected images of one format ({', '.join(recognisers)}), got {got}")
    [kind] = kinds
    given = {"split": split, "layout": layout, "limits": limits, "channels": channels}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() - OPTIONS[kind]:
        raise ArgumentError(f"{name}: expected None for {kind} files, got {options[name]!r}")
    if split is not None and not place.is_dir():
        raise ArgumentError(f"split: expected None, since {place} is one file, got {split!r}")
    if kind == "picture":
        # Pictures may differ in size, so they are resized one by one.
        pixels, found = image_folder(place, size=size, resample=resample, **options)
        return pixels, None if labels is False else found
    if kind == "NumPy":
        pixels, found = arrays(place, labels=labels, **options)
    elif kind == "CIFAR-10":
        pixels, found = cifar10(place, **options) if place.is_dir() else _cifar([place])
    elif place.is_dir():
        pixels, found = _mnist(place, "raw", **options)
    else:
        beside = place.with_name(place.name.replace("images", "labels").replace("idx3", "idx1"))
        pixels, found = idx(place, beside if beside != place and beside.exists() else None)
    if size is not None:
        pixels = resize(pixels, size, resample=resample)
    return pixels, None if labels is False else found


def _described(place: Path) -> str:
    if not place.is_dir():
        return f"{place.stat().st_size} bytes of something else"
    names = ", ".join(entry.name for entry in visible(place)[:4])
    return f"a folder with {names}" if names else "an empty folder"


def idx(
    images: str | PathLike[str], labels: str | PathLike[str] | None = None
) -> tuple[Images, Labels | None]:
    """Read images ``[N, 1, H, W]`` and their labels from IDX files of unsigned bytes, gzipped or not.

    ``images`` is a file such as ``train-images-idx3-ubyte``, and ``labels`` one such as
    ``train-labels-idx1-ubyte``. Raises ``DatasetError`` or ``DtypeError`` for a damaged file, for a file of
    another kind, shape, length or dtype, and if the numbers of images and labels differ.
    """
    pixels = from_uint8(_idx(existing(images), 3)[:, None])
    if labels is None:
        return pixels, None
    return pixels, checked_labels(str(labels), _idx(existing(labels), 1), len(pixels), images)


def mnist(folder: str | PathLike[str], *, split: str = "train") -> tuple[Images, Labels]:
    """Read the images ``[N, 1, 28, 28]``, white on black, and labels of MNIST from its published files.

    ``folder`` holds ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, or ``t10k-...`` for the test
    set. Names such as ``train-images.idx3-ubyte`` and gzipped files (``.gz``) are accepted too, and so is
    torchvision's root folder. ``split`` is ``"train"`` for the 60,000 training images or ``"test"`` for the
    10,000 test images. Raises the errors of :func:`idx`, ``FileNotFoundError`` for a missing file, and
    ``ArgumentError`` for any other ``split`` or a ``folder`` that is a file.
    """
    return _mnist(folder, "MNIST/raw", split)


def fashion_mnist(folder: str | PathLike[str], *, split: str = "train") -> tuple[Images, Labels]:
    """Read Fashion-MNIST, whose files have the names and the format of MNIST's: see :func:`mnist`.

    Labels: 0 T-shirt, 1 trousers, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 boot.
    """
    return _mnist(folder, "FashionMNIST/raw", split)


def _mnist(folder: str | PathLike[str], nested: str, split: str = "train") -> tuple[Images, Labels]:
    place, prefix = _part(folder, split, IDX_PREFIXES)
    images, labels = idx(*(_idx_file(place, prefix, ndim, nested) for ndim in IDX_NAMES))
    assert labels is not None
    return images, labels


def _idx_file(folder: Path, prefix: str, ndim: int, nested: str) -> Path:
    """The first existing file among the possible names, or the first name if there is none."""
    stem = f"{prefix}-{IDX_NAMES[ndim]}"
    names = [f"{stem}{joint}idx{ndim}-ubyte{packed}" for joint in "-." for packed in ("", ".gz")]
    places = [place / name for place in (folder, folder / nested) for name in names]
    return next((file for file in places if file.is_file()), places[0])


def _is_idx(place: Path) -> bool:
    if place.is_dir():
        return any(_idx_file(place, prefix, 3, "raw").is_file() for prefix in IDX_PREFIXES.values())
    magic = _content(place, 4)
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in (8, *IDX_DTYPES)


def _idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """The bytes of an IDX file, in the shape that its header gives."""
    if path.is_dir():
        raise ArgumentError(f"{path}: expected an IDX file, got a folder")
    content, header = _content(path), 4 + 4 * ndim
    magic = content[:4]
    if magic != bytes([0, 0, 8, ndim]):
        expected = f"{path}: expected an IDX file of unsigned bytes, magic number 0x0000080{ndim}"
        if len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in IDX_DTYPES:
            raise DtypeError(f"{expected}, got {IDX_DTYPES[magic[2]]}")
        raise DatasetError(f"{expected}, got {f'0x{magic.hex()}' if magic[3:] else f'{len(magic)} bytes'}")
    if len(content) < header:
        raise DatasetError(f"{path}: expected a header of {header} bytes, got {len(content)}")
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if 0 in shape:
        raise DatasetError(f"{path}: expected at least one image or label, got the shape {shape}")
    length, rest = prod(shape), len(content) - header
    if rest != length:
        problem = "the file is cut off" if rest < length else "the file goes on"
        raise DatasetError(f"{path}: expected {length} bytes for shape {shape}, got {rest}: {problem}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path, most: int = -1) -> bytes:
    """The bytes of a file, decompressed if it is gzipped: all of them, or the first ``most``."""
    with path.open("rb") as handle:
        if handle.peek(2)[:2] != b"\x1f\x8b":
            return handle.read(most)
        try:
            return gzip.GzipFile(fileobj=handle).read(most)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DatasetError(f"{path}: expected a whole gzip file, got a damaged one ({error})") from error


def cifar10(folder: str | PathLike[str], *, split: str = "train") -> tuple[Images, Labels]:
    """Read the images ``[N, 3, 32, 32]`` and labels of CIFAR-10 from the files of its binary version.

    Labels: 0 airplane, 1 automobile, 2 bird, 3 cat, 4 deer, 5 dog, 6 frog, 7 horse, 8 ship, 9 truck.
    ``folder`` holds ``data_batch_1.bin`` to ``data_batch_5.bin`` (50,000 images), or ``test_batch.bin``
    (10,000), or a folder ``cifar-10-batches-bin`` with these files. ``split`` and errors are those of
    :func:`mnist`.
    """
    place, names = _part(folder, split, CIFAR_FILES)
    files = [_cifar_home(place) / name for name in names]
    for file in files:
        if not file.is_file():
            pickled = file.with_suffix("").exists() or (place / "cifar-10-batches-py").exists()
            hint = " (only the Python version of CIFAR-10: the binary one is needed)" if pickled else ""
            raise FileNotFoundError(errno.ENOENT, f"no such file{hint}", str(file))
    return _cifar(files)


def _cifar_home(folder: Path) -> Path:
    nested = folder / "cifar-10-batches-bin"
    return nested if nested.is_dir() else folder


def _is_cifar(place: Path) -> bool:
    names = chain(*CIFAR_FILES.values())
    return place.suffix == ".bin" or any((_cifar_home(place) / name).is_file() for name in names)


def _cifar(files: list[Path]) -> tuple[Images, Labels]:
    """Records of a label and three colour planes."""
    length, batches = 1 + prod(CIFAR_SHAPE), []
    for file in files:
        content = np.fromfile(file, np.uint8)
        whole, rest = divmod(len(content), length)
        if rest or not whole:
            got = f"{whole} of them and {rest} bytes more" if len(content) else "an empty file"
            raise DatasetError(f"{file}: expected records of {length} bytes, got {got}")
        batches.append(content.reshape(whole, length))
        wrong = np.flatnonzero(batches[-1][:, 0] >= CIFAR_CLASSES)
        if len(wrong):
            got = f"{batches[-1][wrong[0], 0]} in record {wrong[0]}"
            raise DatasetError(f"{file}: expected labels of 0 to {CIFAR_CLASSES - 1}, got {got}")
    records = np.concatenate(batches)
    return from_uint8(records[:, 1:].reshape(-1, *CIFAR_SHAPE)), records[:, 0].astype(np.int64)


def image_folder(
    path: str | PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    resample: str = "bicubic",
    channels: int | None = None,
) -> tuple[Images, Labels | None]:
    """Read pictures ``[N, channels, H, W]`` from a folder, or from a folder of classes with their labels.

    It reads ``.png``, ``.jpg``, ``.jpeg``, ``.jfif``, ``.webp``, ``.bmp``, ``.tif``, ``.tiff`` and ``.gif``
    (the first frame). Pictures are rotated upright as their metadata say. One warning counts the
    files of other kinds; hidden files and text such as ``.txt`` or ``.json`` are ignored. Images are float32
    in [-1, 1]. Labels ``[N]``, int64, are the positions of the class folders in the sorted list of their
    names, or None without class folders.

    Parameters
    ----------
    path : path
        Folder of pictures, which are read in the order of their names; or folder of folders, one for each
        class, with pictures at any depth. A single picture works as well.
    size, resample
        As in :func:`resize`. Without ``size`` the pictures are not resized and must all have the same size.
    channels : {1, 3}, optional
        Number of channels that every picture is converted to: grey, or red, green and blue. None converts
        nothing; the pictures must be all grey or all in colour.

    Raises
    ------
    DatasetError, ShapeError, DtypeError
        If there are no pictures, a class has none, or pictures lie next to folders of pictures; for a file
        that is not a picture, is damaged or is transparent; for pictures of several sizes; and for more than
        8 bits per channel.
    """
    checked_size(1 if size is None else size, resample)
    if channels not in (None, 1, 3):
        raise ArgumentError(f"channels: expected 1, 3 or None, got {channels!r}")
    files, labels = _listed(existing(path))
    result = np.empty(0, np.float32)
    for index, file in enumerate(files):
        image = from_uint8(_pixels(file, channels)).transpose(2, 0, 1)
        if size is not None:
            image = resize(image[None], size, resample=resample)[0]
        if index == 0:
            result = np.empty((len(files), *image.shape), np.float32)
        if image.shape != result.shape[1:]:
            raise ShapeError(
                f"{file}: expected (channels, height, width) {result.shape[1:]} as of {files[0].name}, got "
                f"{image.shape}; size= makes images of one size, channels= of one kind"
            )
        result[index] = image
    return result, labels


def _files(place: Path) -> list[Path]:
    """The file itself, or all files below a folder except hidden ones, in the order of their paths."""
    found = [] if place.is_dir() else [place]
    for parent, folders, names in os.walk(place, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _is_picture(place: Path) -> bool:
    return any(file.suffix.lower() in PICTURES for file in _files(place))


def _listed(place: Path) -> tuple[list[Path], Labels | None]:
    """The pictures in order, and the class of each."""
    if not place.is_dir():
        return [place], None
    everything, kinds = _files(place), f"({', '.join(PICTURES)})"
    files = [file for file in everything if file.suffix.lower() in PICTURES]
    if not files:
        raise DatasetError(f"{place}: expected pictures {kinds}, got a folder with none")
    others = Counter(file.suffix.lower() for file in everything)
    for ending in (*PICTURES, *NOTES):
        del others[ending]
    if others:
        passed = ", ".join(f"{count} {ending}" for ending, count in sorted(others.items()))
        words = f"{place}: {len(files)} pictures {kinds} are read, other files are ignored: {passed}"
        warnings.warn(words, UserWarning, stacklevel=3)
    folders = [entry.name for entry in visible(place) if entry.is_dir()]
    numbers = {name: number for number, name in enumerate(folders)}
    tops = [file.relative_to(place).parts[0] for file in files]
    deeper = [top for top in tops if top in numbers]
    if not deeper:
        return files, None
    if len(deeper) < len(files):
        got = f"got both, such as {deeper[0]}"
        raise DatasetError(f"{place}: expected pictures or folders of pictures, {got}")
    # Leaving out an empty class would change the labels of all classes after it.
    if empty := sorted(numbers.keys() - set(deeper)):
        expected = f"expected at least one picture {kinds} of this class"
        raise DatasetError(f"{place / empty[0]}: {expected}, got none")
    return files, np.array([numbers[top] for top in tops], dtype=np.int64)


def _pixels(file: Path, channels: int | None) -> NDArray[np.uint8]:
    """The pixels of a picture, ``[H, W, channels]``."""
    from PIL import Image, ImageOps

    # All errors that Pillow's decoders are known to raise on damaged files.
    damaged = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except (*damaged, Image.DecompressionBombError) as error:
        raise DatasetError(f"{file}: expected a picture, got something else ({error})") from error
    kept = channels or (1 if image.mode in ("1", "L", "LA") else 3)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"):
        raise DtypeError(f"{file}: expected 8 bits a channel, got pixels of mode {image.mode!r}")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[-1] != (255, 255):
            raise DatasetError(f"{file}: expected an opaque image, got transparent pixels")
    pixels = np.asarray(image.convert("L" if kept == 1 else "RGB"), dtype=np.uint8)
    return pixels.reshape(image.height, image.width, kept)


def _part(folder: str | PathLike[str], split: str, parts: dict[str, Any]) -> tuple[Path, Any]:
    """The folder, after a check that it is one, and the entry of ``parts`` for the split."""
    place = existing(folder)
    if not place.is_dir():
        raise ArgumentError(f"folder: expected a folder, got the file {place}")
    if split not in parts:
        raise ArgumentError(f"split: expected 'train' or 'test', got {split!r}")
    return place, parts[split]


def digits(*, size: int | None = None) -> tuple[Images, Labels]:
    """The 1797 handwritten digits of 8x8 pixels that come with scikit-learn, flat or as images.

    Without ``size`` images are ``[1797, 64]``, with the pixels in row order. With ``size``, which is at least
    8 (else an ``ArgumentError``), they are ``[1797, 1, size, size]`` by bicubic interpolation. Images are
    float32 in [-1, 1]. Labels ``[1797]``, int64, are the digits.

    Examples
    --------
    >>> images, labels = digits()
    >>> images.shape, float(images.min()), float(images.max())
    ((1797, 64), -1.0, 1.0)
    >>> digits(size=16)[0].shape
    (1797, 1, 16, 16)
    """
    from sklearn.datasets import load_digits

    if size is not None and not (isinstance(size, Integral) and size >= DIGITS_SIDE):
        raise ArgumentError(f"size: expected an integer of at least {DIGITS_SIDE} or None, got {size!r}")
    bunch = load_digits()
    flat = (bunch.data / 8.0 - 1.0).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    if size is None:
        return flat, labels
    images = flat.reshape(-1, 1, DIGITS_SIDE, DIGITS_SIDE)
    return (images if size == DIGITS_SIDE else resize(images, size)), labels
