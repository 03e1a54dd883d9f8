"""Distances between weighted sets, and their sampling floor."""

from __future__ import annotations

import numpy as np
import ot
from numpy.typing import NDArray

Real = NDArray[np.float64]


def wasserstein1(found: Real, wanted: Real, masses: Real | None = None) -> float:
    """W1 between rows with ``masses``, equal by default, and rows with equal masses."""
    weights = np.full(len(found), 1.0) if masses is None else np.asarray(masses, float)
    costs = ot.dist(np.asarray(found, float), np.asarray(wanted, float), metric="euclidean")
    alike = np.full(len(wanted), 1.0 / len(wanted))
    return float(ot.emd2(weights / weights.sum(), alike, costs, numItermax=1_000_000))


def floor(rows: Real, seed: int) -> float:
    """W1 between two random halves of a set."""
    order = np.random.default_rng([seed, 5]).permutation(len(rows))
    half = len(rows) // 2
    return wasserstein1(rows[order[:half]], rows[order[half : 2 * half]])
