"""Plots of images in grids, and of samples before and after an edit or an inversion."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from os import PathLike
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.image import AxesImage, imsave
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_path, to_numpy
from ..datasets import to_uint8
from ..exceptions import ArgumentError, ShapeError
from ._canvas import FAINT, GAP, INK, SIZES, axes_or_new, dots, image_size, limits_of, square, titled


def image_grid(
    images: Array,
    *,
    ax: Axes | None = None,
    columns: int | None = None,
    image_shape: tuple[int, int] | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Axes:
    """Draw images in a grid: grey images as ink on paper, or images in colour.

    Parameters
    ----------
    images : array, ``[N, H, W]``, ``[N, 1, H, W]``, ``[N, 3, H, W]`` or ``[N, H * W]``
        Images; values outside ``limits`` are clipped.
    columns : int, optional
        Number of images in a row; by default the grid is nearly square.
    image_shape : (int, int), optional
        Height and width of flat grey images; a square by default.
    limits : (float, float), default (-1, 1)
        Values of paper and ink for grey images, and of the darkest and brightest colour for colour images.

    Examples
    --------
    >>> from koopflow import datasets, plotting
    >>> images, labels = datasets.digits()
    >>> ax = plotting.image_grid(images[:20], columns=10)
    """
    pixels = to_numpy(images).astype(np.float64)
    if len(pixels) == 0:
        raise ArgumentError("images: expected at least one image, got none")
    low, high = limits
    pixels = np.clip(pixels, low, high)
    columns = columns or nearly_square(len(pixels))
    canvas = _painted(pixels, columns, image_shape, limits)
    ax = axes_or_new(ax, (0.45 * columns + 0.3, 0.45 * -(-len(pixels) // columns) + 0.5))
    show(ax, canvas, "gray_r", limits)
    ax.set_axis_off()
    return titled(ax, title)


def save_image_grid(path: str | PathLike[str], images: Array, *, columns: int | None = None) -> None:
    """Write a grid of images to a PNG file, pixel by pixel, with one pixel between the images.

    Parameters
    ----------
    path : path
        File to write, which is replaced if it exists. Its folder must exist.
    images : array, ``[N, 1, H, W]`` or ``[N, 3, H, W]``
        Images in [-1, 1], from black to white or from the darkest to the brightest colour. Values outside are
        clipped. Raises ``ShapeError``, ``DtypeError`` or ``NonFiniteError`` for other arrays.
    columns : int, optional
        As in :func:`image_grid`.

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
    png = BytesIO()
    imsave(png, tiled(colours, columns or nearly_square(len(pixels)), gap), format="png")
    _core._write_atomically(as_path(path), png.getvalue())


def edit_strip(
    sweep: Array,
    *,
    ax: Axes | None = None,
    strengths: Sequence[float | str] | None = None,
    image_shape: tuple[int, int] | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
    label: str = "strength",
    title: str | None = None,
) -> Axes:
    """Draw samples at several strengths of an edit.

    Images have one row for each sample and one column for each strength. Points of the plane are joined by
    lines.

    Parameters
    ----------
    sweep : array, ``[S, B, *event]``
        Samples by strength, grey or in colour, as ``Directions.sweep`` of :mod:`koopflow.analysis` returns
        them.
    strengths : sequence of float or str, optional
        S numbers or words for the axis; 0, 1, ... by default.
    label : str, default "strength"
        Label of the columns, below the strip.
    image_shape, limits
        As in :func:`image_grid`.
    """
    states = to_numpy(sweep).astype(np.float64)
    if states.ndim < 3 or states.size == 0:
        raise ShapeError(f"sweep: expected shape (S, B, *event), got {states.shape}")
    if strengths is not None and len(strengths) != len(states):
        raise ArgumentError(f"strengths: expected {len(states)} strengths, got {len(strengths)}")
    given = range(len(states)) if strengths is None else strengths
    names = [s if isinstance(s, str) else f"{s:g}" for s in given]
    if states.shape[2:] == (2,):
        return titled(_trails(states, names, ax), title)
    columns, count = states.shape[:2]
    rows = states.swapaxes(0, 1).reshape(-1, *states.shape[2:])
    ax = axes_or_new(ax, (0.62 * columns + 0.5, 0.62 * count + 0.7))
    canvas = _painted(rows, columns, image_shape, limits)
    show(ax, canvas, "gray_r", limits)
    width = (canvas.shape[1] - 1) // columns - 1
    ax.set_xticks([1 + (width + 1) * c + (width - 1) / 2 for c in range(columns)], names, fontsize=7)
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(label, fontsize=8)
    return titled(ax, title)


def inversion_strip(
    data: Array,
    noise: Array,
    again: Array,
    *,
    ax: Axes | None = None,
    image_shape: tuple[int, int] | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Axes:
    """Draw data, the noise that a student finds for them, the samples of that noise, and the differences.

    Parameters
    ----------
    data, noise, again : array, ``[B, *event]``
        Data, ``noise = student.invert(data)`` and ``again = student.sample(x0=noise)``. Noise is drawn at a
        third of its contrast, differences at full contrast.
    image_shape, limits
        As in :func:`image_grid`.
    """
    parts = [to_numpy(part).astype(np.float64) for part in (data, noise, again)]
    first, shapes = parts[0], [part.shape for part in parts]
    if len(set(shapes)) > 1 or first.ndim < 2 or first.size == 0:
        raise ShapeError(f"data, noise, again: expected three arrays of one shape, got {shapes}")
    if first.shape[1:] == (2,):
        columns = {"noise": parts[1], "data": first, "sample again": parts[2]}
    else:
        middle = sum(limits) / 2
        columns = {"data": first, "noise / 3": middle + parts[1] / 3, "again": parts[2]}
        columns["difference"] = middle + parts[2] - first
    options: dict[str, Any] = {"image_shape": image_shape, "limits": limits, "label": "", "title": title}
    return edit_strip(np.stack(list(columns.values())), ax=ax, strengths=list(columns), **options)


def _trails(states: NDArray[Any], names: list[str], ax: Axes | None) -> Axes:
    """Draw points of the plane ``[S, B, 2]``, joined from the first to the last."""
    ax = axes_or_new(ax, (5.0, 4.2))
    ax.plot(states[:, :, 0], states[:, :, 1], color=FAINT, linewidth=0.6, zorder=1)
    colours = colormaps[SIZES](np.linspace(0.0, 0.9, len(states)))
    for points, name, colour in zip(states, names, colours, strict=True):
        dots(ax, points, 10, colour, edgecolors=INK, linewidths=0.2, label=name)
    square(ax, limits_of(states.reshape(-1, 2), central=1.0))
    ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _painted(
    pixels: NDArray[Any], columns: int, image_shape: tuple[int, int] | None, limits: tuple[float, float]
) -> NDArray[Any]:
    """A canvas with the images row by row: ``[N, 3, H, W]`` in colour, others with one channel."""
    if pixels.ndim == 4 and pixels.shape[1] == 3 and image_shape is None:
        light = np.clip((pixels - limits[0]) / (limits[1] - limits[0]), 0.0, 1.0)
        return tiled(light.transpose(0, 2, 3, 1), columns, np.array(to_rgb(GAP)))
    return tiled(_pictures(pixels, pixels.shape[1:], image_shape), columns)


def _pictures(
    states: NDArray[Any], event_shape: Sequence[int], image_shape: tuple[int, int] | None
) -> NDArray[Any]:
    """Samples with one channel as images ``[N, H, W]``."""
    height, width = image_shape or image_size(event_shape)
    if height * width != np.prod(event_shape):
        raise ShapeError(f"images: expected {height} x {width} pixels, got samples of shape {event_shape}")
    return states.reshape(-1, height, width)


def nearly_square(count: int) -> int:
    """Number of columns of a nearly square grid of ``count`` images."""
    return int(np.ceil(np.sqrt(count)))


def corners(count: int, height: int, width: int, columns: int) -> list[tuple[int, int]]:
    """Top and left pixel of each image on a canvas made by :func:`tiled`."""
    return [(1 + i // columns * (height + 1), 1 + i % columns * (width + 1)) for i in range(count)]


def tiled(images: NDArray[Any], columns: int, gap: NDArray[Any] | float = np.nan) -> NDArray[Any]:
    """Images ``[N, H, W]`` or ``[N, H, W, C]`` row by row on one canvas.

    A border of one pixel with the value ``gap`` separates and surrounds the images. NaN has the colour of
    missing values.
    """
    n, height, width = images.shape[:3]
    shape = (-(-n // columns) * (height + 1) + 1, columns * (width + 1) + 1, *images.shape[3:])
    canvas = np.full(shape, gap, images.dtype)
    for image, (top, left) in zip(images, corners(n, height, width, columns), strict=True):
        canvas[top : top + height, left : left + width] = image
    return canvas


def show(ax: Axes, canvas: NDArray[Any], colours: str, limits: tuple[float, float]) -> AxesImage:
    """Draw a canvas made by :func:`tiled`, pixel by pixel, with its gaps in their own colour."""
    shades = colormaps[colours].with_extremes(bad=GAP)
    return ax.imshow(canvas, cmap=shades, vmin=limits[0], vmax=limits[1], interpolation="nearest")
