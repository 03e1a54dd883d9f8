"""Exact sampling in few dimensions, by rejection from a bound that is constant in each cell of a grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Envelope:
    """A bound of an unnormalised density on a box, constant in each cell of a grid.

    Parameters
    ----------
    log_bound : array ``[C1, ..., Cd]``
        Upper bound of the log density in each cell.
    low : array ``[d]``
        Lower corner of the box.
    width : array ``[d]``
        Side lengths of a cell.
    """

    def __init__(self, log_bound: Numbers, low: Numbers, width: Numbers) -> None:
        self._log_bound, self._low, self._width = log_bound, low, width
        cumulative = np.exp(log_bound - log_bound.max()).ravel().cumsum()
        self._cumulative = cumulative / cumulative[-1]

    def draw(self, n: int, log_density: Callable[[Numbers], Numbers], rng: np.random.Generator) -> Numbers:
        """Draw independent samples ``[n, d]`` of a density with log ``log_density`` at points ``[B, d]``."""
        kept: list[Numbers] = []
        missing = n
        while missing > 0:
            points = self._proposals(missing + missing // 4 + 16, log_density, rng)[:missing]
            kept.append(points)
            missing -= len(points)
        return np.concatenate(kept)

    def _proposals(
        self, n: int, log_density: Callable[[Numbers], Numbers], rng: np.random.Generator
    ) -> Numbers:
        flat = np.searchsorted(self._cumulative, rng.random(n), side="right")
        cells = np.stack(np.unravel_index(flat, self._log_bound.shape), axis=1)
        points = self._low + self._width * (cells + rng.random(cells.shape))
        log_uniform = -rng.standard_exponential(n)
        return points[log_uniform <= log_density(points) - self._log_bound.ravel()[flat]]
