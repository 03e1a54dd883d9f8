"""Plots of forecasts of sequences: fans, smoothed paths and errors by lead time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from .._arrays import Array, as_batch, as_integer, as_number, as_numbers, to_numpy
from ..exceptions import ArgumentError, ShapeError
from ..forecasting import ForecastReport, SmoothedPaths
from ..forecasting.report import VALID
from . import _canvas
from ._canvas import DATA, FAINT, INK, STUDENT, TEACHER, note, plain, titled

# Colour, style and width of each forecast that a report measures.
LINES = {
    "model": (STUDENT, "-", 1.8),
    "analogues": (TEACHER, "-", 1.2),
    "persistence": (DATA, "--", 1.2),
    "climatology": (DATA, ":", 1.4),
}
# Opacity of the outer and the inner band.
SHADES = (0.18, 0.4)
Real = NDArray[np.float64]


def forecast_fan(
    times: Sequence[float] | Array,
    mean: Array | None = None,
    *,
    members: Array | None = None,
    truth: Array | None = None,
    history: Array | None = None,
    history_times: Sequence[float] | Array | None = None,
    coordinate: int = 0,
    level: float = 0.9,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a forecast of one path: its mean, intervals of its members, the history and the truth.

    Parameters
    ----------
    times : sequence of float, ``[T]``
        Times of the forecast, in any order.
    mean : array, ``[T, *event]``, optional
        Forecast drawn as a line; by default the mean of the members.
    members : array, ``[M, T, *event]``, optional
        Members of an ensemble, for instance ``model.forecast(x, times, members=32)[:, :, 0]`` for one path.
    truth : array, ``[T, *event]``, optional
        True values at ``times``; NaN is left out.
    history : array, ``[H, *event]``, optional
        Observed values before the forecast; NaN is left out.
    history_times : sequence of float, ``[H]``, optional
        Times of ``history``. By default they have the spacing of ``times`` and end one spacing before the
        forecast.
    coordinate : int, default 0
        Position in the flattened row.
    level : float, default 0.9
        Fraction of the members inside the outer band. The inner band holds half of them.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import plotting
    >>> times = np.linspace(0.1, 3, 30)
    >>> members = np.sin(times) + 0.1 * times * np.random.default_rng(0).normal(size=(32, 1))
    >>> ax = plotting.forecast_fan(times, members=members, truth=np.sin(times))
    """
    when = np.asarray(as_numbers(times, "times", "[0.1, 0.2]"))
    if mean is None and members is None:
        raise ArgumentError("mean, members: expected at least one of them, got neither")
    ensemble = None if members is None else _rows("members", members, ("M", len(when)))
    if mean is not None or ensemble is None:
        line = _rows("mean", mean, (len(when),))
    else:
        line = ensemble.mean(axis=0)
    event, level = line.shape[1:], _share(level)
    bands: list[tuple[float, Real, Real]] = []
    if ensemble is not None:
        ensemble = _chosen(_rows("members", ensemble, ("M", len(when)), event), 2, coordinate)
        if len(ensemble) > 1:
            for share in sorted({0.5, level}, reverse=True):
                low, high = np.quantile(_finite(ensemble), [(1.0 - share) / 2, (1.0 + share) / 2], axis=0)
                bands.append((share, low, high))
    line = _finite(_chosen(line, 1, coordinate))
    came = None if truth is None else _chosen(_rows("truth", truth, (len(when),), event), 1, coordinate)
    order = np.argsort(when, kind="stable")
    ax = _canvas.axes_or_new(ax, (6.4, 3.4))
    if history is not None:
        before = _chosen(_rows("history", history, ("H",), event), 1, coordinate)
        if history_times is None:
            gaps = np.diff(when[order])
            gap = float(np.median(gaps)) if len(gaps) else abs(float(when[0])) or 1.0
            earlier = when.min() - gap * np.arange(len(before), 0, -1)
        else:
            earlier = _times("history_times", history_times, len(before))
        # A single row between gaps has no line, so markers are drawn.
        mark = None if np.isfinite(before).all() else "."
        ax.plot(earlier, before, color=DATA, linewidth=1.1, marker=mark, markersize=4, label="seen")
        ax.axvline(earlier.max(), color=FAINT, linewidth=0.9, zorder=0)
    elif history_times is not None:
        raise ArgumentError("history_times: expected history= as well, got them alone")
    if came is not None:
        ax.plot(when[order], came[order], color=INK, linewidth=1.1, linestyle=(0, (4, 2)), label="came")
    _bands(ax, when, bands, of=f" of {len(ensemble)} members" if ensemble is not None else "")
    name = "forecast" if mean is not None or not bands else "mean of the members"
    ax.plot(when[order], line[order], color=STUDENT, linewidth=1.6, zorder=3, label=name)
    lost = when[~np.isfinite(line)]
    warning = f"not finite from time {lost.min():g} on" if len(lost) else None
    return _labelled(ax, title, event, coordinate, warning)


def smoothed(
    found: SmoothedPaths,
    *,
    observations: Array | None = None,
    observed_times: Sequence[float] | Array | None = None,
    truth: Array | None = None,
    path: int = 0,
    coordinate: int = 0,
    level: float = 0.9,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the estimate of one path, with central intervals of 50% and ``level``, and its observations.

    Parameters
    ----------
    found : SmoothedPaths
        Result of :meth:`koopflow.KoopmanForecaster.smooth`. Raises ``TypeError`` for anything else.
    observations : array, ``[B, T', *event]``, optional
        Observations, as passed to ``smooth``; NaN is left out.
    observed_times : sequence of float, ``[T']``, optional
        Times of the observations; by default those of ``found``.
    truth : array, ``[T, B, *event]``, optional
        True states at the times of ``found``.
    path, coordinate : int, default 0
        Number of the path, and position in the flattened row.
    level : float, default 0.9
        Probability of the outer band.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import KoopmanForecaster, plotting
    >>> t = 0.1 * np.arange(60)
    >>> paths = np.stack([np.cos(t), np.sin(t)], axis=1)[None] * np.array([1.0, 2.0, 3.0])[:, None, None]
    >>> model = KoopmanForecaster(basis="polynomial", degree=1).fit(paths, t, progress=False)
    >>> ax = plotting.smoothed(model.smooth(paths, t, noise=0.1), observations=paths, path=1)
    """
    if not isinstance(found, SmoothedPaths):
        raise TypeError(f"found: expected SmoothedPaths, got {type(found).__name__}")
    when, level = np.asarray(to_numpy(found.times), dtype=np.float64), _share(level)
    centre = _rows("found", found.mean, (len(when), "B"))
    count, event = centre.shape[1], centre.shape[2:]
    place = as_integer(path, "path", least=0, most=count - 1)
    centre = _chosen(centre[:, place], 1, coordinate)
    bands: list[tuple[float, Real, Real]] = []
    for share in sorted({0.5, level}, reverse=True):
        ends = (_rows("found", end, (len(when), count), event)[:, place] for end in found.interval(share))
        low, high = (_chosen(end, 1, coordinate) for end in ends)
        bands.append((share, low, high))
    order = np.argsort(when, kind="stable")
    ax = _canvas.axes_or_new(ax, (6.4, 3.4))
    _bands(ax, when, bands)
    ax.plot(when[order], centre[order], color=STUDENT, linewidth=1.5, zorder=3, label="mean")
    if truth is not None:
        exact = _chosen(_rows("truth", truth, (len(when), count), event)[:, place], 1, coordinate)
        style: dict[str, Any] = {"linewidth": 1.1, "linestyle": (0, (4, 2)), "zorder": 4}
        ax.plot(when[order], exact[order], color=INK, label="truth", **style)
    if observations is not None:
        length = "T" if observed_times is not None else len(when)
        seen = _chosen(_rows("observations", observations, (count, length), event)[place], 1, coordinate)
        at = when if observed_times is None else _times("observed_times", observed_times, len(seen))
        size = float(np.clip(2500.0 / len(seen), 4.0, 14.0))
        ax.scatter(at, seen, s=size, color=DATA, alpha=0.75, linewidths=0, zorder=2.5, label="seen")
    elif observed_times is not None:
        raise ArgumentError("observed_times: expected observations= as well, got them alone")
    return _labelled(ax, title, event, coordinate)


def forecast_errors(report: ForecastReport, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw errors of forecasts by lead time, with those of persistence, climatology and analogues.

    The thin line is the error from which on a forecast is no longer valid. The dot marks the median time at
    which the model's forecasts cross it. Errors far above those of the others are cut off.

    Parameters
    ----------
    report : ForecastReport
        Result of :meth:`koopflow.KoopmanForecaster.evaluate`. Raises ``TypeError`` for anything else.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import KoopmanForecaster, plotting
    >>> t = 0.1 * np.arange(60)
    >>> paths = np.stack([np.cos(t), np.sin(t)], axis=1)[None] * np.array([1.0, 2.0, 3.0])[:, None, None]
    >>> model = KoopmanForecaster(basis="polynomial", degree=1).fit(paths, t, progress=False)
    >>> ax = plotting.forecast_errors(model.evaluate(paths, t))
    """
    if not isinstance(report, ForecastReport):
        raise TypeError(f"report: expected ForecastReport, got {type(report).__name__}")
    ax = _canvas.axes_or_new(ax, (5.6, 3.6))
    leads = report.lead_times
    few: dict[str, Any] = {"marker": "o", "markersize": 3} if len(leads) < 12 else {}
    for name, errors in report.nrmse.items():
        colour, style, width = LINES[name]
        front = 3 if name == "model" else 2
        ax.plot(leads, errors, style, c=colour, lw=width, zorder=front, label=name, **few)
    others = [errors for name, errors in report.nrmse.items() if name != "model"]
    model = _finite(report.nrmse["model"])
    ends = np.concatenate([*others, model])
    top = min(float(np.nanmax(ends)), 1.6 * float(np.nanmax(np.concatenate(others))))
    ax.set(xlim=(0.0, float(leads[-1]) * 1.01), ylim=(0.0, 1.08 * max(top, VALID)))
    ax.axhline(VALID, color=FAINT, linewidth=0.9, zorder=0)
    until = float(np.median(report.valid_time["model"]))
    ax.scatter(until, VALID, s=30, color=STUDENT, edgecolors="white", linewidths=0.8, zorder=4, clip_on=False)
    # The text is on the side of the line without the model's curve.
    above = np.interp(until, leads, np.nan_to_num(model, nan=top)) <= VALID
    right = until > 0.6 * float(leads[-1])
    side: dict[str, Any] = {"ha": "right" if right else "left", "va": "bottom" if above else "top"}
    said = f"valid for {'at least ' * bool(until >= leads[-1])}{until:.3g}"
    shift = (-6 if right else 6, 5 if above else -5)
    note(ax, said, (until, VALID), shift, color=STUDENT, fontsize=8, zorder=4, **side)
    words = [f"{report.starts} starts", f"skill {round(report.skill, 2) + 0.0:.2f}"]
    if report.coverage is not None:
        words.append(f"90% intervals hold {report.coverage.mean():.0%}")
    _legend(ax)
    ax.set(xlabel=f"lead time  ({', '.join(words)})", ylabel="RMS error (deviations of the data)")
    plain(ax)
    return titled(ax, title, pad=24.0)


def _rows(
    name: str, given: Any, leading: tuple[int | str, ...], event: tuple[int, ...] | None = None
) -> Real:
    """Numbers with these leading axes and event; a name is any length above 0. Raises ``ShapeError``."""
    array = np.asarray(to_numpy(as_batch(given, name)), dtype=np.float64)
    wanted = leading if event is None else (*leading, *event)
    known = array.shape[: len(wanted)]
    fits = len(known) == len(wanted) and all(
        have > 0 if isinstance(want, str) else have == want for have, want in zip(known, wanted, strict=True)
    )
    if not fits or 0 in array.shape or (event is not None and array.ndim > len(wanted)):
        said = ", ".join(map(str, wanted)) + (", *event" if event is None else "," * (len(wanted) == 1))
        raise ShapeError(f"{name}: expected ({said}), got {array.shape}")
    return array


def _chosen(array: Real, leading: int, coordinate: int) -> Real:
    """The values of one position in the flattened event. Raises ``ArgumentError`` if it does not exist."""
    flat = array.reshape(*array.shape[:leading], -1)
    return flat[..., as_integer(coordinate, "coordinate", least=0, most=flat.shape[-1] - 1)]


def _times(name: str, given: Sequence[float] | Array, count: int) -> Real:
    times = np.asarray(as_numbers(given, name, "[0.1, 0.2]"))
    if len(times) != count:
        raise ShapeError(f"{name}: expected ({count},), got {times.shape}")
    return times


def _share(level: Any) -> float:
    return as_number(level, "level", "a share in (0, 1)", lambda share: 0.0 < share < 1.0)


def _finite(values: Real) -> Real:
    return np.where(np.isfinite(values), values, np.nan)


def _bands(ax: Axes, when: Real, bands: Sequence[tuple[float, Real, Real]], of: str = "") -> None:
    """Draw central intervals, the widest first."""
    order = np.argsort(when, kind="stable")
    for place, (share, low, high) in enumerate(bands):
        shade = 1.0 - SHADES[place] * (1.0 - np.asarray(to_rgb(STUDENT)))
        style: dict[str, Any] = {"color": shade, "linewidth": 0, "zorder": 1}
        said = f"{100 * share:.3g}%{of * (place == 0)}"
        ax.fill_between(when[order], low[order], high[order], label=said, **style)


def _legend(ax: Axes) -> None:
    """Draw the legend as one row above the axes, where it covers no curve."""
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "handlelength": 1.6, "columnspacing": 1.2}
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.01, 0.99), "borderaxespad": 0.2}
    ax.legend(ncols=6, **where, **style)


def _labelled(
    ax: Axes, title: str | None, event: tuple[int, ...], coordinate: int, warning: str | None = None
) -> Axes:
    """Label the axis of time, and add the legend above the axes and the title over it."""
    ax.margins(x=0.01)
    ax.set(xlabel="time", ylabel=f"coordinate {coordinate}" if event else "value")
    plain(ax)
    _legend(ax)
    return titled(ax, title, warning, pad=24.0)
