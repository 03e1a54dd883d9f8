"""Plots of samples, paths and training, for any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from .._arrays import Array
from ..exceptions import ArgumentError
from . import _canvas
from ._canvas import COLOURS, FAINT, INK, STUDENT, TEACHER, in_plane, limits_of, titled


def samples(
    points: Array,
    *,
    ax: Axes | None = None,
    kind: str = "scatter",
    colour: str | Array | None = None,
    limits: tuple[float, float, float, float] | None = None,
    title: str | None = None,
) -> Axes:
    """Draw two-dimensional samples.

    Parameters
    ----------
    points : array, ``[N, 2]``
        Samples, NumPy or torch.
    kind : {"scatter", "density"}, default "scatter"
        Kind of plot: one dot for each sample, or a histogram of 128 by 128 cells.
    colour : str or array ``[N, 4]``, optional
        Colour of all dots, or of each dot.
    limits : (left, right, bottom, top), optional
        Limits of the axes; by default the range of the central 99.8% of the samples.

    Examples
    --------
    >>> from koopflow import datasets, plotting
    >>> ax = plotting.samples(datasets.moons(500), title="two moons")
    """
    xy = in_plane("points", points)
    ax, limits = _canvas.axes_or_new(ax), limits or limits_of(xy)
    if kind == "scatter":
        size, alpha = np.clip(6000.0 / len(xy), 1.0, 16.0), np.clip(1200.0 / len(xy), 0.15, 0.8)
        _canvas.dots(ax, xy, size, TEACHER if colour is None else colour, alpha=alpha)
    elif kind == "density":
        counts, _, _ = np.histogram2d(xy[:, 0], xy[:, 1], bins=128, range=[limits[:2], limits[2:]])
        ax.imshow(counts.T, origin="lower", extent=limits, cmap="magma", aspect="equal")
    else:
        raise ArgumentError(f"kind: expected 'scatter' or 'density', got {kind!r}")
    _canvas.square(ax, limits)
    return titled(ax, title)


def side_by_side(
    sets: Mapping[str, Array], *, axes: Sequence[Axes] | None = None, kind: str = "scatter"
) -> NDArray[Any]:
    """Draw sets of two-dimensional samples next to each other, on the scale of the first.

    Parameters
    ----------
    sets : mapping from title to array ``[N, 2]``
        Samples by title. A title that begins with data, teacher or student determines the colour.
    kind : {"scatter", "density"}, default "scatter"
        As in :func:`samples`.

    Examples
    --------
    >>> from koopflow import datasets, plotting
    >>> axes = plotting.side_by_side({"data": datasets.moons(200), "student": datasets.moons(200, seed=1)})
    """
    if not sets:
        raise ArgumentError("sets: expected at least one set of samples, got none")
    limits = limits_of(in_plane("sets", next(iter(sets.values()))))
    shape = (limits[3] - limits[2]) / (limits[1] - limits[0])
    panels = _canvas.panels_or_new(axes, len(sets), shape)
    for ax, (title, points) in zip(panels, sets.items(), strict=True):
        colour = next((COLOURS[name] for name in COLOURS if title.lower().startswith(name)), TEACHER)
        samples(points, ax=ax, kind=kind, limits=limits, title=title, colour=colour)
    return panels


def paths(
    student: Array,
    teacher: Array | None = None,
    *,
    ax: Axes | None = None,
    background: Array | None = None,
    start: str = "noise",
    title: str | None = None,
) -> Axes:
    """Draw two-dimensional paths from noise to data, the student's over the teacher's.

    Parameters
    ----------
    student : array, ``[T, B, 2]``
        States at T times, as :meth:`koopflow.KoopmanDistiller.sample_path` returns them.
    teacher : array, ``[T', B, 2]``, optional
        Paths of the teacher from the same noise, drawn wide and pale underneath.
    background : array, ``[N, 2]``, optional
        Data, drawn faintly.
    start : str, default "noise"
        Name of the paths' starting points in the legend.
    """
    thin = in_plane("student", student, "(T, B, 2)")
    wide = None if teacher is None else in_plane("teacher", teacher, "(T, B, 2)")
    cloud = None if background is None else in_plane("background", background)
    ax = _canvas.axes_or_new(ax)
    if cloud is not None:
        _canvas.dots(ax, cloud, 3, FAINT, alpha=0.5, zorder=0)
    if wide is not None:
        below = LineCollection(
            wide.swapaxes(0, 1), colors=TEACHER, linewidths=3.2, alpha=0.35, label="teacher"
        )
        ax.add_collection(below)
    ax.add_collection(LineCollection(thin.swapaxes(0, 1), colors=STUDENT, linewidths=1.0, label="student"))
    _canvas.dots(ax, thin[0], 14, "white", edgecolors=INK, linewidths=0.8, zorder=3, label=start)
    _canvas.dots(ax, thin[-1], 14, STUDENT, zorder=3, label="data")
    seen = [points.reshape(-1, 2) for points in (thin, wide, cloud) if points is not None]
    _canvas.square(ax, limits_of(np.concatenate(seen), central=1.0))
    ax.legend(loc="upper right", frameon=False, fontsize=8, handlelength=1.4)
    return titled(ax, title)


def loss_history(
    history: Mapping[str, Any],
    *,
    ax: Axes | None = None,
    terms: Sequence[str] | None = None,
    title: str | None = None,
) -> Axes:
    """Draw loss terms and errors over the training steps, on a logarithmic scale.

    Parameters
    ----------
    history : mapping
        History of a fit: ``teacher.history_`` or ``student.history_``.
    terms : sequence of str, optional
        Names of the values; by default all that stay positive, except the learning rate and times.

    Examples
    --------
    >>> from koopflow import plotting
    >>> ax = plotting.loss_history({"loss": [[1, 2.0], [2, 1.0], [3, 0.5]]})
    """
    # A history has pairs of step and loss, or a log of rows.
    rows = [{"step": step, "loss": loss} for step, loss in history.get("loss", [])]
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in [*rows, *history.get("log", [])]:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                curves.setdefault(name, []).append((row["step"], value))
    if not curves:
        raise ArgumentError("history: expected 'loss' or 'log' with at least one entry, got neither")
    if terms is None:
        own = [name for name in curves if name not in ("learning_rate", "seconds")]
        terms = [name for name in own if all(value > 0 for _, value in curves[name])]
    missing = [name for name in terms if name not in curves]
    if missing or not terms:
        raise ArgumentError(f"terms: expected names among {sorted(curves)}, got {missing or 'none'}")
    ax = _canvas.axes_or_new(ax, (5.6, 3.6))
    for place, name in enumerate(terms):
        width, alpha = (1.6, 1.0) if name.endswith("error") else (0.9, 0.7)
        # Colours repeat after ten curves.
        style = "-" if place < 10 else "--"
        ax.plot(*zip(*curves[name], strict=True), style, lw=width, alpha=alpha, label=name.replace("_", " "))
    ax.set_yscale("log")
    # A legend of many names would cover the curves.
    where: Any = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(terms) > 4 else {}
    ax.legend(frameon=False, fontsize=8, **where)
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    return _canvas.finish(ax, title, "step")
