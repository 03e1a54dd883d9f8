"""Estimates of paths from observations of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .._arrays import Array, as_number, to_numpy


@dataclass(frozen=True, eq=False)
class SmoothedPaths:
    """The result of :meth:`koopflow.KoopmanForecaster.smooth`. Arrays are of the kind of the observations.

    Attributes
    ----------
    times : array, ``[T]``
        Times of the estimates.
    mean, std : array, ``[T, B, *event]``
        Mean and standard deviation of the state itself, without the noise of observations.
    log_likelihood : array, ``[B]``
        Log-likelihood in nats of all observations, for values in deviations of the data.
    noise : float
        Standard deviation used for the observations' noise, in deviations of the data.
    """

    times: Array
    mean: Array
    std: Array
    log_likelihood: Array
    noise: float

    def interval(self, level: float = 0.9) -> tuple[Array, Array]:
        """Lower and upper ends of central intervals, ``[T, B, *event]`` each."""
        level = as_number(level, "level", "a share in (0, 1)", lambda share: 0.0 < share < 1.0)
        width = NormalDist().inv_cdf(0.5 + level / 2.0)
        return self.mean - width * self.std, self.mean + width * self.std

    def coverage(self, truth: Array, level: float = 0.9) -> float:
        """Fraction of ``truth`` ``[T, B, *event]`` inside the intervals, without NaN."""
        low, high = (to_numpy(end) for end in self.interval(level))
        given = to_numpy(truth)
        known = np.isfinite(given)
        return float(((given >= low) & (given <= high))[known].mean())
