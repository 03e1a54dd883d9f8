"""Images in grids: as a picture, and pixel by pixel in a file."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.image import imsave
from numpy.typing import NDArray

from .._arrays import Array, to_numpy
from ..datasets import to_uint8
from ..exceptions import ArgumentError, ShapeError
from ._canvas import GAP, axes_or_new, image_size, title_of


def image_grid(
    images: Array,
    *,
    ax: Axes | None = None,
    columns: int | None = None,
    image_shape: tuple[int, int] | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Axes:
    """Images in a grid: grey ones as ink on paper, or in colour.

    Parameters
    ----------
    images : array, ``[N, H, W]``, ``[N, 1, H, W]``, ``[N, 3, H, W]`` or ``[N, H * W]``
        Values within ``limits``; what lies beyond is cut off.
    ax : matplotlib axes, optional
        Where to draw.
    columns : int, optional
        Images in a row; nearly square by default.
    image_shape : (int, int), optional
        Of one grey image; a square by default, where images are flat.
    limits : (float, float), default (-1, 1)
        The values of paper and ink; in colour, of no light and full light.
    title : str, optional
        Above the grid.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from koopflow import datasets, plotting
    >>> images, labels = datasets.digits()
    >>> ax = plotting.image_grid(images[:20], columns=10)
    """
    pixels = to_numpy(images).astype(np.float64)
    n = len(pixels)
    if n == 0:
        raise ArgumentError("images: expected at least one image, got none")
    low, high = limits
    if pixels.ndim == 4 and pixels.shape[1] == 3 and image_shape is None:
        light = (np.clip(pixels, low, high) - low) / (high - low)
        canvas = _tiled(light.transpose(0, 2, 3, 1), columns, np.array(to_rgb(GAP)))
    else:
        height, width = image_shape or (image_size(pixels))
        if height * width != pixels[0].size:
            raise ShapeError(f"images: expected {height} x {width} pixels each, got an array {pixels.shape}")
        # The gaps are left to the colour of missing values.
        grey = np.clip(pixels, low, high).reshape(n, height, width, 1)
        canvas = _tiled(grey, columns, np.array([np.nan]))[..., 0]
    across = columns or _columns(n)
    ax = axes_or_new(ax, size=(0.45 * across + 0.3, 0.45 * -(-n // across) + 0.5))
    ink = colormaps["gray_r"].with_extremes(bad=GAP)
    ax.imshow(canvas, cmap=ink, vmin=low, vmax=high, interpolation="nearest")
    ax.set_axis_off()
    if title:
        title_of(ax, title)
    return ax


def save_image_grid(path: str | PathLike[str], images: Array, *, columns: int | None = None) -> None:
    """Write images as one PNG file, a pixel for a pixel.

    Parameters
    ----------
    path : path
        Written over; its folder must exist.
    images : array, ``[N, 1, H, W]`` or ``[N, 3, H, W]``
        In [-1, 1]: from black to white, or from no light to full light. What lies beyond is cut off.
    columns : int, optional
        Images in a row; nearly square by default. One pixel lies between images and around them.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
        When ``images`` are not such an array.

    Examples
    --------
    >>> import tempfile
    >>> from koopflow import datasets, plotting
    >>> images, labels = datasets.digits(size=28)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plotting.save_image_grid(f"{folder}/digits.png", images[:100], columns=20)
    """
    pixels = to_uint8(images)
    if pixels.shape[3] not in (1, 3):
        raise ShapeError(f"images: expected 1 or 3 channels, got {pixels.shape[3]}")
    gap = np.rint(255.0 * np.array(to_rgb(GAP))).astype(np.uint8)
    imsave(fspath(path), _tiled(np.broadcast_to(pixels, (*pixels.shape[:3], 3)), columns, gap), format="png")


def _columns(count: int) -> int:
    return int(np.ceil(np.sqrt(count)))


def _tiled(images: NDArray[Any], columns: int | None, gap: NDArray[Any]) -> NDArray[Any]:
    """``[N, H, W, C]`` row by row, a pixel of ``gap`` between the images and around them."""
    n, height, width, channels = images.shape
    columns = columns or _columns(n)
    rows = -(-n // columns)
    canvas = np.empty((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), images.dtype)
    canvas[:] = gap
    for index, image in enumerate(images):
        top, left = 1 + index // columns * (height + 1), 1 + index % columns * (width + 1)
        canvas[top : top + height, left : left + width] = image
    return canvas
