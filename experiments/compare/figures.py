"""Figures of a comparison: quality against cost, and path errors over time."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter
from numpy.typing import NDArray

from koopflow.exceptions import ArgumentError
from koopflow.metrics.errors import PATH_TIMES
from koopflow.plotting._canvas import DATA, FAINT, INK, STUDENT, TEACHER, new_figure, plain, titled

# Panels from left to right: column and label.
COSTS = (("evaluations", "network evaluations"), ("milliseconds", "milliseconds for 1,000 samples"))

SOLVERS = ("dopri5", "Euler", "Heun")


def comparison(
    rows: Iterable[Mapping[str, Any]],
    *,
    curves: Sequence[Mapping[str, Any]] = (),
    axes: Sequence[Axes] | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """Draw quality over network evaluations and over time, and path errors over t.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of one problem, as :func:`experiments.compare.compare` returns them: ``method``, ``budget``,
        ``evaluations``, ``milliseconds``, ``w2_over_teacher``. Seeds are averaged. If there are several
        budgets, the first is drawn.
    curves : sequence of mapping, optional
        Path errors with the keys ``problem``, ``method``, ``budget`` and ``path``, the error at each of
        :data:`koopflow.metrics.errors.PATH_TIMES`. The method ``straight line`` is included.
    axes : sequence of three matplotlib axes, optional
        Axes to draw on; new ones by default.
    title : str, optional
        Title above the first panel.

    Returns
    -------
    array of matplotlib.axes.Axes, ``[3]``

    Raises
    ------
    ArgumentError
        If there are no rows, or not three axes.
    """
    rows = list(rows)
    if not rows:
        raise ArgumentError("rows: expected at least one, got none")
    panels = list(new_figure((13.5, 5.0)).subplots(1, 3)) if axes is None else list(axes)
    if len(panels) != 3:
        raise ArgumentError(f"axes: expected 3, got {len(panels)}")
    budgets = [row["budget"] for row in rows if row["budget"]][:1]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["budget"] in ("", *budgets):
            groups.setdefault(row["method"], []).append(row)
    styles = _styles(groups)
    for ax, (column, label) in zip(panels[:2], COSTS, strict=True):
        _costs(ax, groups, styles, column, label)
    problem = rows[0].get("problem")
    some = [c for c in curves if c["problem"] == problem and c["budget"] in ("", *budgets)]
    _curves(panels[2], some, styles)
    if title:
        titled(panels[0], title)
    if axes is None:
        handles = [Line2D([], [], label=name, **style) for name, style in styles.items()]
        panels[0].figure.legend(
            handles=handles, loc="outside lower center", ncols=6, fontsize=7, frameon=False
        )
    return np.array(panels)


def _family(name: str) -> str:
    """The legend entry of a row: a solver or a student, without its number of steps."""
    return name.split(",")[0] if name.startswith(SOLVERS) else re.sub(r", \d+ steps?$", "", name)


def _styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Line and marker of each family: solvers in the teacher's colour, koopflow in the student's."""
    families = dict.fromkeys(_family(name) for name in names)
    others = iter(colormaps["Dark2"].colors)  # type: ignore[attr-defined]
    shapes = itertools.cycle("sD^vP*Xph<>")
    styles: dict[str, dict[str, Any]] = {}
    for family in families:
        style: dict[str, Any] = {"linewidth": 1.2, "markersize": 6}
        if family.startswith(SOLVERS):
            style |= {"color": TEACHER, "marker": ".", "linestyle": "--" if family == "Heun" else "-"}
        elif family == "straight line":
            style |= {"color": DATA, "linestyle": ":"}
        elif family == "koopflow":
            style |= {"color": STUDENT, "marker": "o", "linewidth": 2.0}
        else:
            style |= {"color": next(others, INK), "marker": next(shapes)}
        styles[family] = style
    return styles


def _costs(
    ax: Axes,
    groups: Mapping[str, Sequence[Mapping[str, Any]]],
    styles: Mapping[str, dict[str, Any]],
    column: str,
    label: str,
) -> None:
    points: dict[str, list[tuple[float, float]]] = {}
    for name, rows in groups.items():
        x, y = _mean(rows, column), _mean(rows, "w2_over_teacher")
        # The straight line ends at the teacher's endpoints, so its quality is the teacher's.
        if name != "straight line" and not (math.isnan(x) or math.isnan(y)):
            points.setdefault(_family(name), []).append((x, y))
    for family, some in points.items():
        ax.plot(*zip(*sorted(some), strict=True), **styles[family])
    ax.axhline(1.0, color=FAINT, linewidth=0.8, zorder=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.yaxis.set_minor_formatter(ScalarFormatter())
    ax.tick_params(axis="y", which="minor", labelsize=7)
    ax.set_xlabel(label)
    ax.set_ylabel("W2 to data, over the teacher's")
    plain(ax)


def _curves(ax: Axes, curves: Sequence[Mapping[str, Any]], styles: Mapping[str, dict[str, Any]]) -> None:
    named: dict[str, list[Sequence[float]]] = {}
    for curve in curves:
        # Solvers are drawn in the other panels.
        if not curve["method"].startswith(SOLVERS):
            named.setdefault(curve["method"], []).append(curve["path"])
    for name, values in named.items():
        style = {key: value for key, value in styles[_family(name)].items() if key != "marker"}
        ax.plot(PATH_TIMES, np.mean(values, axis=0), **style)
    ax.set_yscale("log")
    ax.set_xlabel("t")
    ax.set_ylabel("path error, of the data's deviation")
    plain(ax)


def _mean(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    values = [row[column] for row in rows if not math.isnan(row[column])]
    return float(np.mean(values)) if values else math.nan
