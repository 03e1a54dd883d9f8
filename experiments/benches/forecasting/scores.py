"""Scores of forecasts, as in the literature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm

Real = NDArray[np.float64]
VALID = 0.4  # Error, over the RMS deviation of the data, from which on a forecast is no longer valid.


def deviation(paths: Real) -> float:
    """RMS distance of rows ``[N, T, D]`` from their mean."""
    away = paths - paths.mean(axis=(0, 1))
    return float(np.sqrt((away**2).sum(axis=-1).mean()))


def valid_times(forecast: Real, truth: Real, leads: Real, scale: float) -> Real:
    """Last time until which the error stays below the threshold, ``[B]``, of forecasts ``[L, B, D]``.

    It is 0 if the first forecast already exceeds it, and at most the last time. Values that are not finite
    exceed it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.linalg.norm(forecast - truth, axis=-1) / scale
    wrong = ~(error <= VALID)
    until = np.where(wrong.any(axis=0), wrong.argmax(axis=0), len(leads))
    return np.concatenate([[0.0], leads])[until]


def squared(forecast: Real, truth: Real) -> float:
    """Mean squared error of every number; infinite if any forecast is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(((forecast - truth) ** 2).mean())
    return error if np.isfinite(error) else float("inf")


def eigenvalue_error(found: NDArray[np.complex128], truth: NDArray[np.complex128]) -> float:
    """Largest relative distance between true and found eigenvalues, which are matched one to one."""
    if len(found) < len(truth):
        return float("inf")
    apart = np.abs(truth[:, None] - found[None, :]) / np.abs(truth)[:, None]
    rows, columns = linear_sum_assignment(apart)
    return float(apart[rows, columns].max())


def seasonal_scale(series: Real, season: int) -> float:
    """Mean absolute difference between observed rows a season apart, which is the unit of MASE."""
    return float(np.nanmean(np.abs(series[season:] - series[:-season])))


def crps_of_members(members: Real, truth: Real) -> Real:
    """Fair probability score ``[L]`` of an ensemble ``[M, L]``: E|X - y| - E|X - X'| / 2."""
    count = len(members)
    near = np.abs(members - truth).mean(axis=0)
    apart = np.abs(members[:, None] - members[None]).sum(axis=(0, 1)) / max(count * (count - 1), 1)
    return near - apart / 2.0


def crps_of_normal(mean: Real, std: Real, truth: Real) -> Real:
    """The same score of a normal distribution (Gneiting and others, Monthly Weather Review 133, 2005)."""
    z = (truth - mean) / std
    return std * (z * (2.0 * norm.cdf(z) - 1.0) + 2.0 * norm.pdf(z) - 1.0 / np.sqrt(np.pi))
