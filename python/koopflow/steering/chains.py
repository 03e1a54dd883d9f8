"""Markov chains in noise space."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .found import TiltedSamples
from .objective import Evaluated
from .particles import ISLANDS, History, anneal, moved
from .run import Run

Real = NDArray[np.float64]
CHAINS = 64
POOL = 512  # Number of particles from which chains start, and whose covariance their steps use.
SPREAD = 1.05  # Chains with a larger R-hat have not converged.
LOOKED_AT = 16  # Number of noise coordinates by which chains are compared, in addition to l.


def chains(run: Run) -> TiltedSamples:
    """n states of many Markov chains that start from annealed particles.

    Step sizes are adapted during ``burn_in`` moves. Afterwards they are fixed, and every ``thin``-th state is
    kept.
    """
    count = min(run.n, CHAINS if run.chains is None else run.chains)
    length = math.ceil(run.n / count)
    population, history = anneal(run, max(math.ceil(count / ISLANDS) * ISLANDS, POOL), ISLANDS)
    pool = np.asarray(population.noise)
    # Evenly spaced members of the pool, which are not copies of each other once the particles have moved.
    chosen = np.linspace(0, len(pool) - 1, count).round().astype(int)
    current = Evaluated(
        pool[chosen], np.asarray(population.samples)[chosen], np.asarray(population.values)[chosen]
    )
    objective = run.objective
    if run.kind == "mala":
        current = objective.at(current.noise, slopes=True)
    walkers = _core.Population(
        current.noise,
        current.x,
        current.values,
        current.slopes,
        temperature=1.0,
        kind=run.kind,
        seed=run.fresh_seed(),
    )
    walkers.refer(pool)
    total = run.burn_in + length * run.thin
    for step in range(run.burn_in):
        share = moved(run, walkers, adapt=True)
        run.tell(step + 1, total, accepted=share)
    shares: list[float] = []
    states: list[Evaluated] = []

    def found() -> TiltedSamples:
        return _found(run, states, count, float(np.mean(shares)), history)

    for draw in range(length):
        shares += [moved(run, walkers, adapt=False) for _ in range(run.thin)]
        states.append(
            Evaluated(np.asarray(walkers.noise), np.asarray(walkers.samples), np.asarray(walkers.values))
        )
        run.tell(run.burn_in + (draw + 1) * run.thin, total, accepted=shares[-1])
        run.kept = found
    return found()


def _found(
    run: Run, states: list[Evaluated], count: int, acceptance: float, history: History
) -> TiltedSamples:
    kept = min(run.n, count * len(states))
    whole = Evaluated(
        *(np.concatenate([getattr(s, name) for s in states])[:kept] for name in ("noise", "x", "values"))
    )
    # [draws, chains, quantities].
    told = np.stack([np.column_stack([s.values, s.noise[:, :LOOKED_AT]]) for s in states])
    size, spread = mixing(told)
    found = run.found(
        whole,
        np.zeros(kept),
        "mcmc",
        ess=min(size, float(kept)),
        ess_interval=(float("nan"), float("nan")),
        pareto_k=history.tail,
        log_evidence=float("nan"),
        log_evidence_error=float("nan"),
        acceptance=acceptance,
        memory=history.memory,
        blocks=np.tile(np.arange(count), len(states))[:kept],
    )
    if len(states) < 2:
        found.doubts.append("chains of one state each do not show whether they have converged")
    elif spread > SPREAD:
        found.doubts.append(f"chains have not converged: R-hat is {spread:.2f}, expected at most {SPREAD}")
    return found


def mixing(told: Real) -> tuple[float, float]:
    """Smallest effective sample size and largest R-hat of quantities ``[draws, chains, Q]``.

    The effective size follows from the spread of the chains' means. R-hat is that of Gelman and Rubin,
    Statistical Science 7, 1992.
    """
    draws, count, _ = told.shape
    if count < 2 or draws < 2:
        return float("nan"), float("nan")
    between = told.mean(axis=0).var(axis=0, ddof=1)
    within = told.var(axis=0, ddof=1).mean(axis=0)
    whole = within * (draws - 1) / draws + between
    # Constant quantities, such as a reward that is 0 or minus infinity, are left out.
    moves = whole > 0.0
    if not moves.any():
        return float("nan"), float("nan")
    size = count * whole[moves] / np.maximum(between[moves], 1e-300)
    spread = np.sqrt(whole[moves] / np.maximum(within[moves], 1e-300))
    return float(size.min()), float(spread.max())
