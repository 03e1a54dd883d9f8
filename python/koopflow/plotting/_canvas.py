"""The common parts of all plots: colours, axes, frames, titles."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from .._arrays import Array, to_numpy
from ..exceptions import ArgumentError, ShapeError
from ..progress import in_notebook

DATA, TEACHER, STUDENT, INK, FAINT = "#4c4c4c", "#3b6fb6", "#d1495b", "#222222", "#c9c9c9"
GAP = "#e4eaf1"
COLOURS = {"data": DATA, "teacher": TEACHER, "student": STUDENT}
# Colour maps without a red-green contrast: blue, white, red for signed quantities, dark to light for sizes.
SIGNED, SIZES = "RdBu_r", "viridis"

# Left, right, bottom and top.
Sides: TypeAlias = tuple[float, float, float, float]


def in_plane(name: str, points: Array, expected: str = "(N, 2)") -> NDArray[Any]:
    """Points of the plane. Raises ``ShapeError`` for another shape than ``expected``."""
    xy = to_numpy(points)
    if xy.ndim != expected.count(",") + 1 or xy.shape[-1] != 2 or xy.size == 0:
        raise ShapeError(f"{name}: expected shape {expected}, got {xy.shape}")
    return xy


def limits_of(xy: NDArray[Any], central: float = 0.998) -> Sides:
    """A box around the central fraction of the points, with a margin and an aspect of at most two to one."""
    low, high = np.quantile(xy, [(1.0 - central) / 2, (1.0 + central) / 2], axis=0)
    middle, reach = (low + high) / 2, 0.55 * (high - low) + 1e-6
    reach = np.maximum(reach, reach.max() / 2)
    (left, bottom), (right, top) = (middle - reach).tolist(), (middle + reach).tolist()
    return left, right, bottom, top


def image_size(event_shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of samples of this shape as images; flat samples are squares."""
    if len(event_shape) > 1:
        return event_shape[-2], event_shape[-1]
    side = isqrt(prod(event_shape))
    if (side * side,) != tuple(event_shape):
        raise ShapeError(f"images: expected square images, or an image_shape, got samples {event_shape}")
    return side, side


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether samples of this shape are drawn as images: of one channel and at least 4 pixels high."""
    height, width = event_shape[-2:] if len(event_shape) > 1 else [isqrt(prod(event_shape))] * 2
    return height >= 4 and height * width == prod(event_shape)


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure, ``size`` in inches.

    It is registered with pyplot only in notebooks, whose cells show and close figures. Elsewhere it need not
    be closed.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    if in_notebook():
        from matplotlib import pyplot

        return pyplot.figure(figsize=size, dpi=140, layout=layout)
    return Figure(figsize=size, dpi=140, layout=layout)


def axes_or_new(ax: Axes | None, size: tuple[float, float] = (4.0, 4.0)) -> Axes:
    return new_figure(size).add_subplot() if ax is None else ax


def panels_or_new(axes: Sequence[Axes] | None, count: int, shape: float) -> NDArray[Any]:
    """One axes for each of ``count`` panels, ``shape`` times as high as wide."""
    if axes is None:
        return np.atleast_1d(new_figure((3.4 * count, 3.2 * shape + 0.5)).subplots(1, count))
    panels = np.atleast_1d(np.asarray(axes, dtype=object)).reshape(-1)
    if len(panels) != count:
        raise ArgumentError(f"axes: expected {count} axes, got {len(panels)}")
    return panels


def square(ax: Axes, limits: Sides) -> None:
    """Make axes without numbers, with the same scale in both directions."""
    ax.set(xlim=limits[:2], ylim=limits[2:], aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_color(FAINT)


def plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8, color=DATA)


def dots(ax: Axes, points: NDArray[Any], size: float, colour: Any, **options: Any) -> None:
    """Draw points of the plane, by default without edges."""
    ax.scatter(points[:, 0], points[:, 1], s=size, color=colour, **{"linewidths": 0, **options})


def note(ax: Axes, text: str, place: tuple[float, float], shift: tuple[float, float], **options: Any) -> None:
    """Write text ``shift`` points away from a position in the coordinates of the data or of ``xycoords=``."""
    options = {"color": DATA, "fontsize": 7, "textcoords": "offset points", **options}
    ax.annotate(text, place, xytext=shift, **options)


def titled(ax: Axes, title: str | None, warning: str | None = None, *, pad: float = 6.0) -> Axes:
    """Add a title ``pad`` points above the axes, and over it a warning about the spectrum."""
    if title:
        ax.set_title(title, loc="left", fontsize=10, color=INK, pad=pad)
    if warning:
        above = pad + 14 if ax.get_title(loc="left") else pad - 2
        note(ax, warning, (0.0, 1.0), (0, above), xycoords="axes fraction", va="bottom", color=STUDENT)
    return ax


def finish(ax: Axes, title: str | None, x: str = "", y: str = "", *, warning: str | None = None) -> Axes:
    """Remove the frame of the axes and add labels, title and warning."""
    ax.set(xlabel=x, ylabel=y)
    plain(ax)
    return titled(ax, title, warning)


def colour_bar(ax: Axes, mappable: Any, label: str, **options: Any) -> Any:
    """Add a slim colour bar to the right of the axes."""
    bar = ax.get_figure().colorbar(mappable, ax=ax, shrink=0.85, pad=0.02, **options)  # type: ignore[union-attr]
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return bar
