"""statsmodels: the data, and ARIMA with its order for sunspots and a regression on the year for CO2."""

from __future__ import annotations

import sys
import time

import numpy as np
from statsmodels.datasets import co2, sunspots
from statsmodels.tsa.arima.model import ARIMA

ORDERS = {"sunspots": (9, 0, 0), "co2": (1, 1, 1)}
HARMONICS = {"sunspots": 0, "co2": 3}
YEAR = 365.25 / 7.0  # Length of a year in weeks.


def waves(name: str, first: int, last: int) -> np.ndarray | None:
    """Sines and cosines of the year, instead of a season of 52 states."""
    at = 2.0 * np.pi * np.arange(first, last)[:, None] * np.arange(1, HARMONICS[name] + 1) / YEAR
    return np.concatenate([np.sin(at), np.cos(at)], axis=1) if HARMONICS[name] else None


given, answer, name = sys.argv[1:4]
if name == "data":
    np.savez(
        answer,
        sunspots=sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(dtype=float),
        co2=co2.load_pandas().data["co2"].to_numpy(dtype=float),
    )
else:
    with np.load(given) as found:
        rows, held, season = found["rows"], int(found["held"]), int(found["season"])
        origins = found["origins"]
    begun, worked = time.perf_counter(), time.process_time()
    order, trend = ORDERS[name], "t" if ORDERS[name][1] else "c"
    fit = ARIMA(rows[:held], exog=waves(name, 0, held), order=order, trend=trend).fit()
    took = {"seconds": time.perf_counter() - begun, "worked": time.process_time() - worked}
    means, stds = [], []
    for origin in origins:
        # The parameters of the fit, applied to all observations until the origin.
        until = fit.apply(rows[:origin], exog=waves(name, 0, origin))
        ahead = until.get_forecast(season, exog=waves(name, origin, origin + season))
        means.append(ahead.predicted_mean)
        stds.append(ahead.se_mean)
    np.savez(answer, means=np.stack(means), stds=np.stack(stds), **took)
