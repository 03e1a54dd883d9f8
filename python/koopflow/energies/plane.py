"""Potentials in the plane, with log Z from quadrature and exact samples."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import as_number
from .energy import Energy
from .rejection import Envelope

Numbers = NDArray[np.float64]

# Müller and Brown, Theoretica Chimica Acta 53 (1979): V = sum of A exp(a u^2 + b u v + c v^2) with u = x - x0
# and v = y - y0. Each row is one term: A, a, b, c, x0, y0.
TERMS = (
    (-200.0, -1.0, 0.0, -10.0, 1.0, 0.0),
    (-100.0, -1.0, 0.0, -10.0, 0.0, 0.5),
    (-170.0, -6.5, 11.0, -6.5, -0.5, 1.5),
    (15.0, 0.7, 0.6, 0.7, -1.0, 1.0),
)
# Beyond this exponent the exponential continues as its tangent, since exp would overflow float32; 15 exp(20)
# is 7e9.
STEEPEST = 20.0
CELLS = 512


class MullerBrown(Energy):
    """The Müller-Brown potential divided by a temperature; see :func:`muller_brown`."""

    def __init__(self, temperature: float) -> None:
        super().__init__("Müller-Brown", (2,))
        self.temperature = as_number(
            temperature, "temperature", "a number from 1 to 1000", lambda value: 1.0 <= value <= 1000.0
        )

    @cached_property
    def log_z(self) -> float:
        """The value from the midpoint rule, which converges very fast for smooth, decaying functions."""
        energies = self(np.stack(self._centres(), axis=-1).reshape(-1, 2))
        least = energies.min()
        return float(np.log(np.exp(least - energies).sum() * self._width.prod()) - least)

    def _energy(self, x: torch.Tensor) -> torch.Tensor:
        potential = torch.zeros_like(x[:, 0])
        for height, a, b, c, x0, y0 in TERMS:
            u, v = x[:, 0] - x0, x[:, 1] - y0
            exponent = a * u.square() + b * u * v + c * v.square()
            tangent = 1.0 + (exponent - STEEPEST).clamp(min=0.0)
            potential = potential + height * exponent.clamp(max=STEEPEST).exp() * tangent
        return potential / self.temperature

    def _draw(self, n: int, rng: np.random.Generator) -> Numbers:
        return self._envelope.draw(n, lambda points: -self(points), rng)

    @property
    def _radius(self) -> float:
        # The last term grows at least as exp(0.4 r^2), and the others add at least -470. Outside this radius
        # around (-1, 1) the energy is 40 temperatures above the deepest minimum, -146.7.
        return math.sqrt(math.log((470.0 - 146.7 + 40.0 * self.temperature) / 15.0) / 0.4)

    @property
    def _low(self) -> Numbers:
        return np.array([-1.0, 1.0]) - self._radius

    @property
    def _width(self) -> Numbers:
        return np.full(2, 2.0 * self._radius / CELLS)

    def _centres(self) -> tuple[Numbers, Numbers]:
        """The coordinates of the centre of each cell."""
        steps = self._width[0] * (np.arange(CELLS) + 0.5)
        x, y = np.meshgrid(self._low[0] + steps, self._low[1] + steps, indexing="ij")
        return x, y

    @cached_property
    def _envelope(self) -> Envelope:
        """Bounds that hold in all of each cell, since each exponent is a quadratic function."""
        half = 0.5 * self._width[0]
        x, y = self._centres()
        least = np.zeros((CELLS, CELLS))
        for height, a, b, c, x0, y0 in TERMS:
            u, v = x - x0, y - y0
            slope = np.abs(2.0 * a * u + b * v) + np.abs(b * u + 2.0 * c * v)
            reach = half * slope + half**2 * (abs(a) + abs(b) + abs(c))
            exponent = a * u**2 + b * u * v + c * v**2 - np.sign(height) * reach
            least += (
                height * np.exp(np.minimum(exponent, STEEPEST)) * (1.0 + np.maximum(exponent - STEEPEST, 0))
            )
        # The small addition keeps the rounded energy below the bound.
        return Envelope(1e-9 - least / self.temperature, self._low, self._width)


def muller_brown(temperature: float = 20.0) -> MullerBrown:
    """The potential of Müller and Brown (1979), a curved valley with three minima, over ``temperature``.

    The minima at (-0.558, 1.442), (0.623, 0.028) and (-0.050, 0.467) have the values -146.7, -108.2 and
    -80.8. The saddle points between them have the values -40.7 and -72.2. At temperature 20 the deepest
    minimum is 5.3 temperatures below its saddle point, and the second 1.8 below its own. The potential is
    confining. log Z is from quadrature. Samples are exact except for a probability of about exp(-35) outside
    the box that they are drawn from.

    Far outside, where the potential exceeds 7e9, its exponential continues as a tangent, so that nothing
    overflows.
    """
    return MullerBrown(temperature)
