"""Measures of the reliability of weighted samples."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import genpareto

from .one_step import OneStep

Real = NDArray[np.float64]
UNRELIABLE = 0.7  # Pareto k above which averages of weights do not converge (Vehtari et al. 2024).


def pareto_k(log_weights: Real) -> float:
    """Shape of the generalised Pareto distribution of the largest weights (Vehtari et al., JMLR 25, 2024).

    The distribution is fitted to the excess of the min(n / 5, 3 sqrt(n)) largest weights over the next one,
    by SciPy's maximum likelihood. The shape is shrunk towards 0.5 with the weight of ten more samples. It is
    minus infinity if the largest weights are all equal, and NaN for fewer than 25 samples.
    """
    finite = np.sort(log_weights[np.isfinite(log_weights)])
    tail = int(min(len(log_weights) / 5, 3 * math.sqrt(len(log_weights))))
    if tail < 5:
        return float("nan")
    # If only few weights are above zero, use all but the smallest.
    tail = min(tail, len(finite) - 1)
    if tail < 5:
        return float("inf")
    weights = np.exp(finite - finite[-1])
    beyond = weights[-tail:] - weights[-tail - 1]
    if beyond[-1] <= 1e-12:
        return float("-inf")
    beyond = np.maximum(beyond, 1e-12 * beyond[-1])
    shape, _, _ = genpareto.fit(beyond / beyond.mean(), 0.1, floc=0.0)
    return float((tail * shape + 10 * 0.5) / (tail + 10))


def multiplicity(
    step: OneStep, x: NDArray[np.floating], noise: Real, log_prob: Real, *, starts: int = 8, seed: int = 0
) -> float:
    """Mean ratio of the model's density at samples ``x`` to the density from their own noise.

    It is 1 for a map that is one to one. Other noise that leads to a sample is searched by Newton steps from
    ``starts`` draws for each sample. Noise that is not found does not count, so the ratio is a lower bound.
    """
    random, count = np.random.default_rng(seed), len(x)
    begin = random.normal(size=(starts * count, step.dimension))
    again = np.repeat(x, starts, axis=0)
    found, residuals = step.inverses(again, begin, 30)
    scale = max(float(np.std(x, axis=0).mean()), 1e-12)
    _, densities = step.density(found)
    own = np.exp(np.zeros(count))
    for place in range(count):
        rows = range(place * starts, (place + 1) * starts)
        known = [noise[place]]
        for row in rows:
            apart = min(float(np.linalg.norm(found[row] - other)) for other in known)
            if residuals[row] <= 1e-4 * scale and apart > 1e-2 * math.sqrt(step.dimension):
                known.append(found[row])
                own[place] += math.exp(min(densities[row] - log_prob[place], 50.0))
    return float(own.mean())
