"""Images of whatever format lies at a path."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from ..exceptions import ArgumentError, DatasetError
from . import cifar, idx_files, numpy_files, picture_files
from ._files import existing, visible
from .pixels import Images, Labels, resize

# A name, who can tell, and the options that only this format has.
FORMATS = {
    "IDX": (idx_files.recognises, {"split"}),
    "CIFAR-10": (cifar.recognises, {"split"}),
    "NumPy": (numpy_files.recognises, {"layout", "limits"}),
    "PNG or JPEG": (picture_files.recognises, {"channels"}),
}


def images(
    path: str | PathLike[str],
    *,
    split: str | None = None,
    size: int | tuple[int, int] | None = None,
    resample: str = "bicubic",
    layout: str | None = None,
    limits: tuple[float, float] | None = None,
    channels: int | None = None,
) -> tuple[Images, Labels | None]:
    """Images, and labels where there are some, of any file or folder that this package can read.

    ============================================================== =======================================
    at the path                                                    read as by
    ============================================================== =======================================
    an IDX file, or a folder with the files of MNIST               :func:`idx`, :func:`mnist`
    a ``.bin`` file, or a folder with the files of CIFAR-10        :func:`cifar10`
    a ``.npy`` or ``.npz`` file, or a folder of them               :func:`arrays`
    a PNG or JPEG file, or a folder of them or of folders of them  :func:`image_folder`
    ============================================================== =======================================

    Parameters
    ----------
    path : path
        Nothing is downloaded.
    split : {"train", "test"}, optional
        For folders of MNIST and CIFAR-10; None takes ``"train"``.
    size : int or (int, int), optional
        Resizes the images, whatever the format, as :func:`resize` does.
    resample : {"bicubic", "box"}, default "bicubic"
        How, where there is a ``size``.
    layout, limits
        For NumPy files, as :func:`arrays` says.
    channels : {1, 3}, optional
        For PNG and JPEG files, as :func:`image_folder` says.

    Returns
    -------
    images : array, ``[N, C, H, W]``, float32
        In [-1, 1].
    labels : array, ``[N]``, int64, or None
        None where there are none.

    Raises
    ------
    FileNotFoundError
        When there is nothing at the path.
    DatasetError
        When what is there is of no known format, or of several.
    ArgumentError
        When an option is out of its range, or belongs to another format.
    KoopflowError
        As the reader of the format.
    """
    place = existing(path)
    found = [name for name, (recognises, _) in FORMATS.items() if recognises(place)]
    if len(found) != 1:
        wanted = "IDX, CIFAR-10, NumPy, PNG or JPEG"
        got = f"files of {' and '.join(found)} side by side" if found else _description(place)
        raise DatasetError(f"{place}: expected images of one format ({wanted}), got {got}")
    given = {"split": split, "layout": layout, "limits": limits, "channels": channels}
    options = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() - FORMATS[found[0]][1]:
        raise ArgumentError(f"{name}: expected None for {found[0]} files, got {options[name]!r}")
    return _read(found[0], place, size, resample, options)


def _read(
    name: str, place: Path, size: int | tuple[int, int] | None, resample: str, options: dict[str, Any]
) -> tuple[Images, Labels | None]:
    if name == "PNG or JPEG":
        # Resized one by one: they may be of any sizes.
        return picture_files.image_folder(place, size=size, resample=resample, **options)
    if name == "NumPy":
        pixels, labels = numpy_files.arrays(place, **options)
    else:
        reader = cifar if name == "CIFAR-10" else idx_files
        pixels, labels = reader.read_any(place, options.get("split"))
    return (pixels if size is None else resize(pixels, size, resample=resample)), labels


def _description(place: Path) -> str:
    if not place.is_dir():
        return f"{place.stat().st_size} bytes of something else"
    names = [entry.name for entry in visible(place)]
    more = ", ..." if len(names) > 4 else ""
    return f"a folder with {', '.join(names[:4])}{more}" if names else "an empty folder"
