"""Errors of forecasts, compared with forecasts that need no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._tables import text_table
from .paths import Paths

Real = NDArray[np.float64]
#: Error, in deviations of the data, from which on a forecast is no longer valid.
VALID = 0.4
NEIGHBOURS = 8
LIBRARY = 20_000  # Largest number of windows that are searched for analogues.


@dataclass(frozen=True, eq=False)
class ForecastReport:
    """Errors of forecasts from many starts; ``print`` shows them as a table.

    Attributes
    ----------
    lead_times : array, ``[L]``
        Lead times.
    nrmse : dict of array, ``[L]``
        RMS errors by lead time, in deviations of the data, of ``"model"``, ``"persistence"`` (the last row),
        ``"climatology"`` (the mean of the data) and, if the paths of the fit are known, ``"analogues"`` (the
        mean of what followed their eight nearest rows).
    valid_time : dict of array, ``[S]``
        Time until which the error of each start stays below 0.4 deviations; at most the last lead time.
    crps : array, ``[L]``, or None without members
        Mean continuous ranked probability score, in deviations of the data. For a forecast without spread it
        is the mean absolute error.
    coverage : array, ``[L]``, or None without members
        Fraction of true values inside the members' central 90% intervals.
    starts : int
        Number of starts.
    """

    lead_times: Real
    nrmse: dict[str, Real]
    valid_time: dict[str, Real]
    crps: Real | None
    coverage: Real | None
    starts: int

    @property
    def skill(self) -> float:
        """1 minus the ratio of the model's mean error to that of the best other forecast.

        It is above 0 if the model is better than all of them.
        """
        others = [errors.mean() for name, errors in self.nrmse.items() if name != "model"]
        return float(1.0 - self.nrmse["model"].mean() / min(others))

    def records(self) -> list[dict[str, Any]]:
        """One dictionary of plain numbers for each of at most eight lead times, geometrically spaced."""
        last = len(self.lead_times)
        places = np.unique(np.geomspace(1, last, min(8, last)).round().astype(int)) - 1
        rows = []
        for place in places:
            row: dict[str, Any] = {"lead": float(self.lead_times[place])}
            row |= {name: float(errors[place]) for name, errors in self.nrmse.items()}
            if self.crps is not None and self.coverage is not None:
                row |= {"crps": float(self.crps[place]), "coverage 90%": float(self.coverage[place])}
            rows.append(row)
        return rows

    def __str__(self) -> str:
        valid = ", ".join(f"{name} {np.median(times):.3g}" for name, times in self.valid_time.items())
        return f"{text_table(self.records())}\nmedian valid time of {self.starts} starts: {valid}"


@dataclass
class Starts:
    """Windows of paths and the rows that followed them."""

    windows: list[NDArray[Any]] = field(default_factory=list)
    futures: list[NDArray[Any]] = field(default_factory=list)
    conditions: list[NDArray[Any]] = field(default_factory=list)
    inputs: list[NDArray[Any]] = field(default_factory=list)

    @classmethod
    def of(cls, paths: Paths, history: int, ahead: int, step: float, most: int, seed: int) -> Starts:
        """At most ``most`` windows of ``history`` rows, each followed by ``ahead`` rows, from all paths."""
        found: list[tuple[int, int]] = []
        for place, (times, rows) in enumerate(paths):
            whole = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
            follows = np.zeros(len(rows), dtype=bool)
            follows[1:] = whole[1:] & whole[:-1] & (np.abs(np.diff(times) / step - 1.0) < 1e-2)
            # Number of rows before each row without a gap.
            run = np.zeros(len(rows), dtype=int)
            for row in range(1, len(rows)):
                run[row] = run[row - 1] + 1 if follows[row] else 0
            ends = np.flatnonzero(run >= history + ahead - 1)
            if history + ahead == 1:
                ends = np.flatnonzero(whole)
            found += [(place, int(end) - ahead - history + 1) for end in ends]
        if len(found) > most:
            chosen = np.random.default_rng(seed).choice(len(found), most, replace=False)
            found = [found[index] for index in np.sort(chosen)]
        starts = cls()
        for place, first in found:
            begin = int(paths.offsets[place]) + first
            middle = begin + history
            starts.windows.append(paths.values[begin:middle])
            starts.futures.append(paths.values[middle : middle + ahead])
            if paths.condition is not None:
                starts.conditions.append(paths.condition[place])
            if paths.inputs is not None:
                starts.inputs.append(paths.inputs[middle - 1 : middle - 1 + ahead])
        return starts

    def __len__(self) -> int:
        return len(self.windows)


def crps(members: Real, truth: Real) -> Real:
    """Mean CRPS by lead time, ``[L]``, of members ``[M, L, ...]``: E|X - y| - E|X - X'| / 2.

    It is the fair score, unbiased for few members (Ferro, Quarterly Journal of the Royal Meteorological
    Society 140, 2014).
    """
    count = len(members)
    ordered = np.sort(members, axis=0)
    near = np.abs(members - truth).mean(axis=0)
    # sum_ij |x_i - x_j| = 2 sum_i (2 i - M + 1) x_(i).
    weights = (2.0 * np.arange(count) - count + 1).reshape(-1, *[1] * (members.ndim - 1))
    apart = 2.0 * (weights * ordered).sum(axis=0) / max(count * (count - 1), 1)
    score = near - apart / 2.0
    return np.asarray(score.reshape(len(score), -1).mean(axis=1))


def analogues(library: Starts, windows: NDArray[Any], scale: Real) -> Real:
    """Means of the rows that followed the nearest windows of a library, ``[S, L, *event]``."""
    flat = np.stack(library.windows).astype(np.float64) / scale
    asked = np.asarray(windows, dtype=np.float64) / scale
    flat, asked = flat.reshape(len(flat), -1), asked.reshape(len(asked), -1)
    found = []
    for one in asked:
        nearest = np.argsort(((flat - one) ** 2).sum(axis=1))[:NEIGHBOURS]
        found.append(np.mean([library.futures[place] for place in nearest], axis=0, dtype=np.float64))
    return np.stack(found)


def measure(
    starts: Starts,
    forecast: Callable[..., NDArray[Any]],
    lead_times: Real,
    mean: Real,
    scale: Real,
    *,
    library: Starts | None,
    members: int,
) -> ForecastReport:
    """Errors of ``forecast``, a function of windows ``[S, h, *event]`` and a number of members."""
    windows, truth = np.stack(starts.windows), np.stack(starts.futures).astype(np.float64)
    found = {"model": np.moveaxis(forecast(windows, 0), 0, 1)}
    found["persistence"] = np.repeat(windows[:, -1:], truth.shape[1], axis=1)
    found["climatology"] = np.broadcast_to(mean, truth.shape)
    if library is not None and len(library):
        found["analogues"] = analogues(library, windows, scale)
    nrmse, valid = {}, {}
    for name, states in found.items():
        square = (((states - truth) / scale) ** 2).reshape(*truth.shape[:2], -1).mean(axis=2)
        nrmse[name] = np.sqrt(square.mean(axis=0))
        wrong = np.sqrt(square) > VALID
        until = np.where(wrong.any(axis=1), wrong.argmax(axis=1), truth.shape[1])
        valid[name] = np.concatenate([[0.0], lead_times])[until]
    scores = coverage = None
    if members:
        drawn = np.moveaxis(forecast(windows, members), 1, 2) / scale
        scores = crps(np.moveaxis(drawn, 1, 2), np.moveaxis(truth / scale, 0, 1))
        low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
        inside = (truth / scale >= low) & (truth / scale <= high)
        coverage = inside.reshape(*truth.shape[:2], -1).mean(axis=(0, 2))
    return ForecastReport(lead_times, nrmse, valid, scores, coverage, len(starts))
