"""Images in NumPy's own files: NPY, NPZ and folders of them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..exceptions import ArgumentError, DatasetError, DtypeError, NonFiniteError, ShapeError
from ._files import check_count, existing, visible
from ._npy import Stored, stored_in
from .pixels import Images, Labels

LAYOUTS = {"NHW": 3, "NHWC": 4, "NCHW": 4}
# What passes for a number of channels where nobody says which axis they are.
CHANNELS = range(1, 5)
LABELS_FILE = "labels.npy"
FULL_SCALE = {"uint8": (0.0, 255.0), "bool": (0.0, 1.0)}


def arrays(
    path: str | PathLike[str],
    *,
    layout: str | None = None,
    limits: tuple[float, float] | None = None,
    images: str | None = None,
    labels: str | None = None,
) -> tuple[Images, Labels | None]:
    """Images of a NumPy file, or of all those in a folder.

    Parameters
    ----------
    path : path
        A ``.npy`` file of images; a ``.npz`` file of images and, perhaps, labels; or a folder of either,
        whose images are joined in the order of the names. In a folder of ``.npy`` files ``labels.npy`` holds
        the labels of all images.
    layout : {"NHW", "NHWC", "NCHW"}, optional
        What the axes of the arrays are. None takes three axes for grey images, and looks for the channels of
        four: the axis, second or last, of length 1 to 4. Where both or neither are, it has to be said.
    limits : (float, float), optional
        The values that become -1 and 1; none may lie beyond. None takes (0, 255) for uint8, (0, 1) for
        booleans, and for floating-point numbers (0, 1) where all lie there or (-1, 1) where all lie there;
        anything else has to be said.
    images, labels : str, optional
        The names of the arrays in ``.npz`` files. None takes the one array of three or four dimensions and
        the one vector of integers, if there is one.

    Returns
    -------
    images : array, ``[N, C, H, W]``, float32
        In [-1, 1].
    labels : array, ``[N]``, int64, or None
        None where there are none.

    Raises
    ------
    FileNotFoundError
        When there is no such file or folder.
    DatasetError
        When a file is damaged, empty, or of another format, a folder holds no such files, or there are not as
        many labels as images.
    ShapeError
        When images are of other dimensions, of different sizes, or the layout is not clear.
    DtypeError
        When images are no real numbers, or labels no integers.
    NonFiniteError
        When an image holds NaN or infinite values.
    ArgumentError
        When an option is out of its range, ``limits`` are not clear or too narrow, or several arrays could be
        meant.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ArgumentError(f"layout: expected one of {', '.join(LAYOUTS)} or None, got {layout!r}")
    if limits is not None and not (len(limits) == 2 and -np.inf < limits[0] < limits[1] < np.inf):
        raise ArgumentError(f"limits: expected two rising finite numbers, got {limits!r}")
    place = existing(path)
    files = [file for file in _files(place) if not (place.is_dir() and file.name == LABELS_FILE)]
    parts = [_find(file, images, labels) for file in files]
    shapes = [_nchw(part.images.shape, _layout(part.images, layout)) for part in parts]
    _check_alike(parts, shapes)
    ends = np.cumsum([shape[0] for shape in shapes])
    result = np.empty((int(ends[-1]), *shapes[0][1:]), np.float32)
    for part, shape, end in zip(parts, shapes, ends, strict=True):
        pixels = part.images.read()
        if _layout(part.images, layout) == "NHWC":
            pixels = pixels.transpose(0, 3, 1, 2)
        # Finite beyond the range of float32 is not finite here.
        with np.errstate(over="ignore"):
            result[end - shape[0] : end] = pixels.reshape(shape)
    if not np.isfinite(result).all():
        raise NonFiniteError(f"{place}: expected finite images, got NaN or infinite values")
    _scale(result, limits, place, parts[0].images.dtype)
    return result, _labels(place, parts, shapes)


def recognises(place: Path) -> bool:
    """Whether a file, or a folder, is of these formats."""
    return any(_is_numpy(file) for file in (visible(place) if place.is_dir() else [place]))


@dataclass(frozen=True)
class _Part:
    images: Stored
    labels: Stored | None


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        if not _is_numpy(place):
            raise DatasetError(f"{place}: expected a name that ends in .npy or .npz")
        return [place]
    files = [file for file in visible(place) if _is_numpy(file)]
    if not any(file.name != LABELS_FILE for file in files):
        raise DatasetError(f"{place}: expected .npy or .npz files, got a folder with none")
    return files


def _is_numpy(file: Path) -> bool:
    return file.suffix in (".npy", ".npz") and file.is_file()


def _find(file: Path, images: str | None, labels: str | None) -> _Part:
    """The images of one file and their labels, of which only headers are read."""
    if file.suffix == ".npy":
        if images is not None or labels is not None:
            raise ArgumentError(f"images, labels: expected None, since {file} holds one array without a name")
        return _Part(_checked_images(stored_in(file, None)), None)
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
    except zipfile.BadZipFile as error:
        raise DatasetError(f"{file}: expected an NPZ file, got something else ({error})") from error
    stored = {name: stored_in(file, name) for name in names}
    like_images = [name for name, array in stored.items() if len(array.shape) in (3, 4)]
    like_labels = [
        name for name, array in stored.items() if len(array.shape) == 1 and array.dtype.kind in "iu"
    ]
    chosen = _chosen(file, "images", images, stored, like_images)
    if chosen is None:
        raise DatasetError(f"{file}: expected an array of three or four dimensions, got {_shapes(stored)}")
    numbers = _chosen(file, "labels", labels, stored, like_labels)
    return _Part(_checked_images(chosen), numbers)


def _chosen(
    file: Path, what: str, name: str | None, stored: dict[str, Stored], likely: list[str]
) -> Stored | None:
    if name is not None:
        if name not in stored:
            raise ArgumentError(
                f"{what}: expected one of the arrays {_shapes(stored)} in {file}, got {name!r}"
            )
        return stored[name]
    if len(likely) > 1:
        raise ArgumentError(f"{what}: expected a name, since {file} holds {_shapes(stored)}, got None")
    return stored[likely[0]] if likely else None


def _shapes(stored: dict[str, Stored]) -> str:
    return ", ".join(f"{name!r} {array.shape}" for name, array in stored.items()) or "nothing"


def _checked_images(array: Stored) -> Stored:
    if array.dtype.kind not in "fiub":
        raise DtypeError(f"{array}: expected real numbers, got {array.dtype}")
    if 0 in array.shape:
        raise DatasetError(f"{array}: expected at least one image, got an array of shape {array.shape}")
    return array


def _check_alike(parts: list[_Part], shapes: list[tuple[int, ...]]) -> None:
    """One size and dtype in all files."""
    for part, shape in zip(parts, shapes, strict=True):
        if shape[1:] != shapes[0][1:]:
            raise ShapeError(
                f"{part.images}: expected images of (channels, height, width) {shapes[0][1:]} as in "
                f"{parts[0].images}, got {shape[1:]}"
            )
        if part.images.dtype != parts[0].images.dtype:
            raise DtypeError(
                f"{part.images}: expected {parts[0].images.dtype} as in {parts[0].images}, "
                f"got {part.images.dtype}"
            )


def _layout(array: Stored, layout: str | None) -> str:
    shape = array.shape
    if layout is not None:
        if len(shape) != LAYOUTS[layout]:
            raise ShapeError(
                f"{array}: expected {LAYOUTS[layout]} dimensions for layout {layout}, got {shape}"
            )
        return layout
    if len(shape) == 3:
        return "NHW"
    if len(shape) != 4:
        raise ShapeError(f"{array}: expected shape (N, H, W), (N, H, W, C) or (N, C, H, W), got {shape}")
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first == last:
        raise ShapeError(
            f"{array}: expected a layout, 'NCHW' or 'NHWC', since the shape {shape} "
            f"{'could be either' if first else 'shows no channels'}"
        )
    return "NCHW" if first else "NHWC"


def _nchw(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    if layout == "NHW":
        return (shape[0], 1, *shape[1:])
    return (shape[0], shape[3], shape[1], shape[2]) if layout == "NHWC" else shape


def _scale(images: Images, limits: tuple[float, float] | None, place: Path, dtype: np.dtype[Any]) -> None:
    """To [-1, 1], in place."""
    least, most = float(images.min()), float(images.max())
    if limits is None:
        limits = FULL_SCALE.get(dtype.name)
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
            f"limits: expected all values of {place} in between, [{least:g}, {most:g}], got {limits}"
        )
    images -= np.float32(low)
    images /= np.float32((high - low) / 2.0)
    images -= 1.0
    # Rounding may pass 1 by a little.
    np.clip(images, -1.0, 1.0, out=images)


def _labels(place: Path, parts: list[_Part], shapes: list[tuple[int, ...]]) -> Labels | None:
    found = [part.labels for part in parts if part.labels is not None]
    beside = place / LABELS_FILE
    if place.is_dir() and beside.is_file():
        if found:
            raise DatasetError(f"{beside}: expected labels there or in {found[0].file}, got both")
        count = sum(shape[0] for shape in shapes)
        return _numbers(stored_in(beside, None), count, place)
    if not found:
        return None
    if len(found) < len(parts):
        bare = next(part.images for part in parts if part.labels is None)
        raise DatasetError(f"{bare}: expected labels as in {found[0].file}, got none")
    counts = [shape[0] for shape in shapes]
    numbers = [
        _numbers(array, count, part.images) for array, count, part in zip(found, counts, parts, strict=True)
    ]
    return np.concatenate(numbers)


def _numbers(array: Stored, count: int, images: object) -> Labels:
    if array.dtype.kind not in "iu":
        raise DtypeError(f"{array}: expected labels as integers, got {array.dtype}")
    if len(array.shape) != 1:
        raise ShapeError(f"{array}: expected labels of shape (N,), got {array.shape}")
    check_count(array.file, array.shape[0], count, images)
    return array.read().astype(np.int64)
