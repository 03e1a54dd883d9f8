"""Target densities ``exp(-E(x)) / Z`` with reference samples and, for most, a known log Z.

A teacher is trained on the samples. Methods that steer its student are judged by E, log Z and more samples.

Examples
--------
>>> from koopflow import energies
>>> target = energies.many_well(4)
>>> x = target.sample(1000)
>>> x.shape, target(x).shape, target.gradient(x).shape
((1000, 4), (1000,), (1000, 4))
>>> round(target.log_z, 4)
20.587
"""

from .annealing import annealed_log_z
from .energy import Energy, Samples
from .hybrid import hybrid_monte_carlo
from .lattice import Phi4, phi4
from .mixture import GaussianMixture, gmm40
from .particles import DoubleWells, LennardJones, PairEnergy, double_well, lennard_jones
from .plane import MullerBrown, muller_brown
from .wells import ManyWell, many_well

__all__ = [
    "DoubleWells",
    "Energy",
    "GaussianMixture",
    "LennardJones",
    "ManyWell",
    "MullerBrown",
    "PairEnergy",
    "Phi4",
    "Samples",
    "annealed_log_z",
    "double_well",
    "gmm40",
    "hybrid_monte_carlo",
    "lennard_jones",
    "many_well",
    "muller_brown",
    "phi4",
]
