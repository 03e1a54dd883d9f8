"""Strips of edited and of inverted samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .._arrays import Array, to_numpy
from ..exceptions import ArgumentError, ShapeError
from ._canvas import FAINT, INK, SIZES, axes_or_new, image_size, limits_of, square, title_of
from .images import show, tiled


def edit_strip(
    sweep: Array,
    *,
    ax: Axes | None = None,
    strengths: Sequence[float] | None = None,
    image_shape: tuple[int, int] | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
    label: str = "strength",
    title: str | None = None,
) -> Axes:
    """Samples at several strengths of an edit: one row a sample, one column a strength; lines in the plane.

    Parameters
    ----------
    sweep : array, ``[S, B, *event]``
        Samples by strength, as ``Directions.sweep`` of :mod:`koopflow.analysis` gives it.
    strengths : sequence of float, optional
        Numbers for the axis, S of them.
    image_shape : (int, int), optional
        Size of one image; a square by default.
    limits : (float, float), default (-1, 1)
        Values of black and white.
    label : str, default "strength"
        Text below the strip: what the columns are.
    ax, title
        As everywhere in :mod:`koopflow.plotting`.
    """
    states = to_numpy(sweep).astype(np.float64)
    if states.ndim < 3 or states.size == 0:
        raise ShapeError(f"sweep: expected shape (S, B, *event), got {states.shape}")
    if strengths is not None and len(strengths) != len(states):
        raise ArgumentError(f"strengths: expected {len(states)} of them, got {len(strengths)}")
    names = [f"{s:g}" for s in strengths] if strengths is not None else [str(i) for i in range(len(states))]
    if states.shape[2:] == (2,):
        return _trails(states, names, ax, title)
    return _strip(states.swapaxes(0, 1), names, label, ax, image_shape, limits, title)


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
    """Data, the noise that the student finds for them, the samples of that noise, and the difference.

    Parameters
    ----------
    data, noise, again : array, ``[B, *event]``
        ``noise = student.invert(data)`` and ``again = student.sample(x0=noise)``. Noise is drawn at a third
        of its contrast, differences as they are.
    image_shape, limits, ax, title
        As in :func:`edit_strip`.
    """
    parts = [to_numpy(part).astype(np.float64) for part in (data, noise, again)]
    if any(part.shape != parts[0].shape for part in parts) or parts[0].ndim < 2 or parts[0].size == 0:
        shapes = [part.shape for part in parts]
        raise ShapeError(f"data, noise, again: expected three arrays of one shape, got {shapes}")
    if parts[0].shape[1:] == (2,):
        return _trails(np.stack([parts[1], parts[0], parts[2]]), ["noise", "data", "sample again"], ax, title)
    middle = sum(limits) / 2
    columns = [parts[0], middle + parts[1] / 3, parts[2], middle + parts[2] - parts[0]]
    names = ["data", "noise / 3", "again", "difference"]
    return _strip(np.stack(columns, axis=1), names, None, ax, image_shape, limits, title)


def _strip(
    rows: NDArray[Any],
    names: list[str],
    label: str | None,
    ax: Axes | None,
    image_shape: tuple[int, int] | None,
    limits: tuple[float, float],
    title: str | None,
) -> Axes:
    """Images ``[B, S, *event]`` in a grid, with the columns named below."""
    count, columns = rows.shape[:2]
    height, width = image_shape or image_size(rows[0])
    if height * width * count * columns != rows.size:
        raise ShapeError(f"expected images of {height} x {width} pixels, got an array {rows.shape}")
    ax = axes_or_new(ax, size=(0.62 * columns + 0.5, 0.62 * count + 0.7))
    show(ax, tiled(rows.reshape(-1, height, width), columns), "gray_r", limits)
    ax.set_xticks([1 + (width + 1) * c + (width - 1) / 2 for c in range(columns)], names, fontsize=7)
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if label:
        ax.set_xlabel(label, fontsize=8)
    title_of(ax, title)
    return ax


def _trails(states: NDArray[Any], names: list[str], ax: Axes | None, title: str | None) -> Axes:
    """Points of the plane, joined from the first to the last of ``[S, B, 2]``."""
    ax = axes_or_new(ax, size=(5.0, 4.2))
    ax.plot(states[:, :, 0], states[:, :, 1], color=FAINT, linewidth=0.6, zorder=1)
    for index, (points, name) in enumerate(zip(states, names, strict=True)):
        colour = colormaps[SIZES](0.9 * index / max(1, len(states) - 1))
        ax.scatter(points[:, 0], points[:, 1], s=10, color=colour, edgecolors=INK, linewidths=0.2, label=name)
    square(ax, limits_of(states.reshape(-1, 2), central=1.0))
    ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    title_of(ax, title)
    return ax
