"""Sequential Monte Carlo: particles that go from the model to the target by temperatures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .found import TiltedSamples
from .objective import Evaluated
from .reliability import pareto_k
from .run import Run

Real = NDArray[np.float64]
ISLANDS, SMALLEST = 8, 16  # Of no fewer particles than that.
SHARE = 0.5  # Of the effective size that each temperature keeps.
MOST_TEMPERATURES = 1000
# Correlation with where particles were at which moves end, and how many times as many as asked for are made.
FORGOTTEN, MOST_TURNS = 0.1, 10
LOOKED_AT = 16  # Coordinates of the noise by which islands are compared, beside l.


def particles(run: Run) -> TiltedSamples:
    """n particles in islands that share the temperatures alone, so that their spread is an error."""
    # A few more than asked for, where islands would not be equal or too small.
    each_island = max(math.ceil(run.n / ISLANDS), SMALLEST)
    islands = ISLANDS
    population, history = anneal(run, islands * each_island, islands)
    log_weights = np.asarray(population.log_weights)
    noise = np.asarray(population.noise)
    each = log_weights.reshape(islands, -1)[:, 0]
    size, _, log_mean = _core.weighed(log_weights, seed=run.seed)
    spread = float(np.exp(each - log_mean).std(ddof=1)) / math.sqrt(islands)
    distinct = len(np.unique(noise, axis=0)) / len(noise)
    effective = min(size * distinct, apart(_told(population), log_weights, islands))
    kept = np.linspace(0, len(noise) - 1, run.n).round().astype(int)
    at = Evaluated(noise[kept], np.asarray(population.samples)[kept], np.asarray(population.values)[kept])
    return run.found(
        at,
        log_weights[kept],
        "smc",
        ess=effective * run.n / len(noise),
        ess_interval=(float("nan"), float("nan")),
        pareto_k=history.tail,
        log_evidence=log_mean,
        log_evidence_error=spread,
        acceptance=history.acceptance,
        memory=history.memory,
        blocks=np.repeat(np.arange(islands), each_island)[kept],
        temperatures=history.temperatures,
    )


def apart(told: Real, log_weights: Real, islands: int) -> float:
    """Effective size of quantities ``[n, Q]`` by the spread of their means over islands: their median."""
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = weights @ told
    each = (weights[:, None] * (told - mean)).reshape(islands, -1, told.shape[1]).sum(axis=1)
    squares = (each**2).sum(axis=0) * islands / (islands - 1)
    return float(np.median((weights @ (told - mean) ** 2) / np.maximum(squares, 1e-300)))


@dataclass
class History:
    """What happened on the way: temperatures, shares of accepted moves, the heaviest tail of the weights
    between two temperatures, and the largest correlation that moves left with where particles had been."""

    temperatures: list[float] = field(default_factory=lambda: [0.0])
    shares: list[float] = field(default_factory=list)
    tail: float = float("-inf")
    memory: float = 0.0

    @property
    def acceptance(self) -> float:
        return float(np.mean(self.shares)) if self.shares else float("nan")


def anneal(run: Run, count: int, islands: int) -> tuple[_core.Population, History]:
    """Particles at temperature 1. At each temperature they move until little is left of where they were."""
    objective, slopes, history = run.objective, run.kind == "mala", History()
    at = objective.at(run.noise(count), slopes=slopes)
    run.kept = lambda: run.weighted(at, at.values, "importance")
    population = _core.Population(
        at.noise, at.x, at.values, at.slopes, islands=islands, kind=run.kind, seed=run.fresh_seed()
    )
    while history.temperatures[-1] < 1.0 and len(history.temperatures) <= MOST_TEMPERATURES:
        values = np.asarray(population.values)
        history.temperatures.append(population.warm(SHARE))
        gained = history.temperatures[-1] - history.temperatures[-2]
        history.tail = float(np.fmax(history.tail, pareto_k(gained * values)))
        population.resample()
        before = _told(population)
        for turn in range(MOST_TURNS):
            history.shares += [moved(run, population, adapt=turn == 0) for _ in range(run.moves)]
            left = _correlation(before, _told(population))
            run.tell(round(1000 * history.temperatures[-1]), 1000, accepted=history.shares[-1], memory=left)
            if left <= FORGOTTEN:
                break
        history.memory = max(history.memory, left)
    if history.temperatures[-1] < 1.0:
        run.notes.append(
            f"stopped at temperature {history.temperatures[-1]:.3g} of {MOST_TEMPERATURES} of them"
        )
    return population, history


def _told(population: _core.Population) -> Real:
    """l and some coordinates of the noise of every particle, ``[n, Q]``."""
    values = np.asarray(population.values)
    # Where a weight is zero, as where it is least.
    least = values[np.isfinite(values)].min(initial=0.0)
    told = np.where(np.isfinite(values), values, least)
    return np.column_stack([told, np.asarray(population.noise)[:, :LOOKED_AT]])


def _correlation(before: Real, after: Real) -> float:
    """Of l, or of coordinates on average, whichever is the larger."""
    away = [part - part.mean(axis=0) for part in (before, after)]
    scale = np.sqrt((away[0] ** 2).sum(axis=0) * (away[1] ** 2).sum(axis=0))
    each = (away[0] * away[1]).sum(axis=0) / np.maximum(scale, 1e-300)
    return float(max(each[0], each[1:].mean()))


def moved(run: Run, population: _core.Population, *, adapt: bool) -> float:
    """One move of all particles; the share that accepted it."""
    at = run.objective.at(np.asarray(population.propose()), slopes=run.kind == "mala")
    return population.decide(at.x, at.values, at.slopes, adapt=adapt)
