"""Mixtures of Gaussians: log Z is zero and samples are exact."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import Array, as_number, to_numpy
from ..exceptions import NonFiniteError, ShapeError
from .energy import Energy


class GaussianMixture(Energy):
    """Minus the log density of a mixture of isotropic Gaussians of equal weight. Samples are exact.

    Parameters
    ----------
    means : array ``[M, d]``
        Means of the Gaussians.
    deviation : float
        Standard deviation of each coordinate, the same for every Gaussian.
    """

    def __init__(self, means: Array, deviation: float = 1.0, *, name: str = "Gaussian mixture") -> None:
        centres = np.array(to_numpy(means), dtype=np.float64)
        if centres.ndim != 2 or 0 in centres.shape:
            raise ShapeError(f"means: expected (M, d), got {centres.shape}")
        if not np.isfinite(centres).all():
            raise NonFiniteError("means: expected finite numbers, got NaN or infinite ones")
        super().__init__(name, (centres.shape[1],))
        self.means = centres
        self.deviation = as_number(
            deviation, "deviation", "a positive number", lambda value: 0.0 < value < math.inf
        )

    @property
    def log_z(self) -> float:
        """Zero: the energy is minus the log of a normalised density."""
        return 0.0

    def _energy(self, x: torch.Tensor) -> torch.Tensor:
        means = torch.from_numpy(self.means).to(x)
        squares = ((x[:, None] - means) / self.deviation).square().sum(dim=2)
        scale = self.deviation * math.sqrt(2.0 * math.pi)
        log_scale = math.log(len(means)) + means.shape[1] * math.log(scale)
        return -(-0.5 * squares).logsumexp(dim=1) + log_scale

    def _draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        centres: NDArray[np.float64] = self.means[rng.integers(0, len(self.means), n)]
        noise: NDArray[np.float64] = rng.standard_normal(centres.shape)
        return centres + self.deviation * noise


def gmm40() -> GaussianMixture:
    """The 40 Gaussians in the plane of FAB (Midgley et al. 2208.01893): samples are exact, log Z is zero.

    The means are uniform in [-40, 40]^2 and the deviation is softplus(1) = 1.3133. The means are drawn by
    FAB's formula from a ``torch.Generator`` of seed 0, while FAB's code seeds torch's global generator. The
    first ones agree with the lists of means in later codes.
    """
    generator = torch.Generator().manual_seed(0)
    means = (torch.rand((40, 2), generator=generator) - 0.5) * 2.0 * 40.0
    return GaussianMixture(means, math.log1p(math.e), name="GMM-40")
