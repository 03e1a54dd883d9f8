"""Images in grids: as a picture, and pixel by pixel in a file."""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage, imsave
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
        Images with values within ``limits``; what lies beyond is cut off.
    columns : int, optional
        Number of images in a row; a nearly square grid by default.
    image_shape : (int, int), optional
        Size of one flat grey image; a square by default.
    limits : (float, float), default (-1, 1)
        The values of paper and ink; in colour, of no light and full light.
    ax, title
        As everywhere in :mod:`koopflow.plotting`.

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
        canvas = tiled(light.transpose(0, 2, 3, 1), columns, np.array(to_rgb(GAP)))
    else:
        height, width = image_shape or image_size(pixels)
        if height * width != pixels[0].size:
            raise ShapeError(f"images: expected {height} x {width} pixels each, got an array {pixels.shape}")
        canvas = tiled(np.clip(pixels, low, high).reshape(n, height, width), columns)
    across = columns or nearly_square(n)
    ax = axes_or_new(ax, size=(0.45 * across + 0.3, 0.45 * -(-n // across) + 0.5))
    show(ax, canvas, "gray_r", (low, high))
    ax.set_axis_off()
    title_of(ax, title)
    return ax


def save_image_grid(path: str | PathLike[str], images: Array, *, columns: int | None = None) -> None:
    """Write images as one PNG file, one pixel of the file for each pixel.

    Parameters
    ----------
    path : path
        File to write, replaced if it exists; its folder must exist.
    images : array, ``[N, 1, H, W]`` or ``[N, 3, H, W]``
        Images in [-1, 1]: from black to white, or from no light to full light. What lies beyond is cut off.
    columns : int, optional
        Number of images in a row; a nearly square grid by default. One pixel parts the images.

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
    colours = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    imsave(fspath(path), tiled(colours, columns, gap), format="png")


def nearly_square(count: int) -> int:
    """Columns of a grid of ``count`` images that has about as many rows."""
    return int(np.ceil(np.sqrt(count)))


def corners(count: int, height: int, width: int, columns: int) -> list[tuple[int, int]]:
    """Top and left pixel of each image on a canvas by :func:`tiled`."""
    return [(1 + i // columns * (height + 1), 1 + i % columns * (width + 1)) for i in range(count)]


def tiled(
    images: NDArray[Any], columns: int | None = None, gap: NDArray[Any] | float = np.nan
) -> NDArray[Any]:
    """Images ``[N, H, W]`` or ``[N, H, W, C]`` row by row on one canvas.

    A pixel of ``gap`` lies between the images and around them; NaN takes the colour of missing values.
    """
    n, height, width = images.shape[:3]
    columns = columns or nearly_square(n)
    rows = -(-n // columns)
    shape = (rows * (height + 1) + 1, columns * (width + 1) + 1, *images.shape[3:])
    canvas = np.empty(shape, images.dtype)
    canvas[:] = gap
    for image, (top, left) in zip(images, corners(n, height, width, columns), strict=True):
        canvas[top : top + height, left : left + width] = image
    return canvas


def show(ax: Axes, canvas: NDArray[Any], colours: str, limits: tuple[float, float]) -> AxesImage:
    """A canvas by :func:`tiled`, pixel by pixel, with its gaps in the colour of gaps."""
    shades = colormaps[colours].with_extremes(bad=GAP)
    return ax.imshow(canvas, cmap=shades, vmin=limits[0], vmax=limits[1], interpolation="nearest")
