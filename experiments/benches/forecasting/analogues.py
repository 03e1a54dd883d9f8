"""A forecast without a model: move as the most similar rows of the data moved."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from .scores import Real

COUNT = 8


def analogues(paths: Real, starts: Real, ahead: int, count: int = COUNT) -> Real:
    """Forecasts ``[ahead, B, D]`` from paths ``[N, T, D]`` and starts ``[B, D]``, row after row.

    In each row a state moves as, on average, its nearest rows of the data did, by the distance in deviations
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
