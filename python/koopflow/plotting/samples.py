"""Samples, paths and training, whatever made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from .._arrays import Array
from ..exceptions import ArgumentError
from ._canvas import (
    FAINT,
    INK,
    STUDENT,
    TEACHER,
    axes_or_new,
    by_title,
    finish,
    limits_of,
    panels_or_new,
    plane,
    polyline,
    square,
    title_of,
)


def samples(
    points: Array,
    *,
    ax: Axes | None = None,
    kind: str = "scatter",
    colour: str | None = None,
    limits: tuple[float, float, float, float] | None = None,
    title: str | None = None,
) -> Axes:
    """Two-dimensional samples.

    Parameters
    ----------
    points : array, ``[N, 2]``
        Samples, NumPy or torch.
    kind : {"scatter", "density"}, default "scatter"
        One dot a sample, or a histogram of 128 by 128 cells.
    colour : str, optional
        Colour of the dots.
    limits : (left, right, bottom, top), optional
        Sides of the picture; by default what the central 99.8% of the samples span.
    ax, title
        As everywhere in :mod:`koopflow.plotting`.

    Examples
    --------
    >>> from koopflow import datasets, plotting
    >>> ax = plotting.samples(datasets.moons(500), title="two moons")
    >>> ax.get_title(loc="left")
    'two moons'
    """
    xy = plane("points", points)
    ax = axes_or_new(ax)
    left, right, bottom, top = limits or limits_of(xy)
    if kind == "scatter":
        size = float(np.clip(6000.0 / len(xy), 1.0, 16.0))
        alpha = float(np.clip(1200.0 / len(xy), 0.15, 0.8))
        ax.scatter(xy[:, 0], xy[:, 1], s=size, alpha=alpha, color=colour or TEACHER, linewidths=0)
    elif kind == "density":
        counts, _, _ = np.histogram2d(xy[:, 0], xy[:, 1], bins=128, range=[[left, right], [bottom, top]])
        ax.imshow(counts.T, origin="lower", extent=(left, right, bottom, top), cmap="magma", aspect="equal")
    else:
        raise ArgumentError(f"kind: expected 'scatter' or 'density', got {kind!r}")
    square(ax, (left, right, bottom, top))
    title_of(ax, title)
    return ax


def side_by_side(
    sets: Mapping[str, Array], *, axes: Sequence[Axes] | None = None, kind: str = "scatter"
) -> NDArray[Any]:
    """Sets of two-dimensional samples next to each other, on the same scale.

    Parameters
    ----------
    sets : mapping from title to array ``[N, 2]``
        Samples by title; a title that begins with data, teacher or student gets that colour.
    axes : sequence of matplotlib axes, optional
        Axes, one for each set.
    kind : {"scatter", "density"}, default "scatter"
        As in :func:`samples`.

    Examples
    --------
    >>> from koopflow import datasets, plotting
    >>> axes = plotting.side_by_side({"data": datasets.moons(200), "student": datasets.moons(200, seed=1)})
    >>> len(axes)
    2
    """
    if not sets:
        raise ArgumentError("sets: expected at least one set of samples, got none")
    limits = limits_of(plane("sets", next(iter(sets.values()))))
    shape = (limits[3] - limits[2]) / (limits[1] - limits[0])
    panels = panels_or_new(axes, len(sets), shape)
    for ax, (title, points) in zip(panels, sets.items(), strict=True):
        samples(points, ax=ax, kind=kind, limits=limits, title=title, colour=by_title(title))
    return panels


def paths(
    student: Array,
    teacher: Array | None = None,
    *,
    ax: Axes | None = None,
    background: Array | None = None,
    title: str | None = None,
) -> Axes:
    """Two-dimensional paths from noise to data, the student's over the teacher's.

    Parameters
    ----------
    student : array, ``[T, B, 2]``
        States at T times, as :meth:`koopflow.KoopmanDistiller.sample_path` gives them.
    teacher : array, ``[T', B, 2]``, optional
        The teacher's paths from the same noise, drawn wide and pale underneath.
    background : array, ``[N, 2]``, optional
        Data, drawn faintly.
    ax, title
        As everywhere in :mod:`koopflow.plotting`.
    """
    lines = polyline("student", student)
    below = None if teacher is None else polyline("teacher", teacher)
    ax = axes_or_new(ax)
    seen = [lines.reshape(-1, 2)]
    if background is not None:
        cloud = plane("background", background)
        ax.scatter(cloud[:, 0], cloud[:, 1], s=3, color=FAINT, alpha=0.5, linewidths=0, zorder=0)
        seen.append(cloud)
    if below is not None:
        wide = LineCollection(list(below.swapaxes(0, 1)), colors=TEACHER, linewidths=3.2, alpha=0.35)
        wide.set_label("teacher")
        ax.add_collection(wide)
        seen.append(below.reshape(-1, 2))
    thin = LineCollection(list(lines.swapaxes(0, 1)), colors=STUDENT, linewidths=1.0)
    thin.set_label("student")
    ax.add_collection(thin)
    starts, ends = lines[0].T, lines[-1].T
    ring: dict[str, Any] = {"c": "white", "edgecolors": INK, "linewidths": 0.8, "label": "noise"}
    ax.scatter(starts[0], starts[1], s=14, zorder=3, **ring)
    ax.scatter(ends[0], ends[1], s=14, color=STUDENT, linewidths=0, zorder=3, label="data")
    square(ax, limits_of(np.concatenate(seen), central=1.0))
    ax.legend(loc="upper right", frameon=False, fontsize=8, handlelength=1.4)
    title_of(ax, title)
    return ax


def loss_history(
    history: Mapping[str, Any],
    *,
    ax: Axes | None = None,
    terms: Sequence[str] | None = None,
    title: str | None = None,
) -> Axes:
    """Loss terms and errors over the training steps, on a logarithmic scale.

    Parameters
    ----------
    history : mapping
        History of a fit: ``teacher.history_`` or ``student.history_``.
    terms : sequence of str, optional
        Names of the values; by default all that stay positive, except the learning rate and times.
    ax, title
        As everywhere in :mod:`koopflow.plotting`.

    Examples
    --------
    >>> from koopflow import plotting
    >>> ax = plotting.loss_history({"loss": [[1, 2.0], [2, 1.0], [3, 0.5]]})
    >>> ax.get_xlabel()
    'step'
    """
    curves = _curves(history)
    if terms is None:
        terms = [
            name
            for name, (_, values) in curves.items()
            if name not in ("learning_rate", "seconds") and np.all(np.asarray(values) > 0)
        ]
    missing = [name for name in terms if name not in curves]
    if missing or not terms:
        raise ArgumentError(f"terms: expected names among {sorted(curves)}, got {missing or 'none'}")
    ax = axes_or_new(ax, size=(5.6, 3.6))
    for place, name in enumerate(terms):
        steps, values = curves[name]
        width, alpha = (1.6, 1.0) if name.endswith("error") else (0.9, 0.7)
        # Colours come again after ten curves.
        style = "-" if place < 10 else "--"
        ax.plot(steps, values, style, linewidth=width, alpha=alpha, label=name.replace("_", " "))
    ax.set_yscale("log")
    # Many names would lie over the curves.
    where: Any = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(terms) > 4 else {}
    ax.legend(frameon=False, fontsize=8, **where)
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    return finish(ax, title, "step")


def _curves(history: Mapping[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    """Named curves from either history: pairs of a step and a loss, or a log of rows."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for step, value in history.get("loss", []):
        steps, values = curves.setdefault("loss", ([], []))
        steps.append(step)
        values.append(value)
    for row in history.get("log", []):
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    if not curves:
        raise ArgumentError("history: expected 'loss' or 'log' with at least one entry, got neither")
    return curves
