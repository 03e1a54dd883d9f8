"""Exact log Z and samples of four particles in double wells, seen from one of the particles.

Without the interactions among the other three, their positions would be independent, with a density of the
distance alone. Samples are drawn from that density, and rejected by the three interactions. The integral over
the angles is a circular convolution, which is computed by Fourier series.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array
from .rejection import Envelope

Numbers = NDArray[np.float64]

PARTICLES = 4
CENTRE, SQUARE, FOURTH = 4.0, -4.0, 0.9
LOWEST = -(SQUARE**2) / (4.0 * FOURTH)
# At this distance the energy of a pair is 288; two particles at the same position have 166.
FARTHEST, CELLS = 8.5, 4096
RADII, ANGLES = 120, 512
PROPOSALS = 2**15


def well(distance: Array) -> Array:
    """The energy of a pair. Its minima, at the distances 2.51 and 5.49, are 4.44 below their barrier."""
    squares = (distance - CENTRE) ** 2
    return squares * (SQUARE + FOURTH * squares)


def slope(distance: Array) -> Array:
    """The derivative of the energy of a pair."""
    away = distance - CENTRE
    return away * (2.0 * SQUARE + 4.0 * FOURTH * away**2)


@cache
def log_integral() -> float:
    """The log of the integral of ``exp(-sum of pairs)`` over positions of three particles around a fourth.

    It uses Gauss-Legendre quadrature in the distances and the trapezoidal rule in the angles. Doubling the
    number of points of both changes no digit of float64.
    """
    nodes, weights = np.polynomial.legendre.leggauss(RADII)
    radius = 0.5 * FARTHEST * (nodes + 1.0)
    ray = 0.5 * FARTHEST * weights * radius * np.exp(-well(radius))
    cosine = np.cos(2.0 * np.pi / ANGLES * np.arange(ANGLES))
    one, other = radius[:, None, None], radius[None, :, None]
    squares = one**2 + other**2 - 2.0 * one * other * cosine
    pairs = np.exp(-well(np.sqrt(np.maximum(squares, 0.0))))
    series = np.fft.rfft(pairs).real * (2.0 * np.pi / ANGLES)
    total = 0.0
    for order in range(series.shape[2]):
        ring = ray[:, None] * series[:, :, order]
        # Orders other than zero and the last also stand for their negatives.
        twice = 1.0 if order in (0, ANGLES // 2) else 2.0
        total += twice * float(np.sum((ring @ ring) * ring.T))
    return math.log(total)


def draw(n: int, rng: np.random.Generator) -> Numbers:
    """Draw exact, independent positions ``[n, 4, 2]`` of four particles, the first at the origin."""
    rays, kept, missing = _rays(), [], n
    while missing > 0:
        radius = rays.draw(3 * PROPOSALS, lambda points: _log_ray(points[:, 0]), rng).reshape(-1, 3)
        angle = rng.uniform(0.0, 2.0 * np.pi, radius.shape)
        places = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
        apart = np.linalg.norm(places - np.roll(places, 1, axis=1), axis=2)
        log_chance = (LOWEST - well(apart)).sum(axis=1)
        found = places[-rng.standard_exponential(PROPOSALS) <= log_chance][:missing]
        kept.append(found)
        missing -= len(found)
    others = np.concatenate(kept)
    return np.concatenate([np.zeros((n, 1, 2)), others], axis=1)


@cache
def _rays() -> Envelope:
    """Bounds that hold in all of each cell, from the slope and the largest curvature."""
    half = 0.5 * FARTHEST / CELLS
    radius = half * (2.0 * np.arange(CELLS) + 1.0)
    curvature = 2.0 * abs(SQUARE) + 12.0 * FOURTH * (FARTHEST - CENTRE) ** 2
    least = well(radius) - half * np.abs(slope(radius)) - 0.5 * half**2 * curvature
    return Envelope(1e-9 + np.log(radius + half) - least, np.zeros(1), np.array([2.0 * half]))


def _log_ray(radius: Numbers) -> Numbers:
    energies: Numbers = well(radius)
    return np.log(np.maximum(radius, 1e-300)) - energies
