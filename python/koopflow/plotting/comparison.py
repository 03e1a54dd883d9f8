"""Methods side by side: what quality costs, and how far paths are off."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..exceptions import ArgumentError
from ..metrics.errors import PATH_TIMES
from ._canvas import DATA, FAINT, INK, STUDENT, TEACHER, new_figure, plain, title_of

# Panels from left to right: column and label.
COSTS = (("evaluations", "network evaluations"), ("milliseconds", "milliseconds for 1,000 samples"))


def comparison(
    rows: Iterable[Mapping[str, Any]],
    *,
    curves: Sequence[Mapping[str, Any]] = (),
    axes: Sequence[Axes] | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """Quality against network evaluations and against time, and path errors over t.

    Parameters
    ----------
    rows : sequence of mapping
        Of one problem, as :func:`koopflow.compare` gives them: ``method``, ``budget``, ``evaluations``,
        ``milliseconds``, ``w2_over_teacher``. Seeds are averaged; of several budgets the first one counts.
    curves : sequence of mapping, optional
        ``problem``, ``method``, ``budget`` and ``path``, the error at each of
        :data:`koopflow.metrics.errors.PATH_TIMES`; also ``straight line``.
    axes : sequence of three matplotlib axes, optional
        Where to draw.
    title : str, optional
        Above the first panel.

    Returns
    -------
    array of matplotlib.axes.Axes, ``[3]``

    Raises
    ------
    ArgumentError
        When there is no row, or there are not three axes.
    """
    rows = list(rows)
    if not rows:
        raise ArgumentError("rows: expected at least one, got none")
    panels = list(new_figure((13.5, 4.2)).subplots(1, 3)) if axes is None else list(axes)
    if len(panels) != 3:
        raise ArgumentError(f"axes: expected 3, got {len(panels)}")
    budgets = [row["budget"] for row in rows if row["budget"]]
    rows = [row for row in rows if row["budget"] in ("", *budgets[:1])]
    methods = {
        name: [row for row in rows if row["method"] == name]
        for name in dict.fromkeys(r["method"] for r in rows)
    }
    for ax, (column, label) in zip(panels[:2], COSTS, strict=True):
        _costs(ax, methods, column, label)
    problem = rows[0].get("problem")
    _curves(panels[2], [curve for curve in curves if curve["problem"] == problem], budgets[:1])
    if title:
        title_of(panels[0], title)
    return np.array(panels)


def _costs(ax: Axes, methods: Mapping[str, list[Mapping[str, Any]]], column: str, label: str) -> None:
    solvers: list[tuple[float, float]] = []
    for name, rows in methods.items():
        x, y = _mean(rows, column), _mean(rows, "w2_over_teacher")
        if math.isnan(x) or math.isnan(y) or name == "straight line":
            continue
        colour = _colour(name)
        if name.startswith("Euler"):
            solvers.append((x, y))
        ax.scatter([x], [y], s=26, color=colour, zorder=3, linewidths=0)
        ax.annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6, color=colour)
    if solvers:
        ax.plot(*zip(*sorted(solvers), strict=True), color=FAINT, linewidth=1.0, zorder=1)
    ax.axhline(1.0, color=FAINT, linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(label)
    ax.set_ylabel("W2 to data, over the teacher's")
    plain(ax)


def _curves(ax: Axes, curves: Sequence[Mapping[str, Any]], budgets: Sequence[str]) -> None:
    named: dict[str, list[Sequence[float]]] = {}
    for curve in curves:
        if curve["budget"] in ("", *budgets):
            named.setdefault(curve["method"], []).append(curve["path"])
    for name, values in named.items():
        mean = np.mean(values, axis=0)
        # Solvers are off by their own tolerance at most.
        if mean.max() < 1e-4:
            continue
        ax.plot(PATH_TIMES, mean, color=_colour(name), linewidth=1.4)
        ax.annotate(name, (PATH_TIMES[-1], mean[-1]), xytext=(3, 0), textcoords="offset points", fontsize=6)
    ax.set_yscale("log")
    ax.set_xlabel("t")
    ax.set_ylabel("path error, of the data's deviation")
    plain(ax)


def _colour(name: str) -> str:
    if name.startswith(("dopri5", "Euler", "Heun")):
        return TEACHER
    if "koopflow" in name or name == "hierarchical":
        return STUDENT
    return DATA if name == "straight line" else INK


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    values = [row[column] for row in rows if not math.isnan(row[column])]
    return float(np.mean(values)) if values else math.nan
