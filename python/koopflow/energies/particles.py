"""Particles with pair interactions. A spring at the centre of mass makes the density normalisable."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import as_integer, as_number
from . import stars
from .chains import Chains
from .energy import Energy

Numbers = NDArray[np.float64]

# log Z of LJ13 by strength, with standard errors; the docstring of lennard_jones says how they were found.
LJ13_LOG_Z = {1.0: (42.017, 0.018), 2.0: (62.71, 0.08)}

DOUBLE_WELL_CHAINS = Chains(deviation=2.5, annealed=100, settled=200, apart=100)
LENNARD_JONES_CHAINS = Chains(deviation=1.0, annealed=100, settled=150, apart=50)


class PairEnergy(Energy):
    """A sum over pairs of particles of a function of their distance, and a spring at the centre of mass.

    Points are flat, ``[B, particles * dimension]``, particle after particle, as perceptrons take vectors. The
    spring is ``particles / 2 * |mean x|^2``. Without it, a shift of all particles would not change the
    energy, and the integral would be infinite. The centre of mass is Gaussian, with variance 1 / particles in
    each direction, and independent of everything else.

    Below the distance ``nearest`` the function continues as a parabola in the distance, with the same value
    and slope. Particles at the same position then have a finite energy and a gradient without NaN.
    """

    def __init__(self, name: str, particles: int, dimension: int, *, nearest: float) -> None:
        self.particles = as_integer(particles, "particles", least=2)
        self.dimension, self.nearest = dimension, nearest
        super().__init__(f"{name}{self.particles}", (self.particles * dimension,))

    @abstractmethod
    def _pair(self, distance: torch.Tensor) -> torch.Tensor:
        """The energies of pairs at distances of at least ``nearest``."""

    @abstractmethod
    def _slope(self, distance: float) -> float:
        """The derivative of the energy of a pair."""

    def _alone(self, places: torch.Tensor, centre: torch.Tensor) -> torch.Tensor | float:
        """The energies ``[B]`` of the single particles ``[B, particles, dimension]``; by default zero."""
        return 0.0

    def _energy(self, x: torch.Tensor) -> torch.Tensor:
        places = x.reshape(len(x), self.particles, self.dimension)
        one, other = torch.triu_indices(self.particles, self.particles, offset=1, device=x.device)
        # index_select is faster than indexing, whose derivative is slow.
        apart = places.index_select(1, one) - places.index_select(1, other)
        squares = apart.square().sum(dim=2)
        limit = self.nearest**2
        pairs = self._pair(squares.clamp(min=limit).sqrt())
        parabola = self._slope(self.nearest) / (2.0 * self.nearest) * (squares - limit).clamp(max=0.0)
        centre = places.mean(dim=1, keepdim=True)
        spring = 0.5 * self.particles * centre.square().sum(dim=(1, 2))
        return (pairs + parabola).sum(dim=1) + self._alone(places, centre) + spring


class DoubleWells(PairEnergy):
    """Particles in the plane, each pair of them in a double well; see :func:`double_well`."""

    def __init__(self, particles: int) -> None:
        super().__init__("DW", particles, 2, nearest=0.5)
        self._is_exact = self.particles == stars.PARTICLES

    @property
    def log_z(self) -> float:
        """The value from quadrature for four particles, else NaN."""
        return stars.log_integral() + math.log(2.0 * math.pi / self.particles) if self._is_exact else math.nan

    @property
    def log_z_error(self) -> float:
        """Zero for four particles, else NaN."""
        return 0.0 if self._is_exact else math.nan

    def _pair(self, distance: torch.Tensor) -> torch.Tensor:
        energies: torch.Tensor = stars.well(distance)
        return energies

    def _slope(self, distance: float) -> float:
        return float(stars.slope(distance))

    def _draw(self, n: int, rng: np.random.Generator) -> Numbers:
        if not self._is_exact:
            return DOUBLE_WELL_CHAINS.draw(self, n, rng)
        places = stars.draw(n, rng)
        places -= places.mean(axis=1, keepdims=True)
        places += rng.standard_normal((n, 1, 2)) / math.sqrt(self.particles)
        return places.reshape(n, -1)


class LennardJones(PairEnergy):
    """Particles in space that attract one another and do not overlap; see :func:`lennard_jones`."""

    def __init__(self, particles: int, strength: float) -> None:
        self.strength = as_number(
            strength, "strength", "a positive number", lambda value: 0.0 < value < math.inf
        )
        super().__init__("LJ", particles, 3, nearest=0.7)
        if self.strength != 1.0:
            self.name += f" of strength {self.strength:g}"
        unknown = (math.nan, math.nan)
        self._known = LJ13_LOG_Z.get(self.strength, unknown) if self.particles == 13 else unknown

    @property
    def log_z(self) -> float:
        """The value of a long run for 13 particles of strength 1 or 2, else NaN."""
        return self._known[0]

    @property
    def log_z_error(self) -> float:
        """The standard error of that run, else NaN."""
        return self._known[1]

    def _pair(self, distance: torch.Tensor) -> torch.Tensor:
        sixth = distance.square() ** -3
        return self.strength * sixth * (sixth - 2.0)

    def _slope(self, distance: float) -> float:
        return -12.0 * self.strength * (distance**-13 - distance**-7)

    def _alone(self, places: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        return 0.5 * (places - centre).square().sum(dim=(1, 2))

    def _draw(self, n: int, rng: np.random.Generator) -> Numbers:
        return LENNARD_JONES_CHAINS.draw(self, n, rng)


def double_well(particles: int = 4) -> DoubleWells:
    """DW4 of Köhler et al. (2006.02425): ``[8]``, four particles in the plane, each pair in a double well.

    The energy of a pair is b (d - 4)^2 + c (d - 4)^4 with b = -4 and c = 0.9. Every pair counts once: the
    paper's formula, like the authors' code, is half of a sum over ordered pairs. Below the distance 0.5,
    where a pair is 91 above its minimum, the energy continues as a parabola. The original cannot be
    normalised on the whole space, so a spring at the centre of mass, ``particles / 2 * |mean x|^2``, is added
    here.

    For four particles log Z is from quadrature, and samples are exact except for a probability of about
    exp(-80). For other numbers samples come from chains, and log Z is NaN; :func:`annealed_log_z` estimates
    it.
    """
    return DoubleWells(particles)


def lennard_jones(particles: int = 13, *, strength: float = 1.0) -> LennardJones:
    """LJ13 of Köhler et al. (2006.02425): ``[39]``, 13 particles in space in a harmonic potential.

    The energy of a pair is ``strength`` (1 / d^12 - 2 / d^6). With ``strength`` 1 every pair counts once, as
    in the authors' first code; the particles form a warm gas of mean energy about 2. Later codes and their
    benchmarks count every pair twice, which is ``strength`` 2: a droplet of mean energy about -41. As in the
    original, |x_i - mean x|^2 / 2 is added for every particle. The spring at the centre of mass,
    ``particles / 2 * |mean x|^2``, is added here; together they are |x|^2 / 2. Below the distance 0.7, where
    a pair is 56 ``strength`` above its minimum, the pair energy continues as a parabola.

    Samples come from chains. For 13 particles at strength 1, log Z is 42.017 with the standard error 0.018:
    the mean of ``annealed_log_z(lennard_jones(), 1536, 512, seed)`` for the seeds 1 and 2, 90 s of a CPU
    each. At strength 2 it is 62.71 with the error 0.08, from ``annealed_log_z(lennard_jones(strength=2.0),
    768, 640, 2)``, 60 s; 256 chains in the opposite direction, from samples to the Gaussian, gave 62.78 with
    0.21. Otherwise it is NaN.
    """
    return LennardJones(particles, strength)
