"""Paths on the attractors of equations that are evaluated for one state at a time. Needs numpy and SciPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import odeint

Real = NDArray[np.float64]
Field = Callable[[Real, float], Real]  # The rates of a state [D] at a time.

TOLERANCE = 1e-10  # Tolerance of each step of LSODA, relative to the deviation of each coordinate.
MOST = 5000  # Largest number of steps of LSODA within a row.


def integrated(field: Field, begin: Real, scale: Real, dt: float, rows: int, tolerance: float) -> Real:
    """Rows ``[N, rows, D]`` a time ``dt`` apart, the first of them ``begin``, ``[N, D]``.

    LSODA integrates in units of ``scale``, ``[D]``. Rows after a failure to reach the tolerance are NaN.
    """

    def rates(state: Real, time: float) -> Real:
        return np.asarray(field(state * scale, time), dtype=np.float64) / scale

    times, out = dt * np.arange(rows), []
    for start in begin / scale:
        path, told = odeint(
            rates, start, times, rtol=tolerance, atol=tolerance, mxstep=MOST, full_output=True
        )
        if told["message"] != "Integration successful.":
            path[:] = np.nan
        out.append(path * scale)
    return np.stack(out)


def near(begin: Real, scale: Real, count: int, seed: int, size: float = 0.01) -> Real:
    """States ``[count, D]`` around one on the attractor, at ``size`` deviations of each coordinate."""
    return begin + size * scale * np.random.default_rng(seed).normal(size=(count, len(begin)))


def halving(field: Field, paths: Real, scale: Real, dt: float, tolerance: float, count: int = 50) -> float:
    """Integration error of rows, by integrating from the rows before them with a hundredth of the tolerance.

    It is the largest distance, in deviations of a coordinate, of ``count`` rows spread over ``paths``.
    """
    rows = paths.shape[1] - 1
    places = np.linspace(0, len(paths) * rows - 1, count).astype(int)
    path, row = places // rows, places % rows
    finer = integrated(field, paths[path, row], scale, dt, 2, tolerance / 100.0)[:, 1]
    return float((np.abs(finer - paths[path, row + 1]) / scale).max())
