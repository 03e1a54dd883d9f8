"""Linear and nonlinear systems in closed form, and NumPy's own regression and conditioning of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.stats import multivariate_normal

from koopflow import KoopmanForecaster

Real = NDArray[np.float64]

#: A slowly decaying turn: dx/dt = TURN x.
TURN = np.array([[-0.1, 1.0], [-1.0, -0.1]])
STEP = 0.1
LINEAR = {"basis": "polynomial", "degree": 1}


def fitted(paths, times=None, *, mask=None, inputs=None, condition=None, **options) -> KoopmanForecaster:
    """A model, a linear one by default."""
    model = KoopmanForecaster(**{**LINEAR, **options})
    return model.fit(paths, times, mask=mask, inputs=inputs, condition=condition, progress=False)


def starts(count: int = 6, size: int = 2, seed: int = 0) -> Real:
    return np.random.default_rng(seed).normal(size=(count, size))


def flow(start: Real, times: Real, rate: Real = TURN) -> Real:
    """dx/dt = rate x from each start ``[.., d]`` at times ``[T]``: ``[.., T, d]``."""
    return np.stack([start @ expm(rate * time).T for time in times], axis=-2)


def turning(count: int = 6, length: int = 40, seed: int = 0) -> tuple[Real, Real]:
    """Paths ``[N, T, 2]`` of :data:`TURN`, and their times."""
    times = STEP * np.arange(length)
    return flow(starts(count, seed=seed), times), times


def noisy(noise: float = 0.3, seed: int = 0, **options) -> tuple[Real, Real]:
    paths, times = turning(seed=seed, **options)
    return paths + noise * np.random.default_rng(seed).normal(size=paths.shape), times


def bent(count: int = 8, length: int = 30, seed: int = 0) -> Real:
    """Paths of a nonlinear map of the plane with random additions, which no finite basis makes exact."""
    random = np.random.default_rng(seed)
    x = random.uniform(-1.0, 1.0, size=(count, 2))
    rows = [x]
    for _ in range(length - 1):
        x = np.stack([0.9 * x[:, 1] + 0.2 * x[:, 0] ** 2, -0.8 * x[:, 0] + 0.3 * x[:, 0] * x[:, 1]], axis=1)
        x = x + 0.05 * random.normal(size=x.shape)
        rows.append(x)
    return np.stack(rows, axis=1)


def quadratic(x: Real) -> Real:
    """1, x, y and their products: ``[.., 6]``."""
    one, a, b = np.ones_like(x[..., 0]), x[..., 0], x[..., 1]
    return np.stack([one, a, b, a * a, a * b, b * b], axis=-1)


def regression(before: Real, after: Real) -> Real:
    """The matrix that takes rows to rows with least squares."""
    return np.linalg.lstsq(before, after, rcond=None)[0]


def driven(count: int = 8, length: int = 40, seed: int = 0, step: float = 0.5) -> tuple[Real, Real, Real]:
    """dx/dt = u - x with u held from each row to the next: paths, times and inputs."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(count, length, 1))
    paths = np.zeros((count, length, 1))
    paths[:, 0] = random.normal(size=(count, 1))
    kept = np.exp(-step)
    for row in range(length - 1):
        paths[:, row + 1] = kept * paths[:, row] + (1.0 - kept) * inputs[:, row]
    return paths, step * np.arange(length), inputs


def joint(mean: Real, spread: Real, evolution: Real, added: Real, count: int) -> tuple[Real, Real]:
    """Mean ``[T m]`` and covariance of rows g_0 ~ N(mean, spread), g_{k + 1} = g_k K + N(0, added)."""
    m = len(mean)
    means, variances = [mean], [spread]
    for _ in range(count - 1):
        means.append(means[-1] @ evolution)
        variances.append(evolution.T @ variances[-1] @ evolution + added)
    covariance = np.zeros((count * m, count * m))
    for row in range(count):
        # Cov(g_row, g_later) = V_row K^(later - row).
        block = variances[row]
        for later in range(row, count):
            covariance[row * m : row * m + m, later * m : later * m + m] = block
            covariance[later * m : later * m + m, row * m : row * m + m] = block.T
            block = block @ evolution
    return np.concatenate(means), covariance


def conditioned(
    mean: Real, covariance: Real, readout: Real, seen: Real, noise: float
) -> tuple[Real, Real, float]:
    """Mean and deviation ``[T, d]`` of states g C given noisy ``seen`` ``[T, d]`` of them, NaN where nothing
    was, and the log-likelihood."""
    count, d = seen.shape
    every = np.kron(np.eye(count), readout)
    known = np.isfinite(seen).reshape(-1)
    look = every[:, known]
    values = seen.reshape(-1)[known]
    own = look.T @ covariance @ look + noise**2 * np.eye(known.sum())
    gain = np.linalg.solve(own, look.T @ covariance).T
    posterior = mean + gain @ (values - mean @ look)
    left = covariance - gain @ look.T @ covariance
    deviation = np.sqrt(np.diag(every.T @ left @ every))
    likelihood = float(multivariate_normal(mean @ look, own).logpdf(values))
    return (posterior @ every).reshape(count, d), deviation.reshape(count, d), likelihood
