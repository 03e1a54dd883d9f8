"""A reading of flows in NumPy and SciPy alone, and paths whose spectrum is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Real = NDArray[np.float64]
TIMES = np.linspace(0.0, 1.0, 33)


def trapezium(times: Real) -> Real:
    """Weights of the trapezium rule: half of the interval on each side."""
    return np.gradient(times) * np.r_[0.5, np.ones(len(times) - 2), 0.5]


def exponential(rate: complex, times: Real) -> NDArray[np.complex128]:
    """(e^{rate t} - 1) / rate by the mean of e^{rate s} over [0, t], in 40 nodes: no case for zero."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    t = np.asarray(times, dtype=float)
    inner = np.exp(rate * np.outer(t, (nodes + 1.0) / 2.0))
    return np.asarray(t * (inner @ weights) / 2.0)


def functions(rates: Sequence[complex], times: Real) -> Real:
    """Real functions that span those of all rates, ``[T, r]``; of a conjugate pair the upper one counts."""
    columns = []
    for rate in rates:
        if np.imag(rate) >= 0.0:
            own = exponential(rate, times)
            columns += [own.real] if np.imag(rate) == 0.0 else [own.real, own.imag]
    return np.stack(columns, axis=1)


def motion(paths: Real) -> Real:
    """Covariance in time of the centred displacements, summed over dimensions: ``[T, T]``."""
    moved = (paths - paths[0]).reshape(len(paths), paths.shape[1], -1).astype(float)
    moved -= moved.mean(axis=1, keepdims=True)
    return np.einsum("tnd,snd->ts", moved, moved, optimize=True) / paths.shape[1]


def unexplained(rates: Sequence[complex], covariance: Real, times: Real) -> float:
    """Share of a motion outside the span of the rates' functions."""
    root = np.sqrt(trapezium(times))
    weighted = root[:, None] * covariance * root
    basis = np.linalg.qr(functions(rates, times) * root[:, None])[0]
    return float(1.0 - np.trace(basis.T @ weighted @ basis) / np.trace(weighted))


def fitted_rates(covariance: Real, times: Real, count: int, starts: int = 10) -> tuple[list[complex], float]:
    """The best rates by variable projection from many starts, and the share that they leave."""
    root = np.sqrt(trapezium(times))
    values, vectors = np.linalg.eigh(root[:, None] * covariance * root)
    square_root = vectors * np.sqrt(np.clip(values, 0.0, None) / values.sum())
    rng, best = np.random.default_rng(0), None

    def rates_of(point: Real, real: int) -> list[complex]:
        turning = [complex(growth, abs(turn)) for growth, turn in point[real:].reshape(-1, 2)]
        return [complex(rate) for rate in point[:real]] + turning

    def residual(point: Real, real: int) -> Real:
        basis = np.linalg.qr(functions(rates_of(point, real), times) * root[:, None])[0]
        return np.asarray((square_root - basis @ (basis.T @ square_root)).ravel())

    for real in range(count % 2, count + 1, 2):
        for _ in range(starts):
            pairs = (count - real) // 2
            turning = np.stack([rng.uniform(-3, 1, pairs), rng.uniform(0.3, 10, pairs)], axis=1)
            begin = np.concatenate([rng.uniform(-4, 2, real), turning.ravel()])
            found = least_squares(residual, begin, args=(real,), bounds=(-60, 60), max_nfev=100)
            if best is None or found.cost < best[1]:
                best = (rates_of(found.x, real), found.cost)
    assert best is not None
    whole = [pair for rate in best[0] for pair in ([rate] if rate.imag == 0 else [rate, rate.conjugate()])]
    return sorted(whole, key=lambda rate: (abs(rate), -rate.imag)), 2.0 * float(best[1])


def components(rest: Real, times: Real) -> tuple[Real, Real, Real]:
    """Principal components of remainders ``[T, B, d]`` under the trapezium rule, by one decomposition.

    Returns mean squares ``[K]``, V_k at the times ``[K, T, d]``, and amplitudes ``[B, K]``.
    """
    root = np.sqrt(trapezium(times))
    size, count, dim = rest.shape
    flat = (rest * root[:, None, None]).transpose(1, 0, 2).reshape(count, size * dim)
    left, values, right = np.linalg.svd(flat, full_matrices=False)
    modes = right.reshape(-1, size, dim) / np.where(root > 0.0, root, 1.0)[:, None]
    return values**2 / count, modes, left * values


def cosine(a: Real, b: Real, times: Real) -> float:
    """Mean squared cosine of the principal angles between spans of space-time modes ``[K, T, d]``."""
    root = np.sqrt(trapezium(times))[:, None]
    bases = [np.linalg.qr((modes * root).reshape(len(modes), -1).T)[0] for modes in (a, b)]
    return float((np.linalg.svd(bases[0].T @ bases[1], compute_uv=False) ** 2).sum() / max(len(a), len(b)))


@dataclass(frozen=True)
class Known:
    """Paths x0 + drift(t) + (x0 - mean) A(t) + sum_k a_k(x0) V_k(t) with all parts given."""

    times: Real
    paths: Real
    rates: list[complex]
    drift: Real
    affine: Real
    modes: Real
    amplitudes: Real
    energies: Real

    @property
    def shares(self) -> tuple[float, float, float]:
        """Integrals over time of the mean squares of drift, affine part and nonlinear part."""
        weights, mean = trapezium(self.times), self.paths[0].mean(axis=0)
        moved = np.einsum("nd,tde->tne", self.paths[0] - mean, self.affine)
        rest = np.einsum("nk,ktd->tnd", self.amplitudes, self.modes)
        parts = ((self.drift**2).sum(axis=1), *((part**2).sum(axis=2).mean(axis=1) for part in (moved, rest)))
        drift, affine, nonlinear = (float(weights @ part) for part in parts)
        return drift, affine, nonlinear


HERMITE = (
    lambda x: x[:, 0] ** 2 - 1.0,
    lambda x: x[:, 0] * x[:, 1],
    lambda x: x[:, 1] ** 3 - 3.0 * x[:, 1],
    lambda x: (x[:, 0] ** 2 - 1.0) * x[:, 1],
)


def known(
    energies: Sequence[float],
    *,
    rates: Sequence[complex] = (0.6, -1.5 + 3.0j, -1.5 - 3.0j),
    n: int = 400,
    d: int = 3,
    times: Real = TIMES,
    seed: int = 0,
    flow: int = 0,
    noise: Real | None = None,
    far: float = 0.7,
) -> Known:
    """Paths with one mode for each energy, orthonormal in space and time, and amplitudes that are Hermite
    polynomials of the noise, made exactly uncorrelated with each other, with x0 and with 1.

    ``flow`` seeds drift, affine part and modes; ``seed`` the noise, if none is given.
    """
    x0 = np.random.default_rng(seed).normal(size=(n, d)) if noise is None else noise
    rng, span, r = np.random.default_rng(100 + flow), functions(rates, times), len(rates)
    root = np.sqrt(trapezium(times))
    orthonormal = np.linalg.qr(span * root[:, None])[0]
    basis = span @ np.linalg.lstsq(span * root[:, None], orthonormal, rcond=None)[0]
    drift = basis @ rng.normal(size=(r, d)) * far
    affine = np.einsum("tr,rde->tde", basis, rng.normal(size=(r, d, d)) * 0.7)
    space_time = np.linalg.qr(rng.normal(size=(r * d, len(energies))))[0].T.reshape(-1, r, d)
    modes = np.einsum("tr,krd->ktd", basis, space_time)
    # Gram and Schmidt's order keeps each polynomial what it is but for sampling.
    polynomials = [hermite(x0) for hermite in HERMITE[: len(energies)]]
    columns = np.stack([np.ones(len(x0)), *x0.T, *polynomials], axis=1)
    free = np.linalg.qr(columns)[0][:, d + 1 :] * np.sqrt(len(x0))
    amplitudes = free * np.sqrt(np.asarray(energies))
    centred = x0 - x0.mean(axis=0)
    paths = x0 + drift[:, None] + np.einsum("nd,tde->tne", centred, affine)
    paths = paths + np.einsum("nk,ktd->tnd", amplitudes, modes)
    whole = sorted((complex(rate) for rate in rates), key=lambda rate: (abs(rate), -rate.imag))
    return Known(times, paths, whole, drift, affine, modes, amplitudes, np.asarray(energies))
