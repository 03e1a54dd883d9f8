"""Images and labels in NumPy's own files: NPY, NPZ and folders of them."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._arrays import as_path
from ..exceptions import ArgumentError, DatasetError, DtypeError, NonFiniteError, ShapeError
from .pixels import Images, Labels

LAYOUTS = {"NHW": 3, "NHWC": 4, "NCHW": 4}
# Lengths by which an axis is recognised as that of the channels if the layout is not given.
CHANNELS = range(1, 5)
LABELS_FILE = "labels.npy"
FULL_SCALE = {"uint8": (0.0, 255.0), "bool": (0.0, 1.0)}
# Errors of NumPy and the standard library on damaged files and on headers that ask for too much memory.
DAMAGED = (
    *(ValueError, SyntaxError, tokenize.TokenError, EOFError, RuntimeError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error),
)


def arrays(
    path: str | PathLike[str],
    *,
    layout: str | None = None,
    limits: tuple[float, float] | None = None,
    images: str | None = None,
    labels: str | Literal[False] | None = None,
) -> tuple[Images, Labels | None]:
    """Read images ``[N, C, H, W]``, float32 in [-1, 1], and labels ``[N]``, int64, or None, from NumPy files.

    Parameters
    ----------
    path : path
        A ``.npy`` file of images, a ``.npz`` file of images with or without labels, or a folder of such
        files. The files of a folder are joined in the order of their names. In a folder of ``.npy`` files,
        ``labels.npy`` holds the labels of all images.
    layout : {"NHW", "NHWC", "NCHW"}, optional
        Meaning of the axes. With None, three axes are grey images, and of four axes the second or the last
        one is that of the channels, whichever has a length of 1 to 4. The layout must be given if both or
        neither have such a length.
    limits : (float, float), optional
        Values that become -1 and 1; no value may lie outside. None takes (0, 255) for uint8 and (0, 1) for
        booleans. For floating-point numbers it takes (0, 1) if that holds all values, else (-1, 1). The
        limits must be given for anything else.
    images : str, optional
        Name of the images in ``.npz`` files. None takes the only array of three or four dimensions.
    labels : str or False, optional
        Name of the labels in ``.npz`` files. False reads no labels. None takes the only array of integers of
        shape ``(N,)`` or ``(N, 1)``, if there is one.

    Raises
    ------
    DatasetError, ShapeError, DtypeError, NonFiniteError, ArgumentError
        For a file that is damaged, empty or of another format; for images of several sizes, of unclear layout
        or limits, or of values that are not finite real numbers; for labels that are not one integer for each
        image; and if more than one array could be the images or the labels.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ArgumentError(f"layout: expected one of {', '.join(LAYOUTS)} or None, got {layout!r}")
    if limits is not None and not (len(limits) == 2 and -np.inf < limits[0] < limits[1] < np.inf):
        raise ArgumentError(f"limits: expected two rising finite numbers, got {limits!r}")
    place = existing(path)
    files = [file for file in numpy_files(place) if file.name != LABELS_FILE or file == place]
    if not files:
        missing = ".npy or .npz files, got a folder with none", "a name that ends in .npy or .npz"
        raise DatasetError(f"{place}: expected {missing[not place.is_dir()]}")
    parts: list[NDArray[Any]] = []
    numbers: list[Labels] = []
    for file in files:
        found = contents(file)
        likely = [name for name, array in found.items() if array.ndim in (3, 4)]
        name = _name(file, "images", images, found, likely) or ""
        if name not in found:
            raise DatasetError(f"{file}: expected an array of three or four dimensions, got {_shapes(found)}")
        pixels = _nchw(_where(file, name), found.pop(name), layout)
        if parts and pixels.shape[1:] != parts[0].shape[1:]:
            wanted = f"(channels, height, width) {parts[0].shape[1:]} as in {files[0]}"
            raise ShapeError(f"{file}: expected images of {wanted}, got {pixels.shape[1:]}")
        if parts and pixels.dtype != parts[0].dtype:
            raise DtypeError(f"{file}: expected {parts[0].dtype} as in {files[0]}, got {pixels.dtype}")
        parts.append(pixels)
        if labels is False:
            continue
        likely = [name for name, array in found.items() if _is_column(array) and array.dtype.kind in "iu"]
        # Labels of a wrong type or shape are found too, so that they are refused below and not ignored.
        likely = likely or [name for name, a in found.items() if a.ndim in (1, 2) and len(a) == len(pixels)]
        own = _name(file, "labels", labels, found, likely)
        if own is not None:
            numbers.append(checked_labels(_where(file, own), found[own], len(pixels), _where(file, name)))
        if numbers and len(numbers) < len(parts):
            raise DatasetError(f"{file}: expected labels in all files of {place} or in none, got only some")
    result = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.float32)
    # Values outside the range of float32 become infinite, which is refused below.
    with np.errstate(over="ignore"):
        np.concatenate(parts, out=result, casting="unsafe")
    if not np.isfinite(result).all():
        raise NonFiniteError(f"{place}: expected finite images, got NaN or infinite values")
    _scale(result, limits, place, parts[0].dtype)
    beside = place / LABELS_FILE
    if labels is False or not (place.is_dir() and beside.is_file()):
        return result, np.concatenate(numbers) if numbers else None
    if numbers:
        raise DatasetError(f"{beside}: expected labels there or in the .npz files, got both")
    return result, checked_labels(str(beside), contents(beside)[""], len(result), place)


def existing(path: str | PathLike[str]) -> Path:
    """The path as a Path. Raises FileNotFoundError if there is nothing."""
    place = Path(as_path(path))
    place.stat()
    return place


def visible(folder: Path) -> list[Path]:
    """The entries of a folder except hidden ones, in the order of their names."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def numpy_files(place: Path) -> list[Path]:
    """The NPY and NPZ files at a place: the file itself, or those in a folder."""
    entries = visible(place) if place.is_dir() else [place]
    return [entry for entry in entries if entry.suffix in (".npy", ".npz") and entry.is_file()]


def contents(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by name, without unpickling. That of an NPY file is named ``""`` and is mapped."""
    found: dict[str, NDArray[Any]] = {}
    name = ""
    try:
        if file.suffix == ".npy":
            found[name] = mapped = np.load(file, mmap_mode="r", allow_pickle=False)
            if extra := file.stat().st_size - mapped.offset - mapped.nbytes:
                raise ValueError(f"{extra} bytes more than the header says")
            return found
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                if not member.endswith(".npy"):
                    continue
                name = member.removesuffix(".npy")
                with archive.open(member) as handle:
                    found[name] = np.lib.format.read_array(handle, allow_pickle=False)
                    # Reading to the end also compares the checksum.
                    if handle.read(1):
                        raise ValueError(f"{member} has more bytes than its header says")
        return found
    except DAMAGED as error:
        # NumPy has no exception of its own for arrays of Python objects.
        if any(words in str(error) for words in ("Object arrays", "Python objects")):
            raise DtypeError(f"{_where(file, name)}: expected numbers, got pickled Python objects") from error
        expected, problem = f"expected an {file.suffix[1:].upper()} file", str(error).split(". ")[0]
        text = f"{_where(file, name)}: {expected}, got something damaged ({problem})"
        raise DatasetError(text) from error


def _where(file: Path, name: str) -> str:
    return f"{file}, array {name!r}" if name else str(file)


def _name(
    file: Path, what: str, given: str | None, found: dict[str, NDArray[Any]], likely: list[str]
) -> str | None:
    if given is None:
        if len(likely) > 1:
            raise ArgumentError(f"{what}: expected a name, since {file} holds {_shapes(found)}, got None")
        return likely[0] if likely else None
    if file.suffix == ".npy":
        raise ArgumentError(f"images, labels: expected None, since {file} holds one array without a name")
    if given not in found:
        raise ArgumentError(f"{what}: expected one of the arrays {_shapes(found)} in {file}, got {given!r}")
    return given


def _shapes(found: dict[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name!r} {array.shape}" for name, array in found.items()) or "nothing"


def _nchw(name: str, array: NDArray[Any], layout: str | None) -> NDArray[Any]:
    """The images as a view ``[N, C, H, W]``."""
    shape = array.shape
    if array.dtype.kind not in "fiub":
        raise DtypeError(f"{name}: expected real numbers, got {array.dtype}")
    if 0 in shape:
        raise DatasetError(f"{name}: expected at least one image, got an array of shape {shape}")
    if len(shape) not in (3, 4):
        raise ShapeError(f"{name}: expected shape (N, H, W), (N, H, W, C) or (N, C, H, W), got {shape}")
    if layout is None and len(shape) == 4:
        first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
        if first == last:
            problem = f"{shape} {'could be either' if first else 'shows no channels'}"
            raise ShapeError(f"{name}: expected a layout, 'NCHW' or 'NHWC', since the shape {problem}")
        layout = "NCHW" if first else "NHWC"
    if layout is not None and len(shape) != LAYOUTS[layout]:
        raise ShapeError(f"{name}: expected {LAYOUTS[layout]} dimensions for layout {layout}, got {shape}")
    if len(shape) == 3:
        return array[:, None]
    return array.transpose(0, 3, 1, 2) if layout == "NHWC" else array


def _scale(images: Images, limits: tuple[float, float] | None, place: Path, dtype: np.dtype[Any]) -> None:
    """Scale the images to [-1, 1], in place."""
    least, most = float(images.min()), float(images.max())
    limits = limits or FULL_SCALE.get(dtype.name)
    if limits is None and dtype.kind == "f" and least >= -1.0 and most <= 1.0:
        limits = (0.0, 1.0) if least >= 0.0 else (-1.0, 1.0)
    if limits is None:
        raise ArgumentError(
            f"limits: expected the values of black and white, such as (0, 255), since {place} holds {dtype} "
            f"in [{least:g}, {most:g}], got None"
        )
    low, high = limits
    if least < low or most > high:
        raise ArgumentError(
            f"limits: expected limits that hold all values of {place}, [{least:g}, {most:g}], got {limits}"
        )
    images -= np.float32(low)
    images /= np.float32((high - low) / 2.0)
    images -= 1.0
    # Rounded values may exceed 1 slightly.
    np.clip(images, -1.0, 1.0, out=images)


def _is_column(array: NDArray[Any]) -> bool:
    """Whether an array is ``[N]``, or ``[N, 1]`` as Keras stores labels."""
    return array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)


def checked_labels(name: str, array: NDArray[Any], count: int, images: object) -> Labels:
    """The array as labels ``[N]``, one for each of ``count`` images."""
    expected = f"{name}: expected labels as integers of shape (N,) or (N, 1)"
    if not _is_column(array):
        raise ShapeError(f"{expected}, got {array.shape}; labels=False reads images alone")
    if array.dtype.kind not in "iu":
        raise DtypeError(f"{expected}, got {array.dtype}; labels=False reads images alone")
    if len(array) != count:
        raise DatasetError(
            f"{name}: expected {count} labels, one for each image of {images}, got {len(array)}"
        )
    return array.reshape(-1).astype(np.int64)
