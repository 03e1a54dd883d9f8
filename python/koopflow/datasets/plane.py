"""Two-dimensional data sets.

Moons and eight Gaussians have the scale of torchcfm (Tong et al., arXiv 2302.00482), checkerboard and Swiss
roll that of FFJORD (Grathwohl et al., arXiv 1810.01367). Use a second seed for held-out data.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .._arrays import as_number, as_seed, checked_count

Samples = NDArray[np.float32]


def moons(n: int, *, noise: float = 0.2, seed: int | None = 0) -> Samples:
    """Two interleaved half circles of radius 3 in [-5, 6] x [-4, 3.5]: ``[n, 2]``, float32, deviation 3.1.

    ``noise`` is the deviation of Gaussian noise relative to a radius of one. With ``seed=None`` the seed is
    drawn at random.

    Examples
    --------
    >>> moons(1000, seed=1).shape
    (1000, 2)
    """
    n, rng = checked_count(n), _generator(noise, seed)
    angle = np.pi * rng.random(n)
    upper = rng.integers(0, 2, n) == 0
    x = np.where(upper, np.cos(angle), 1.0 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    points = np.stack([x, y], axis=1) + noise * rng.standard_normal((n, 2))
    return (3.0 * points - 1.0).astype(np.float32)


def eight_gaussians(n: int, *, noise: float = 0.1**0.5, seed: int | None = 0) -> Samples:
    """Eight Gaussians of deviation ``noise`` on a circle of radius 5: ``[n, 2]``, float32, deviation 5.0."""
    n, rng = checked_count(n), _generator(noise, seed)
    angle = np.pi / 4 * rng.integers(0, 8, n)
    centres = 5.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (centres + noise * rng.standard_normal((n, 2))).astype(np.float32)


def checkerboard(n: int, *, noise: float = 0.0, seed: int | None = 0) -> Samples:
    """The eight dark squares of a four by four board over [-4, 4]^2: ``[n, 2]``, float32, deviation 3.3.

    ``noise`` is the deviation of added Gaussian noise.
    """
    n, rng = checked_count(n), _generator(noise, seed)
    x = rng.uniform(-2.0, 2.0, n)
    y = rng.random(n) - 2.0 * rng.integers(0, 2, n) + np.floor(x) % 2
    points = 2.0 * np.stack([x, y], axis=1)
    return (points + noise * rng.standard_normal((n, 2))).astype(np.float32)


def swiss_roll(n: int, *, noise: float = 1.0, seed: int | None = 0) -> Samples:
    """A spiral of one and a half turns in [-2.5, 3] x [-2.8, 3.4]: ``[n, 2]``, float32, deviation 1.9.

    ``noise`` is the deviation of Gaussian noise in the scale of scikit-learn, which is five times as large.
    """
    n, rng = checked_count(n), _generator(noise, seed)
    angle = 1.5 * np.pi * (1.0 + 2.0 * rng.random(n))
    points = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1)
    return ((points + noise * rng.standard_normal((n, 2))) / 5.0).astype(np.float32)


def tree(n: int, *, noise: float = 0.03, seed: int | None = 0) -> Samples:
    """A binary tree that branches six times, in [-3, 3] x [-3, 2.8]: ``[n, 2]``, float32, deviation 1.3.

    Each branch is two thirds as long as its parent and turned by 30 degrees to either side; points are
    uniform over the length of all branches. ``noise`` is the deviation of Gaussian noise around them.
    """
    n, rng = checked_count(n), _generator(noise, seed)
    starts, angles, lengths = np.zeros(1) - 3.0j, np.full(1, np.pi / 2), np.full(1, 2.1)
    branches = []
    for _ in range(7):
        steps = lengths * np.exp(1j * angles)
        branches.append((starts, steps))
        starts = np.repeat(starts + steps, 2)
        angles = np.repeat(angles, 2) + np.pi / 6 * np.tile([-1.0, 1.0], len(steps))
        lengths = np.repeat(lengths, 2) * 2.0 / 3.0
    begin, step = (np.concatenate(parts) for parts in zip(*branches, strict=True))
    chosen = rng.choice(len(step), n, p=np.abs(step) / np.abs(step).sum())
    place = begin[chosen] + rng.random(n) * step[chosen]
    points = np.stack([place.real, place.imag], axis=1)
    return (points + noise * rng.standard_normal((n, 2))).astype(np.float32)


TWO_DIMENSIONAL: dict[str, Callable[..., Samples]] = {
    function.__name__: function for function in (moons, eight_gaussians, checkerboard, swiss_roll, tree)
}
"""The two-dimensional sets by name."""


def _generator(noise: float, seed: int | None) -> np.random.Generator:
    as_number(noise, "noise", "at least 0", lambda deviation: 0.0 <= deviation < np.inf)
    return np.random.default_rng(as_seed(seed))
