"""Targets of a student in the plane by quadrature over its noise, and Gaussian posteriors in closed form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

Real = NDArray[np.float64]


class Quadrature:
    """Integrals over standard normal noise in the plane, on a grid of 401 x 401 points."""

    def __init__(self, student, condition=None) -> None:
        axis = np.linspace(-6.0, 6.0, 401)
        self.noise = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        self.density = np.exp(-0.5 * (self.noise**2).sum(axis=1)) / (2 * np.pi) * (axis[1] - axis[0]) ** 2
        labels = None if condition is None else np.full(len(self.noise), condition)
        x0 = self.noise.astype(student.config_["dtype"])
        self.x = np.asarray(student.sample(x0=x0, condition=labels), dtype=np.float64)

    def tilted(self, log_values: Real) -> tuple[float, Real]:
        """Log evidence, and the weight of each point of the grid."""
        weights = self.density * np.exp(log_values)
        return float(np.log(weights.sum())), weights / weights.sum()


def gaussian_posterior(
    mean: Real, cov: Real, operator: Real, y: Real, noise: float
) -> tuple[Real, Real, float]:
    """Mean, covariance and log evidence of x ~ N(mean, cov) given y = A x + noise."""
    seen = operator @ cov @ operator.T + noise**2 * np.eye(len(operator))
    gain = cov @ operator.T @ np.linalg.inv(seen)
    evidence = multivariate_normal(operator @ mean, seen).logpdf(y)
    return mean + gain @ (y - operator @ mean), cov - gain @ operator @ cov, float(evidence)
