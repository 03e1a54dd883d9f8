"""Part 3: ten attractors of dysts at its default settings, without tuning: valid time in Lyapunov times.

Which ten is a rule: the first in the order of the alphabet that have three dimensions and an estimated
Lyapunov exponent above 0, and that dysts integrates within its time limit to finite numbers (the adapter
follows it). One path of 5,000 rows, a hundred in each period, is fitted to; 50 starts are on the path that
follows it.
"""

from __future__ import annotations

import numpy as np

from koopflow import KoopmanForecaster

from . import rivals
from .clock import Clock
from .environments import Unavailable
from .scores import Real, deviation, valid_times

COUNT, FITTED, TESTED, STARTS = 10, 5_000, 5_000, 50
SECONDS = 300.0  # Of the processor for one attractor, as its adapter limits it.
AHEAD, MOST = 10.0, 4000  # Lyapunov times that are forecast, and the most rows.


def scored(path: Real, dt: float, exponent: float, fitted: int, seed: int) -> dict[str, float]:
    """Fits to the first rows of a path ``[T, 3]`` and forecasts from the others."""
    own, held = path[:fitted], path[fitted:]
    ahead = int(min(np.ceil(AHEAD / exponent / dt), MOST, len(held) // 2))
    model = KoopmanForecaster(seed=seed)
    clock = Clock()
    model.fit(own[None], dt * np.arange(fitted), progress=False)
    took = clock.row()
    starts = np.linspace(0, len(held) - ahead - 1, STARTS).astype(int)
    leads = dt * np.arange(1, ahead + 1)
    truth = np.stack([held[at + 1 : at + 1 + ahead] for at in starts], axis=1)
    valid = valid_times(np.asarray(model.forecast(held[starts], leads)), truth, leads, deviation(own[None]))
    return {
        "median": float(np.median(valid)) * exponent,
        "mean": float(valid.mean()) * exponent,
        "to the end": float((valid >= leads[-1]).mean()),
        "end": float(leads[-1]) * exponent,
    } | took


def measure(seed: int, others: rivals.Rivals, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """A row of every attractor."""
    count, fitted, tested = (1, 300, 300) if quick else (COUNT, FITTED, TESTED)
    task = {"count": count, "rows": fitted + tested}
    try:
        found = rivals.ask("dysts", [], task, others.folder, COUNT * SECONDS)
    except Unavailable as error:
        return {f"dysts: {error}": {}}
    rows: dict[str, dict[str, float]] = {}
    for place, name in enumerate(found["names"]):
        dt, exponent = float(found["dt"][place]), float(found["exponents"][place])
        rows[str(name)] = scored(found["paths"][place], dt, exponent, fitted, seed)
        print(f"{name}, seed {seed}: {rows[str(name)]}", flush=True)
    return rows
