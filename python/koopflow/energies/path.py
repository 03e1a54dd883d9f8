"""The path from a Gaussian, at beta 0, to a target, at 1: (1 - beta) |x|^2 / (2 deviation^2) + beta E(x)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .energy import Energy, Potential


@dataclass(frozen=True)
class AnnealingPath:
    """Potentials from a Gaussian of a ``deviation`` around the origin, at 0, to an ``energy``, at 1."""

    energy: Energy
    deviation: float

    def at(self, beta: float) -> Potential:
        def potential(x: torch.Tensor) -> torch.Tensor:
            energies: torch.Tensor = self.energy(x)
            return (1.0 - beta) * self._gaussian(x) + beta * energies

        return potential

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        """The derivative ``[B]`` of the potential by beta, which does not depend on beta."""
        energies: torch.Tensor = self.energy(x)
        return energies - self._gaussian(x)

    def start(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Samples ``[n, *event]`` of the Gaussian, float64."""
        shape = (n, *self.energy.event_shape)
        return self.deviation * torch.randn(shape, generator=generator, dtype=torch.float64)

    @property
    def log_z_at_start(self) -> float:
        return math.prod(self.energy.event_shape) * math.log(self.deviation * math.sqrt(2.0 * math.pi))

    def _gaussian(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x / self.deviation).flatten(1).square().sum(dim=1)
