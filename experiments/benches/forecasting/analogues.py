"""Forecasts without a model, by the motion of the most similar rows of the data."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .scores import Real

COUNT = 8


def analogues(paths: Real, starts: Real, ahead: int, count: int = COUNT) -> Real:
    """Forecasts ``[ahead, B, D]`` from paths ``[N, T, D]`` and starts ``[B, D]``, row after row.

    In each step a state moves by the mean motion of its nearest rows of the data. Distances are in deviations
    of each coordinate (Lorenz, Journal of the Atmospheric Sciences 26, 1969).
    """
    scale, width = paths.std(axis=(0, 1)), paths.shape[2]
    scaled, x = paths / scale, starts / scale
    known = scaled[:, :-1].reshape(-1, width)
    moved = (scaled[:, 1:] - scaled[:, :-1]).reshape(-1, width)
    tree, out = cKDTree(known), np.empty((ahead, *starts.shape))
    for row in range(ahead):
        places = tree.query(x, k=count)[1].reshape(len(x), count)
        x = x + moved[places].mean(axis=1)
        out[row] = x * scale
    return out
