"""Sequential Monte Carlo: particles that move from the model to the target through temperatures."""

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
ISLANDS, SMALLEST = 8, 16  # Number of islands, and smallest number of particles of each.
SHARE = 0.5  # Fraction of the effective sample size that each temperature keeps.
MOST_TEMPERATURES = 1000
# Moves at a temperature end at this correlation with the particles' earlier positions, or after this many
# times the number of moves asked for.
FORGOTTEN, MOST_TURNS = 0.1, 10
LOOKED_AT = 16  # Number of noise coordinates by which islands are compared, in addition to l.


def particles(run: Run) -> TiltedSamples:
    """n particles in islands that share only the temperatures, so that their spread estimates the error."""
    # There may be a few more than asked for, so that islands are equal and not too small.
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
    """Median effective sample size of quantities ``[n, Q]``, from the spread of their means over islands."""
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = weights @ told
    each = (weights[:, None] * (told - mean)).reshape(islands, -1, told.shape[1]).sum(axis=1)
    squares = (each**2).sum(axis=0) * islands / (islands - 1)
    return float(np.median((weights @ (told - mean) ** 2) / np.maximum(squares, 1e-300)))


@dataclass
class History:
    """Record of an annealing run.

    It holds the temperatures, the fractions of accepted moves, the heaviest tail of the weights between two
    temperatures, and the largest correlation of particles with their positions before the moves.
    """

    temperatures: list[float] = field(default_factory=lambda: [0.0])
    shares: list[float] = field(default_factory=list)
    tail: float = float("-inf")
    memory: float = 0.0

    @property
    def acceptance(self) -> float:
        return float(np.mean(self.shares)) if self.shares else float("nan")


def anneal(run: Run, count: int, islands: int) -> tuple[_core.Population, History]:
    """Particles at temperature 1. At each temperature they move until they have lost their old positions."""
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
            f"stopped at temperature {history.temperatures[-1]:.3g}, after {MOST_TEMPERATURES} temperatures"
        )
    return population, history


def _told(population: _core.Population) -> Real:
    """Values l and some noise coordinates of every particle, ``[n, Q]``."""
    values = np.asarray(population.values)
    # Where the weight is zero, l is replaced by its least finite value.
    least = values[np.isfinite(values)].min(initial=0.0)
    told = np.where(np.isfinite(values), values, least)
    return np.column_stack([told, np.asarray(population.noise)[:, :LOOKED_AT]])


def _correlation(before: Real, after: Real) -> float:
    """Correlation of l, or the mean correlation of the coordinates, whichever is larger."""
    away = [part - part.mean(axis=0) for part in (before, after)]
    scale = np.sqrt((away[0] ** 2).sum(axis=0) * (away[1] ** 2).sum(axis=0))
    each = (away[0] * away[1]).sum(axis=0) / np.maximum(scale, 1e-300)
    return float(max(each[0], each[1:].mean()))


def moved(run: Run, population: _core.Population, *, adapt: bool) -> float:
    """Make one move of all particles. Returns the fraction that accepted it."""
    at = run.objective.at(np.asarray(population.propose()), slopes=run.kind == "mala")
    return population.decide(at.x, at.values, at.slopes, adapt=adapt)
