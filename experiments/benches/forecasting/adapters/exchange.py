"""The common part of all adapters: reading a task and writing results. Needs only numpy."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
# A function that forecasts contexts [B, H, D] 1, 2, ..., L steps ahead, [L, B, D]; it was fitted to paths.
Forecast = Callable[[Real, int], Real]
Fit = Callable[[Real, float], Forecast]


def serve(configurations: Mapping[str, Fit]) -> None:
    """Run the configuration named on the command line, in units of the data's deviations."""
    given, answer, name = sys.argv[1:4]
    with np.load(given) as found:
        task: dict[str, Any] = dict(found)
    paths = task["paths"]
    mean, scale = paths.mean(axis=(0, 1)), paths.std(axis=(0, 1))
    begun, worked = time.perf_counter(), time.process_time()
    forecast = configurations[name]((paths - mean) / scale, float(task["dt"]))
    took = {"seconds": time.perf_counter() - begun, "worked": time.process_time() - worked}
    found = forecast((task["contexts"] - mean) / scale, len(task["leads"]))
    np.savez(answer, forecasts=np.asarray(found) * scale + mean, **took)


def pairs(paths: Real, most: int | None = None) -> tuple[Real, Real]:
    """Rows and the rows that follow them, ``[P, D]``; at most ``most`` of them, drawn at random."""
    first = paths[:, :-1].reshape(-1, paths.shape[2])
    second = paths[:, 1:].reshape(-1, paths.shape[2])
    if most is None or len(first) <= most:
        return first, second
    chosen = np.random.default_rng(0).choice(len(first), most, replace=False)
    return first[chosen], second[chosen]


def repeated(step: Callable[[Real], Real], starts: Real, count: int) -> Real:
    """States ``[count, B, D]`` of a repeated step; NaN after values that are not finite."""
    out, x = np.full((count, *starts.shape), np.nan), starts
    for place in range(count):
        # Some libraries refuse values that are not finite, and huge values are wrong anyway.
        fine = np.isfinite(x).all(axis=1) & (np.abs(x).max(axis=1) < 1e6)
        if not fine.any():
            break
        x = np.where(fine[:, None], np.real(step(np.where(fine[:, None], x, 0.0))), np.nan)
        out[place] = x
    return out
