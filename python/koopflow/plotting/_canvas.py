"""What every picture shares: colours, axes, frames, titles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
# Signed quantities from blue over white to red, sizes from dark to light: both without a red-green contrast.
SIGNED, SIZES = "RdBu_r", "viridis"


def plane(name: str, points: Array) -> NDArray[Any]:
    xy = to_numpy(points)
    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) == 0:
        raise ShapeError(f"{name}: expected shape (N, 2), got {xy.shape}")
    return xy


def polyline(name: str, states: Array) -> NDArray[Any]:
    lines = to_numpy(states)
    if lines.ndim != 3 or lines.shape[2] != 2 or lines.size == 0:
        raise ShapeError(f"{name}: expected shape (T, B, 2), got {lines.shape}")
    return lines


def limits_of(xy: NDArray[Any], central: float = 0.998) -> tuple[float, float, float, float]:
    """A box around the central share of the points, with a margin, no flatter than two to one."""
    low, high = np.quantile(xy, [(1.0 - central) / 2, (1.0 + central) / 2], axis=0)
    middle, reach = (low + high) / 2, 0.55 * (high - low) + 1e-6
    reach = np.maximum(reach, reach.max() / 2)
    return (
        float(middle[0] - reach[0]),
        float(middle[0] + reach[0]),
        float(middle[1] - reach[1]),
        float(middle[1] + reach[1]),
    )


def image_size(pixels: NDArray[Any]) -> tuple[int, int]:
    if pixels.ndim >= 3:
        return int(pixels.shape[-2]), int(pixels.shape[-1])
    side = int(np.sqrt(pixels.shape[1])) if pixels.ndim == 2 else 0
    if pixels.ndim != 2 or side * side != pixels.shape[1]:
        raise ShapeError(f"images: expected square images, or an image_shape, got an array {pixels.shape}")
    return side, side


def axes_or_new(ax: Axes | None, *, size: tuple[float, float] = (4.0, 4.0)) -> Axes:
    return new_figure(size).add_subplot() if ax is None else ax


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure, ``size`` in inches.

    Registered with pyplot only in notebooks, whose cells show and close figures; elsewhere none has to be
    closed.
    """
    options: dict[str, Any] = {
        "figsize": size,
        "dpi": 140,
        "layout": ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
    }
    if in_notebook():
        from matplotlib import pyplot

        return pyplot.figure(**options)
    return Figure(**options)


def panels_or_new(axes: Sequence[Axes] | None, count: int, shape: float) -> NDArray[Any]:
    if axes is None:
        figure = new_figure((3.4 * count, 3.2 * shape + 0.5))
        return np.atleast_1d(figure.subplots(1, count))
    panels = np.atleast_1d(np.asarray(axes, dtype=object)).reshape(-1)
    if len(panels) != count:
        raise ArgumentError(f"axes: expected {count} axes, got {len(panels)}")
    return panels


def square(ax: Axes, limits: tuple[float, float, float, float]) -> None:
    ax.set_xlim(limits[0], limits[1])
    ax.set_ylim(limits[2], limits[3])
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(FAINT)


def plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8, color=DATA)


def title_of(ax: Axes, title: str | None) -> None:
    if title:
        ax.set_title(title, loc="left", fontsize=10, color=INK)


def by_title(title: str) -> str:
    return next((colour for name, colour in COLOURS.items() if title.lower().startswith(name)), TEACHER)


def note(ax: Axes, text: str, place: tuple[float, float], shift: tuple[float, float], **options: Any) -> None:
    """Text ``shift`` points away from a place in the coordinates of the data, or of ``xycoords=``."""
    options = {"color": DATA, "fontsize": 7, "textcoords": "offset points", **options}
    ax.annotate(text, place, xytext=shift, **options)


def caveat(ax: Axes, text: str | None) -> None:
    """A warning about a spectrum, above its picture and title; nothing for None."""
    if text:
        above = 20 if ax.get_title(loc="left") else 4
        note(ax, text, (0.0, 1.0), (0, above), xycoords="axes fraction", va="bottom", color=STUDENT)


def finish(
    ax: Axes, title: str | None, x: str | None = None, y: str | None = None, *, warning: str | None = None
) -> Axes:
    """Labels, title and the warning that a spectrum carries, on axes without a frame."""
    ax.set_xlabel(x or "")
    ax.set_ylabel(y or "")
    plain(ax)
    title_of(ax, title)
    caveat(ax, warning)
    return ax


def colour_bar(ax: Axes, mappable: Any, label: str, **options: Any) -> Any:
    """A slim colour bar to the right of the axes."""
    bar = ax.get_figure().colorbar(mappable, ax=ax, shrink=0.85, pad=0.02, **options)  # type: ignore[union-attr]
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return bar


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape are drawn as images: square, of at least 4 x 4 pixels."""
    try:
        height, width = image_size(np.empty((1, *event_shape)))
    except ShapeError:
        return False
    return height >= 4 and height * width == int(np.prod(event_shape))
