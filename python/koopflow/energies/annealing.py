"""Estimation of log Z by annealed importance sampling (Neal 2001) with hybrid Monte Carlo moves."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import as_integer, as_number, as_seed, checked_count
from .energy import Energy
from .hybrid import States, adapted, move
from .path import AnnealingPath

Numbers = NDArray[np.float64]

PILOTS = 128


def annealed_log_z(
    energy: Energy,
    n: int = 1024,
    temperatures: int = 256,
    seed: int | None = 0,
    *,
    deviation: float = 1.0,
    leapfrog: int = 8,
) -> tuple[float, float]:
    """Estimate log Z, the log of the integral of ``exp(-E)``, and its standard error.

    Chains start from a Gaussian around the origin and go through a ladder of potentials to the target. Their
    weights have the mean Z for any ladder. If the ladder is too short, a few weights dominate, and the
    standard error is too small as well: use more ``temperatures`` then, rather than more chains. A seed gives
    the same digits on one machine only, since chains amplify rounding. The implementation shares nothing with
    koopflow's sequential Monte Carlo, so the two can check each other.

    Pilot chains first space the ladder evenly in the thermodynamic length, and find the step size of each
    rung. The chains that are weighted adapt nothing, since otherwise their weights would not be unbiased.

    Parameters
    ----------
    energy : Energy
        Target, of any event shape.
    n, temperatures : int
        Number of chains, and number of rungs of the ladder, including both ends.
    seed : int or None
        Random seed; None draws one.
    deviation : float
        Standard deviation of the Gaussian in each coordinate; it should be similar to that of the target.
    leapfrog : int
        Number of leapfrog steps of the single move at each rung.

    Examples
    --------
    >>> from koopflow import energies
    >>> two = energies.GaussianMixture([[-2.0], [2.0]], 0.5)
    >>> value, error = annealed_log_z(two, 512, 32, deviation=2.0)
    >>> abs(value) < 4 * error < 0.2
    True
    """
    n, temperatures = checked_count(n), as_integer(temperatures, "temperatures", least=2)
    leapfrog = checked_count(leapfrog, "leapfrog")
    width = as_number(deviation, "deviation", "a positive number", lambda value: 0.0 < value < math.inf)
    path = AnnealingPath(energy, width)
    generator = torch.Generator().manual_seed(as_seed(seed))
    betas, steps = _ladder(path, temperatures, leapfrog, generator)
    x = path.start(n, generator)
    log_weights = torch.zeros(n, dtype=torch.float64)
    for rung in range(1, len(betas)):
        log_weights -= (betas[rung] - betas[rung - 1]) * path.slope(x)
        if rung < len(betas) - 1:
            potential = path.at(betas[rung])
            states, _ = move(potential, States.at(potential, x), steps[rung], leapfrog, generator)
            x = states.x
    weights = (log_weights - log_weights.max()).exp()
    value = path.log_z_at_start + log_weights.max().item() + weights.mean().log().item()
    error = weights.std().item() / weights.mean().item() / math.sqrt(n) if n > 1 else math.nan
    return value, error


def _ladder(
    path: AnnealingPath, temperatures: int, leapfrog: int, generator: torch.Generator
) -> tuple[list[float], list[float]]:
    """Rungs at equal distances in the thermodynamic length, and the step sizes of moves there."""
    # The first rungs are close together, since strong forces that the Gaussian lacks, such as a repulsion,
    # set in there.
    betas = np.linspace(0.0, 1.0, temperatures) ** 4
    x, step = path.start(PILOTS, generator), 0.5 * path.deviation
    steps, speeds = np.empty(temperatures), np.empty(temperatures)
    for rung, beta in enumerate(betas.tolist()):
        potential = path.at(beta)
        states = States.at(potential, x)
        for _ in range(2):
            states, acceptance = move(potential, states, step, leapfrog, generator)
            step = adapted(step, acceptance)
        x, steps[rung], speeds[rung] = states.x, step, path.slope(states.x).std().item()
    length = np.concatenate([[0.0], np.cumsum(0.5 * (speeds[1:] + speeds[:-1]) * np.diff(betas))])
    even = np.interp(np.linspace(0.0, length[-1], temperatures), length, betas)
    even[0], even[-1] = 0.0, 1.0
    return even.tolist(), np.interp(even, betas, steps).tolist()
