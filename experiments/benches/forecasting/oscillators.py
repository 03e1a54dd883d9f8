"""Part 2: errors for planar systems with starts in a box, inside the window of the fit and beyond it."""

from __future__ import annotations

import numpy as np

from koopflow import KoopmanForecaster
from koopflow.exceptions import DivergenceError

from . import rivals
from .clock import Clock
from .scores import Real, squared
from .systems import OSCILLATORS

DT, FITTED, TESTED = 0.1, 1000, 200
BEYOND = 3  # Number of windows that are forecast.


def scored(forecast: Real, truth: Real, inside: int) -> dict[str, float]:
    """Logarithms of mean squared errors until the window's end, and from there to three times the window."""
    return {
        "log10 MSE inside": float(np.log10(squared(forecast[:inside], truth[:inside]))),
        "log10 MSE beyond": float(np.log10(squared(forecast[inside:], truth[inside:]))),
    }


def measure(
    name: str, seed: int, others: rivals.Rivals | None = None, *, quick: bool = False
) -> dict[str, dict[str, float]]:
    """Rows of every forecaster of one system. The name of a rival that failed says why."""
    system = OSCILLATORS[name]
    inside = 10 if quick else round(system.window / DT)
    leads = DT * np.arange(1, BEYOND * inside + 1)
    paths = system.paths(20 if quick else FITTED, inside + 1, DT, seed)
    held = system.paths(5 if quick else TESTED, len(leads) + 1, DT, 1000 + seed)
    truth = held[:, 1:].swapaxes(0, 1)
    times = DT * np.arange(inside + 1)
    clock = Clock()
    model = KoopmanForecaster(seed=seed).fit(paths, times, progress=False)
    took = clock.row()
    rows: dict[str, dict[str, float]] = {}
    for text, choice in (("koopflow", "auto"), ("koopflow, never encoded anew", "never")):
        try:
            forecast = np.asarray(model.forecast(held[:, 0], leads, re_encode=choice))
        except DivergenceError:
            forecast = np.full_like(truth, np.inf)
        rows[text] = scored(forecast, truth, inside) | took
    print(f"{name}, seed {seed}: {rows}, encoded every {model.re_encode_} steps", flush=True)
    if others is not None:
        for rival, forecast, spent in others.forecasts(rivals.Task(paths, DT, held[:, :1], leads)):
            row = {} if forecast is None else scored(forecast, truth, inside)
            rows[rival] = row if forecast is None else row | spent
            print(f"{name}, seed {seed}: {rival}: {rows[rival]}", flush=True)
    return rows
