"""Part 1: valid times of forecasts of Lorenz-63 and Lorenz-96, in Lyapunov times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from koopflow import KoopmanForecaster

from . import rivals
from .clock import Clock
from .scores import Real, deviation, valid_times
from .systems import Chaos, lorenz63, lorenz96

STARTS, CONTEXT = 50, 40
LYAPUNOV_TIMES = 25.0  # Length of a forecast.


@dataclass(frozen=True)
class Problem:
    """Paths to fit to, noise in deviations of the data, and options of the forecasters to fit."""

    system: Chaos
    paths: int
    rows: int
    options: dict[str, dict[str, Any]]
    noise: float = 0.0


LORENZ_FINE = Chaos(lorenz63, 3, 0.9056, 0.01, 1)
LORENZ = Chaos(lorenz63, 3, 0.9056, 0.1, 10)
LORENZ_96 = Chaos(lorenz96, 10, 1.2, 0.05, 5)
DEFAULT: dict[str, dict[str, Any]] = {"koopflow": {}}
REFINED: dict[str, dict[str, Any]] = {"koopflow, refine": {"method": "refine"}}
# The equations are quadratic, so a step is nearly a polynomial.
QUARTIC: dict[str, dict[str, Any]] = {"koopflow, degree 4": {"basis": "polynomial", "degree": 4}}
PROBLEMS = {
    "Lorenz-63, dt 0.01": Problem(LORENZ_FINE, 50, 1000, DEFAULT),
    "Lorenz-63, dt 0.1": Problem(LORENZ, 50, 1000, DEFAULT),
    "Lorenz-63, dt 0.1, 1% noise": Problem(LORENZ, 50, 1000, DEFAULT | REFINED, noise=0.01),
    "Lorenz-96": Problem(LORENZ_96, 20, 1500, DEFAULT | QUARTIC),
}


@dataclass(frozen=True)
class Data:
    """Paths to fit ``[N, T, D]``, contexts ``[B, 40, D]`` without and with noise, and rows that follow."""

    paths: Real
    clean: Real
    noisy: Real
    leads: Real
    truth: Real
    scale: float


def data(problem: Problem, seed: int, *, quick: bool = False) -> Data:
    """Paths to fit to, and the same number of starts for all forecasters, of another seed."""
    system = problem.system
    count, rows = (3, 100) if quick else (problem.paths, problem.rows)
    ahead = 20 if quick else round(LYAPUNOV_TIMES / system.exponent / system.dt)
    paths = system.paths(count, rows, seed)
    held = system.paths(4 if quick else STARTS, CONTEXT + ahead, 1000 + seed)
    scale, each = deviation(paths), paths.std(axis=(0, 1))
    random = np.random.default_rng([seed, 1])
    leads = system.dt * np.arange(1, ahead + 1)
    clean = held[:, :CONTEXT]
    noisy = clean + problem.noise * each * random.normal(size=clean.shape)
    fitted = paths + problem.noise * each * random.normal(size=paths.shape)
    return Data(fitted, clean, noisy, leads, held[:, CONTEXT:].swapaxes(0, 1), scale)


def scored(forecast: Real, given: Data, exponent: float) -> dict[str, float]:
    """Median and mean valid time in Lyapunov times, and the fraction valid to the end."""
    valid = valid_times(forecast, given.truth, given.leads, given.scale)
    return {
        "median": float(np.median(valid)) * exponent,
        "mean": float(valid.mean()) * exponent,
        "to the end": float((valid >= given.leads[-1]).mean()),
    }


def koopflow(
    problem: Problem, given: Data, seed: int, name: str, *, quick: bool = False
) -> Iterator[tuple[str, dict[str, float]]]:
    """Rows of one forecaster: from rows without noise, and from noisy rows and contexts if there is any."""
    times = problem.system.dt * np.arange(given.paths.shape[1])
    options = problem.options[name] | ({"observables": 40, "degree": 2} if quick else {})
    model = KoopmanForecaster(seed=seed, **options)
    clock = Clock()
    model.fit(given.paths, times, progress=False)
    took = clock.row()
    starts = {"": given.clean[:, -1]}
    if problem.noise:
        starts |= {", from noisy rows": given.noisy[:, -1]}
        starts |= {f", from {CONTEXT} noisy rows": given.noisy}
    for text, start in starts.items():
        forecast = np.asarray(model.forecast(start, given.leads))
        yield name + text, scored(forecast, given, problem.system.exponent) | took


def measure(
    name: str, seed: int, others: rivals.Rivals | None = None, *, quick: bool = False
) -> dict[str, dict[str, float]]:
    """Rows of every forecaster of one problem. The name of a rival that failed says why."""
    problem = PROBLEMS[name]
    given = data(problem, seed, quick=quick)
    rows: dict[str, dict[str, float]] = {}
    for own in problem.options:
        rows |= dict(koopflow(problem, given, seed, own, quick=quick))
        print(f"{name}, seed {seed}: {rows}", flush=True)
    if others is not None:
        task = rivals.Task(given.paths, problem.system.dt, given.clean, given.leads)
        for rival, forecast, took in others.forecasts(task):
            row = {} if forecast is None else scored(forecast, given, problem.system.exponent)
            rows[rival] = row if forecast is None else row | took
            print(f"{name}, seed {seed}: {rival}: {rows[rival]}", flush=True)
    return rows
