"""Part 6: real series: yearly sunspots and weekly CO2, a season ahead from several origins.

The data and ARIMA are from statsmodels, which runs in its own environment like the other libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from koopflow import KoopmanForecaster

from . import rivals
from .clock import WALL, WORKED, Clock
from .environments import Unavailable
from .scores import Real, crps_of_members, crps_of_normal, seasonal_scale

HELD_OUT, ORIGINS, MEMBERS = 0.2, 12, 100
CONTEXT = 3  # Number of seasons before an origin that a forecast uses; its gaps are filtered.


@dataclass(frozen=True)
class Series:
    """One series, with NaN for missing rows; its season, and the first held-out row."""

    rows: Real
    season: int
    held: int

    @property
    def origins(self) -> list[int]:
        """Rows after which forecasts begin, spread over the held-out part."""
        last = len(self.rows) - self.season
        return np.unique(np.linspace(self.held, last, ORIGINS).astype(int)).tolist()

    def scored(self, means: Real, scores: Real) -> dict[str, float]:
        """MASE, and the probability score in the same unit, of means and scores ``[O, L]``."""
        unit = seasonal_scale(self.rows[: self.held], self.season)
        truth = np.stack([self.rows[at : at + self.season] for at in self.origins])
        return {
            "MASE": float(np.nanmean(np.abs(means - truth))) / unit,
            "CRPS": float(np.nanmean(scores)) / unit,
        }

    def truth(self, origin: int) -> Real:
        return self.rows[origin : origin + self.season]


def of(rows: Real, season: int) -> Series:
    return Series(rows, season, round(len(rows) * (1.0 - HELD_OUT)))


# Options of the fitted models, from the season's length.
MODELS: dict[str, Callable[[int], dict[str, Any]]] = {
    "koopflow, Fourier": lambda season: {"history": season},
    "koopflow, linear": lambda season: {"basis": "polynomial", "degree": 1, "history": season},
}


def naive(given: Series) -> dict[str, float]:
    """The value a season before, with the deviation of such differences in earlier rows.

    A missing value is replaced by that of one season earlier.
    """
    filled = given.rows.copy()
    for row in range(given.season, len(filled)):
        if np.isnan(filled[row]):
            filled[row] = filled[row - given.season]
    past = given.rows[: given.held]
    std = np.full(given.season, np.nanstd(past[given.season :] - past[: -given.season]))
    means = np.stack([filled[at - given.season : at] for at in given.origins])
    scores = [crps_of_normal(m, std, given.truth(at)) for m, at in zip(means, given.origins, strict=True)]
    return given.scored(means, np.stack(scores))


def koopflow(given: Series, options: dict[str, Any], seed: int) -> dict[str, float]:
    """A forecaster fitted to the part that is not held out; forecasts use the rows before each origin."""
    model = KoopmanForecaster(seed=seed, **options)
    clock = Clock()
    model.fit([given.rows[: given.held]], progress=False)
    took = clock.row()
    context = min(CONTEXT * given.season, given.origins[0])
    windows = np.stack([given.rows[at - context : at] for at in given.origins])
    leads = model.step_ * np.arange(1, given.season + 1)
    means = np.asarray(model.forecast(windows, leads)).T
    drawn = np.asarray(model.forecast(windows, leads, members=MEMBERS, seed=seed))
    scores = [crps_of_members(drawn[:, :, n], given.truth(at)) for n, at in enumerate(given.origins)]
    return given.scored(means, np.stack(scores)) | took


def arima(given: Series, name: str, others: rivals.Rivals) -> dict[str, float]:
    """Scores of ARIMA. Raises ``Unavailable`` if statsmodels cannot run."""
    task = {"rows": given.rows, "held": given.held, "origins": given.origins, "season": given.season}
    found = rivals.ask("statsmodels", [name], task, others.folder, others.seconds)
    means, stds = found["means"], found["stds"]
    scores = [
        crps_of_normal(mean, std, given.truth(at))
        for mean, std, at in zip(means, stds, given.origins, strict=True)
    ]
    return given.scored(means, np.stack(scores)) | {
        WALL: float(found["seconds"]),
        WORKED: float(found["worked"]),
    }


def rows(given: Series, name: str, seed: int, others: rivals.Rivals | None) -> Iterator[tuple[str, Any]]:
    yield "seasonal naive", naive(given)
    for text, options in MODELS.items():
        yield text, koopflow(given, options(given.season), seed)
    if others is not None:
        try:
            yield "statsmodels, ARIMA", arima(given, name, others)
        except Unavailable as error:
            yield f"statsmodels, ARIMA: {error}", {}


def measure(seed: int, others: rivals.Rivals, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """MASE and CRPS of every forecaster of both series."""
    try:
        data = rivals.ask("statsmodels", ["data"], {}, others.folder, others.seconds)
    except Unavailable as error:
        return {f"statsmodels: {error}": {}}
    found: dict[str, dict[str, float]] = {}
    for name, season in (("sunspots", 11), ("co2", 52)):
        given = of(data[name][-6 * season :] if quick else data[name], season)
        for text, row in rows(given, name, seed, others):
            found[f"{name}: {text}"] = row
            print(f"{name}, seed {seed}: {text}: {row}", flush=True)
    return found
