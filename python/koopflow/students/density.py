"""Densities of students, by the change of variables through their one-step map."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array

# Largest distance of a sample from the data whose density it stands for, in the data's total deviation.
TOLERANCE = 0.01


@dataclass(frozen=True)
class StudentDensity:
    """The result of :meth:`koopflow.KoopmanDistiller.density`; arrays are of the kind of the data.

    Attributes
    ----------
    log_prob : array, ``[B]``
        Log-density in nats, log N(noise; 0, I) - log_determinant, at ``sample(x0=noise)``; it is that at the
        data as far as ``residuals`` are small.
    noise : array, ``[B, *event]``
        Inverse of the data.
    residuals : array, ``[B]``
        ``||sample(x0=noise) - x||``.
    log_determinant, standard_errors : array, ``[B]``
        log |det dS/dz| of the one-step map S at the noise, and its standard error over probes (0 if exact).
    spread : float
        Total deviation of the data that the student was fitted to: the unit of residuals.
    """

    log_prob: Array
    noise: Array
    residuals: Array
    log_determinant: Array
    standard_errors: Array
    spread: float

    @property
    def bits_per_dim(self) -> Array:
        """Minus ``log_prob`` in bits, for each dimension: ``[B]``."""
        return self.log_prob / (-math.prod(self.noise.shape[1:]) * math.log(2.0))


def warn_of_residuals(residuals: Any, spread: float) -> None:
    """Warn of samples that are not the data whose densities were asked for."""
    away = int((residuals > TOLERANCE * spread).sum())
    if away:
        warnings.warn(
            f"the inverse of {away} of {len(residuals)} samples misses them by more than {TOLERANCE:.0%} of "
            f"the data's total deviation {spread:.3g}, at most by {np.max(residuals):.3g}: their densities "
            "are those of points nearby (try a larger polish)",
            RuntimeWarning,
            stacklevel=3,
        )
