"""Sequential Monte Carlo: particles that go from the model to the target by temperatures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .found import TiltedSamples
from .objective import Evaluated
from .run import Run

Real = NDArray[np.float64]
ISLANDS, SMALLEST = 8, 64  # Of no fewer particles than that.
SHARE = 0.5  # Of the effective size that each temperature keeps.
MOST_TEMPERATURES = 1000
LOOKED_AT = 16  # Coordinates of the noise by which islands are compared, beside l.


def particles(run: Run) -> TiltedSamples:
    """n particles in islands that share the temperatures alone, so that their spread is an error."""
    islands = max((i for i in range(1, ISLANDS + 1) if run.n % i == 0 and run.n // i >= SMALLEST), default=1)
    population, temperatures, acceptance = anneal(run, run.n, islands)
    log_weights = np.asarray(population.log_weights)
    noise = np.asarray(population.noise)
    each = log_weights.reshape(islands, -1)[:, 0]
    size, _, log_mean = _core.weighed(log_weights, seed=run.seed)
    spread = float(np.exp(each - log_mean).std(ddof=1)) / math.sqrt(islands) if islands > 1 else float("nan")
    told = np.column_stack([np.asarray(population.values), noise[:, :LOOKED_AT]])
    effective = min(size * len(np.unique(noise, axis=0)) / len(noise), apart(told, log_weights, islands))
    at = Evaluated(noise, np.asarray(population.samples), np.asarray(population.values))
    return run.found(
        at,
        log_weights,
        "smc",
        ess=effective,
        ess_interval=(float("nan"), float("nan")),
        pareto_k=float("nan"),
        log_evidence=log_mean,
        log_evidence_error=spread,
        acceptance=acceptance,
        blocks=np.repeat(np.arange(islands), run.n // islands),
        temperatures=temperatures,
    )


def apart(told: Real, log_weights: Real, islands: int) -> float:
    """Effective size of quantities ``[n, Q]`` by the spread of their means over islands: their median."""
    if islands < 3:
        return float("inf")
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = weights @ told
    each = (weights[:, None] * (told - mean)).reshape(islands, -1, told.shape[1]).sum(axis=1)
    squares = (each**2).sum(axis=0) * islands / (islands - 1)
    return float(np.median((weights @ (told - mean) ** 2) / np.maximum(squares, 1e-300)))


def anneal(run: Run, count: int, islands: int) -> tuple[_core.Population, list[float], float]:
    """Particles at temperature 1, the temperatures on the way, and the mean share of accepted moves."""
    objective, slopes = run.objective, run.kind == "mala"
    at = objective.at(run.noise(count), slopes=slopes)
    run.kept = lambda: run.weighted(at, at.values, "importance")
    population = _core.Population(
        at.noise, at.x, at.values, at.slopes, islands=islands, kind=run.kind, seed=run.seed
    )
    temperatures, shares = [0.0], []
    while temperatures[-1] < 1.0 and len(temperatures) <= MOST_TEMPERATURES:
        temperatures.append(population.warm(SHARE))
        population.resample()
        for _ in range(run.moves):
            shares.append(moved(run, population, adapt=True))
        run.tell(round(1000 * temperatures[-1]), 1000, accepted=shares[-1])
    if temperatures[-1] < 1.0:
        run.notes.append(f"stopped at temperature {temperatures[-1]:.3g} after {MOST_TEMPERATURES} of them")
    return population, temperatures, float(np.mean(shares)) if shares else float("nan")


def moved(run: Run, population: _core.Population, *, adapt: bool) -> float:
    """One move of all particles; the share that accepted it."""
    at = run.objective.at(np.asarray(population.propose()), slopes=run.kind == "mala")
    return population.decide(at.x, at.values, at.slopes, adapt=adapt)
