"""Independent double wells, with log Z from quadrature in one dimension and exact samples."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import as_integer
from ..exceptions import ArgumentError
from .energy import Energy
from .rejection import Envelope

Numbers = NDArray[np.float64]

# At the ends of [-4, 4] the energy is 167 above its minimum.
BOUND, CELLS = 4.0, 4096


class ManyWell(Energy):
    """Pairs of a double well and a Gaussian; see :func:`many_well`."""

    def __init__(self, dimension: int) -> None:
        size = as_integer(dimension, "dimension", least=2)
        if size % 2:
            raise ArgumentError(f"dimension: expected an even number, got {size}")
        super().__init__(f"Many Well {size}", (size,))

    @cached_property
    def log_z(self) -> float:
        """The value from the midpoint rule, which converges very fast for smooth, decaying functions."""
        width = 2.0 * BOUND / CELLS
        wells = np.exp(-_well(_centres())).sum() * width
        return self.event_shape[0] // 2 * float(np.log(wells) + 0.5 * np.log(2.0 * np.pi))

    def _energy(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x[:, 0::2], x[:, 1::2]
        squares = first.square()
        return (squares * (squares - 6.0) - 0.5 * first + 0.5 * second.square()).sum(dim=1)

    def _draw(self, n: int, rng: np.random.Generator) -> Numbers:
        pairs = self.event_shape[0] // 2
        first = self._envelope.draw(n * pairs, lambda points: -_well(points[:, 0]), rng)
        return np.stack([first.reshape(n, pairs), rng.standard_normal((n, pairs))], axis=2).reshape(n, -1)

    @cached_property
    def _envelope(self) -> Envelope:
        """Bounds that hold in all of each cell, from the slope and the largest curvature."""
        half, x = BOUND / CELLS, _centres()
        slope = np.abs(4.0 * x**3 - 12.0 * x - 0.5)
        least = _well(x) - half * slope - 0.5 * half**2 * (12.0 * BOUND**2)
        return Envelope(1e-9 - least, np.array([-BOUND]), np.array([2.0 * half]))


def many_well(dimension: int = 32) -> ManyWell:
    """Many Well of FAB (Midgley et al. 2208.01893): for every two coordinates x1^4 - 6 x1^2 - x1/2 + x2^2/2.

    There are 2^(dimension/2) modes of unequal weight. log Z is from quadrature. Samples are exact except for
    a probability of about exp(-165) outside [-4, 4].
    """
    return ManyWell(dimension)


def _centres() -> Numbers:
    return np.linspace(-BOUND, BOUND, 2 * CELLS + 1, dtype=np.float64)[1::2]


def _well(x: Numbers) -> Numbers:
    return x**4 - 6.0 * x**2 - 0.5 * x
