"""Part 3: valid times of forecasts of ten attractors of dysts, in Lyapunov times, without tuning.

The ten were chosen by a rule that was fixed before any fit. They are the first in alphabetical order that
have three dimensions, are autonomous with bounded coordinates, have an estimated Lyapunov exponent above 0,
and are not Lorenz' system, which is in the part on chaos. Equations, parameters, initial states, periods and
exponents are the package's. Its estimates of exponents are rough, but the same for all forecasters.

There are thirty rows in a period. Twenty paths of a thousand rows are for fitting, and fifty others give the
contexts of forecasts. The beginning of every path, which depends on the initial state, is cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from koopflow import KoopmanForecaster

from . import rivals
from .analogues import analogues
from .clock import Clock
from .environments import Unavailable
from .scores import Real, deviation, valid_times

COUNT, FITTED, ROWS, STARTS, CONTEXT = 10, 20, 1_000, 50, 40
POINTS = 30  # Number of rows in a period.
FORGOTTEN = 10.0, 30  # Lyapunov times and periods that are cut off, whichever is longer.
AHEAD, MOST = 25.0, 2_000  # Length of a forecast in Lyapunov times, and largest number of rows.
SECONDS = 900.0  # Limit of processor time for the paths of one attractor.
MEDIAN, FURTHEST = "median", "furthest"


@dataclass(frozen=True)
class Data:
    """Paths to fit to ``[N, T, 3]``, contexts ``[B, 40, 3]`` and what follows them, ``[L, B, 3]``.

    All are in deviations of each coordinate. ``dt`` is the time between rows, ``exponent`` the largest
    Lyapunov exponent.
    """

    paths: Real
    contexts: Real
    truth: Real
    dt: float
    exponent: float

    @property
    def leads(self) -> Real:
        return self.dt * np.arange(1, len(self.truth) + 1)

    @property
    def jump(self) -> float:
        """The ninth decile of distances between successive rows, in the unit of errors."""
        moved = np.linalg.norm(np.diff(self.paths, axis=1), axis=-1)
        return float(np.quantile(moved, 0.9)) / deviation(self.paths)


def divided(paths: Real, fitted: int, rows: int, ahead: int, dt: float, exponent: float) -> Data:
    """The first ``fitted`` paths to fit to, and the others to forecast; coordinates differ in their units."""
    paths = paths / paths[:fitted, :rows].std(axis=(0, 1))
    held = paths[fitted:, : CONTEXT + ahead]
    return Data(paths[:fitted, :rows], held[:, :CONTEXT], held[:, CONTEXT:].swapaxes(0, 1), dt, exponent)


def names(others: rivals.Rivals, *, quick: bool = False) -> list[str]:
    """The attractors by the rule. Raises ``Unavailable`` without dysts."""
    found = rivals.ask("dysts", ["names"], {"count": 1 if quick else COUNT}, others.folder, SECONDS)
    return [str(name) for name in found["names"]]


def data(name: str, seed: int, others: rivals.Rivals, *, quick: bool = False) -> Data:
    """Paths of one attractor. Raises ``Unavailable`` if they cannot be made."""
    fitted, rows, starts, most = (3, 100, 4, 20) if quick else (FITTED, ROWS, STARTS, MOST)
    task = {
        "points": POINTS,
        "forgotten": FORGOTTEN,
        "ahead": AHEAD,
        "most": most,
        "rows": rows,
        "context": CONTEXT,
        "count": fitted + starts,
        "seed": seed,
    }
    found = rivals.ask("dysts", [name], task, others.folder, SECONDS)
    off, dt, exponent = (float(found[key]) for key in ("off", "dt", "exponent"))
    given = divided(found["paths"], fitted, rows, int(found["ahead"]), dt, exponent)
    print(
        f"{name}, seed {seed}: rows are {off:.1e} deviations off those of a finer tolerance, "
        f"and a tenth of them {given.jump:.2f} deviations or more from the row before",
        flush=True,
    )
    return given


def scored(forecast: Real, given: Data) -> dict[str, float]:
    """Valid times in Lyapunov times, the fraction valid to the end, and the time of the end."""
    leads, exponent = given.leads, given.exponent
    valid = valid_times(forecast, given.truth, leads, deviation(given.paths))
    return {
        MEDIAN: float(np.median(valid)) * exponent,
        "mean": float(valid.mean()) * exponent,
        "to the end": float((valid >= leads[-1]).mean()),
        FURTHEST: float(leads[-1]) * exponent,
    }


def koopflow(given: Data, seed: int, *, quick: bool = False) -> dict[str, float]:
    """The forecaster with its default options."""
    model = KoopmanForecaster(seed=seed, observables=40 if quick else None)
    clock = Clock()
    model.fit(given.paths, given.dt * np.arange(given.paths.shape[1]), progress=False)
    took = clock.row()
    forecast = np.asarray(model.forecast(given.contexts[:, -1], given.leads))
    return scored(forecast, given) | took


def compared(
    given: Data, seed: int, others: rivals.Rivals, *, quick: bool = False
) -> Iterator[tuple[str, dict[str, float]]]:
    """A row for each forecaster. The name of a rival that failed says why."""
    yield "koopflow", koopflow(given, seed, quick=quick)
    followed = analogues(given.paths, given.contexts[:, -1], len(given.leads))
    yield "eight nearest analogues", scored(followed, given)
    task = rivals.Task(given.paths, given.dt, given.contexts, given.leads)
    for rival, forecast, took in others.forecasts(task):
        yield rival, {} if forecast is None else scored(forecast, given) | took


def measure(
    name: str, seed: int, others: rivals.Rivals, *, quick: bool = False
) -> dict[str, dict[str, float]]:
    """A row for each forecaster of one attractor."""
    try:
        given = data(name, seed, others, quick=quick)
    except Unavailable as error:
        return {f"dysts: {error}": {}}
    rows = {}
    for label, row in compared(given, seed, others, quick=quick):
        rows[label] = row
        print(f"{name}, seed {seed}: {label}: {row}", flush=True)
    return rows


def medians(
    tables: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]],
) -> dict[str, list[dict[str, float]]]:
    """Medians by forecaster, from rows by attractor and forecaster; a row per seed, a column per attractor.

    The last row gives the length of the forecasts.
    """
    out: dict[str, list[dict[str, float]]] = {}
    for name, rows in tables.items():
        for label, measured in rows.items():
            for place, row in enumerate(measured):
                for text, key in ((label, MEDIAN), (FURTHEST, FURTHEST)):
                    if key in row:
                        own = out.setdefault(text, [])
                        own.extend({} for _ in range(place + 1 - len(own)))
                        own[place][name] = row[key]
    return dict(sorted(out.items(), key=lambda pair: pair[0] == FURTHEST))
