"""Conversion of pixels between bytes and [-1, 1], and to another size."""

from __future__ import annotations

from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import Array, to_numpy
from ..exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError

Images: TypeAlias = NDArray[np.float32]
"""Images ``[N, channels, height, width]`` in [-1, 1]."""
Labels: TypeAlias = NDArray[np.int64]
"""Labels ``[N]``."""


def from_uint8(pixels: NDArray[np.uint8]) -> Images:
    """Pixels as float32 of the same shape: 0 becomes -1 and 255 becomes 1."""
    images = pixels.astype(np.float32)
    images /= 127.5
    images -= 1.0
    return images


def to_uint8(images: Array) -> NDArray[np.uint8]:
    """Images as the ``[N, H, W, C]`` uint8 pixels of imaging libraries: -1 becomes 0 and 1 becomes 255.

    ``images`` are ``[N, C, H, W]``, NumPy or torch, floating point (else a ``DtypeError``) and finite. Values
    outside [-1, 1] are clipped. Images that a reader of this package made from bytes are restored exactly.

    Examples
    --------
    >>> import numpy as np
    >>> to_uint8(np.array([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)).ravel()
    array([  0, 128, 255], dtype=uint8)
    """
    pixels = to_numpy(images)
    _check_images(pixels)
    if not np.isfinite(pixels).all():
        raise NonFiniteError("images: expected finite values, got NaN or infinite ones")
    levels = np.rint((np.clip(pixels, -1.0, 1.0) + 1.0) * 127.5)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(0, 2, 3, 1))


def resize(images: Array, size: int | tuple[int, int], *, resample: str = "bicubic") -> Array:
    """Resize images to ``[N, C, height, width]``; they are cropped at the centre if the aspect ratio changes.

    Parameters
    ----------
    images : array, ``[N, C, H, W]``
        NumPy or torch images, floating point (else a ``DtypeError``), in [-1, 1].
    size : int or (int, int)
        Pixels on each side, or height and width.
    resample : {"bicubic", "box"}, default "bicubic"
        Method. ``"bicubic"`` is bicubic interpolation with antialiasing, clipped to [-1, 1]. ``"box"`` takes
        means over boxes; it does not overshoot, and repeats pixels when images are enlarged.

    Examples
    --------
    >>> import numpy as np
    >>> resize(np.zeros((2, 3, 32, 48), np.float32), 16).shape
    (2, 3, 16, 16)
    """
    height, width = checked_size(size, resample)
    tensor = images if isinstance(images, torch.Tensor) else np.asarray(images)
    _check_images(tensor)
    if not isinstance(tensor, torch.Tensor):
        # torch warns about arrays that are read-only.
        tensor = torch.from_numpy(np.require(tensor, None, ["C", "W"]))
    # Crop to the largest central part that has the new aspect ratio.
    rows, columns = tensor.shape[2:]
    kept = (
        min(rows, max(1, round(columns * height / width))),
        min(columns, max(1, round(rows * width / height))),
    )
    top, left = (rows - kept[0]) // 2, (columns - kept[1]) // 2
    middle = tensor[:, :, top : top + kept[0], left : left + kept[1]]
    resized = middle.new_empty((*middle.shape[:2], height, width))
    # Resize in pieces, because interpolation needs several times the memory of its input.
    for start in range(0, len(middle), 1024):
        resized[start : start + 1024] = _resampled(middle[start : start + 1024], (height, width), resample)
    return resized if isinstance(images, torch.Tensor) else resized.numpy()


def checked_size(size: int | tuple[int, int], resample: str) -> tuple[int, int]:
    """Height and width. Raises ArgumentError for a wrong size or method."""
    if resample not in ("bicubic", "box"):
        raise ArgumentError(f"resample: expected 'bicubic' or 'box', got {resample!r}")
    sides: Any = (size, size) if isinstance(size, Integral) else size
    pair = isinstance(sides, tuple | list) and len(sides) == 2
    if not pair or not all(isinstance(side, Integral) and int(side) >= 1 for side in sides):
        raise ArgumentError(f"size: expected an integer of at least 1 or (height, width), got {size!r}")
    return int(sides[0]), int(sides[1])


def _check_images(images: Any) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise ShapeError(f"images: expected shape (N, C, H, W), none of them 0, got {tuple(images.shape)}")
    if not (images.is_floating_point() if isinstance(images, torch.Tensor) else images.dtype.kind == "f"):
        raise DtypeError(f"images: expected a floating-point array, got {images.dtype}")


def _resampled(images: torch.Tensor, size: tuple[int, int], resample: str) -> torch.Tensor:
    if resample == "box":
        return torch.nn.functional.adaptive_avg_pool2d(images, size)
    smooth = torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True)
    # Bicubic interpolation overshoots at edges.
    return smooth.clamp(-1.0, 1.0)
