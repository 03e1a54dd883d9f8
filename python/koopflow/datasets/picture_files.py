"""Folders of image files, read through Pillow."""

from __future__ import annotations

import struct
import zlib
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..exceptions import ArgumentError, DatasetError, DtypeError, ShapeError
from ._files import existing, visible
from .pixels import Images, Labels, checked_resample, checked_size, from_uint8, resize

SUFFIXES = (".png", ".jpg", ".jpeg")
GREY = ("1", "L")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
COLOUR = ("RGB", "P", "CMYK", "YCbCr", "LAB", "HSV")


def image_folder(
    path: str | PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    resample: str = "bicubic",
    channels: int | None = None,
) -> tuple[Images, Labels | None]:
    """PNG and JPEG files of a folder.

    Parameters
    ----------
    path : path
        A folder of images, read in the order of their names; or a folder of folders of images, one for each
        class. Files of other kinds are passed over. One image file will do too.
    size : int or (int, int), optional
        Pixels on each side, or height and width: every image is resized as :func:`koopflow.datasets.resize`
        does. None takes images as they are; they then have to be of one size.
    resample : {"bicubic", "box"}, default "bicubic"
        How, where there is a ``size``.
    channels : {1, 3}, optional
        Turns every image to grey or to red, green and blue. None takes images as they are; they then have to
        be all grey or all in colour.

    Returns
    -------
    images : array, ``[N, channels, H, W]``, float32
        Scaled from [0, 255] to [-1, 1], upright where a JPEG says how it was taken.
    labels : array, ``[N]``, int64, or None
        The number of each image's folder in the order of their names; None where there is one folder.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    DatasetError
        When there are no images, images beside folders of images, or a file that is no image, damaged or
        transparent.
    ShapeError
        When images are of different sizes or channels.
    DtypeError
        When pixels are of more than 8 bits a channel.
    ArgumentError
        When an option is out of its range.
    """
    if size is not None:
        size = checked_size(size)
    checked_resample(resample)
    if channels not in (None, 1, 3):
        raise ArgumentError(f"channels: expected 1, 3 or None, got {channels!r}")
    files, labels = _listed(existing(path))
    result: Images | None = None
    for index, file in enumerate(files):
        image = from_uint8(_pixels(file, channels)).transpose(2, 0, 1)[None]
        if size is not None:
            image = resize(image, size, resample=resample)
        if result is None:
            result = np.empty((len(files), *image.shape[1:]), np.float32)
        if image.shape[1:] != result.shape[1:]:
            raise ShapeError(
                f"{file}: expected (channels, height, width) {result.shape[1:]} as of {files[0].name}, got "
                f"{image.shape[1:]}; size= makes images of one size, channels= of one kind"
            )
        result[index] = image[0]
    assert result is not None
    return result, labels


def recognises(place: Path) -> bool:
    """Whether a file, or a folder, is of these formats."""
    if not place.is_dir():
        return place.suffix.lower() in SUFFIXES
    return bool(_in(place)) or any(_in(folder) for folder in visible(place) if folder.is_dir())


def _in(folder: Path) -> list[Path]:
    return [file for file in visible(folder) if file.suffix.lower() in SUFFIXES and file.is_file()]


def _listed(place: Path) -> tuple[list[Path], Labels | None]:
    """Files in order, and the class of each."""
    if not place.is_dir():
        return [place], None
    files = _in(place)
    folders = [folder for folder in visible(place) if folder.is_dir() and _in(folder)]
    if files and folders:
        raise DatasetError(
            f"{place}: expected images or folders of images, got both, such as {folders[0].name}"
        )
    if not files and not folders:
        raise DatasetError(f"{place}: expected PNG or JPEG files, or folders of them, got a folder with none")
    if files:
        return files, None
    classes = [_in(folder) for folder in folders]
    labels = np.repeat(np.arange(len(classes)), [len(members) for members in classes])
    return [file for members in classes for file in members], labels.astype(np.int64)


def _pixels(file: Path, channels: int | None) -> NDArray[np.uint8]:
    """``[H, W, channels]``."""
    from PIL import Image, ImageOps

    # All that Pillow's decoders are known to raise on damaged files.
    damaged = (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    )
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except damaged as error:
        raise DatasetError(f"{file}: expected a PNG or JPEG image, got something else ({error})") from error
    if "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in TRANSPARENT:
        if image.mode != "LA":
            image = image.convert("RGBA")
        if image.getextrema()[-1] != (255, 255):
            raise DatasetError(f"{file}: expected an opaque image, got transparent pixels")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    elif image.mode not in GREY + COLOUR:
        raise DtypeError(f"{file}: expected 8 bits a channel, got pixels of mode {image.mode!r}")
    kept = channels or (1 if image.mode in GREY else 3)
    pixels = np.asarray(image.convert("L" if kept == 1 else "RGB"), dtype=np.uint8)
    return pixels.reshape(image.height, image.width, kept)
