"""Spectral signatures of classes: the size of each eigenfunction for each class, over time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array, as_samples, as_seed, checked_count
from ..exceptions import ArgumentError
from ..spectrum import FlowSpectrum, LevelSpectrum, Spectrum, checked_spectrum
from .labels import one_per_sample

_Real = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Signatures:
    """Signatures that :func:`koopflow.analysis.measure_signatures` measured.

    Attributes
    ----------
    labels, times : list, tuple of float
        The C class labels and the T times.
    mean, spread, energy : array, ``[C, T, r]``
        Mean and standard deviation of ``|psi_k|``, and mean of its square.
    pooled : array, ``[T, r]``
        Standard deviation of ``|psi_k|`` within classes, which is the unit of distances.
    magnitudes, codes : array, ``[N, T, r]`` and ``[N]``
        ``|psi_k|`` of every sample, and the position of its class in ``labels``. With a FlowSpectrum, the
        amplitudes a_k with their signs take the place of ``|psi_k|``; they are the same at all times. With a
        LevelSpectrum it is the RMS of ``|psi_k|`` over pixels.
    """

    spectrum: Spectrum | FlowSpectrum | LevelSpectrum
    labels: list[Any]
    times: tuple[float, ...]
    mean: _Real
    spread: _Real
    energy: _Real
    pooled: _Real
    magnitudes: _Real
    codes: NDArray[np.int64]

    @property
    def distances(self) -> _Real:
        """RMS differences between mean signatures, in units of the deviation within classes, ``[C, C]``."""
        flat = (self.mean / self.pooled).reshape(len(self.mean), -1)
        return np.asarray(np.sqrt(((flat[:, None] - flat) ** 2).mean(axis=2)))

    def classify(self, x: Array, *, condition: Array | None = None) -> NDArray[Any]:
        """Classify data ``[B, *event]`` by the nearest mean signature; returns labels ``[B]``."""
        given = self.spectrum.signature(as_samples(x, "x"), self.times, condition)
        gaps = (((given[:, None] - self.mean) / self.pooled) ** 2).sum(axis=(2, 3))
        return np.asarray(np.asarray(self.labels)[gaps.argmin(axis=1)])

    def accuracy(self, x: Array, labels: Array, *, condition: Array | None = None) -> float:
        """Fraction of held-out data ``[B, *event]`` whose label by :meth:`classify` is that in ``labels``."""
        x = as_samples(x, "x")
        wanted = one_per_sample("labels", labels, x)
        return float(np.mean(self.classify(x, condition=condition) == wanted))


def measure_signatures(
    spectrum: Spectrum | FlowSpectrum | LevelSpectrum,
    x: Array,
    labels: Array,
    *,
    times: Sequence[float] = (0.0, 0.5, 1.0),
    condition: Array | None = None,
) -> Signatures:
    """Measure mean, spread and energy of ``|psi_k|`` by class, along the paths that end in the data.

    Parameters
    ----------
    spectrum, x, condition
        As in :func:`koopflow.analysis.find_directions`.
    labels : array, ``[N]``
        Classes of the data; at least two classes of two samples each.
    times : sequence of float
        Times in [0, 1].
    """
    checked_spectrum("spectrum", spectrum, Spectrum, FlowSpectrum, LevelSpectrum)
    x = as_samples(x, "x")
    times = spectrum.signature_times(times)
    values, codes = np.unique(one_per_sample("labels", labels, x), return_inverse=True)
    if len(values) < 2 or np.bincount(codes).min() < 2:
        raise ArgumentError("labels: expected at least two classes of two samples each, got fewer")
    magnitudes = spectrum.signature(x, times, condition)
    groups = [magnitudes[codes == code] for code in range(len(values))]
    within = np.concatenate([group - group.mean(axis=0) for group in groups])
    return Signatures(
        spectrum=spectrum,
        labels=values.tolist(),
        times=tuple(times),
        mean=np.stack([group.mean(axis=0) for group in groups]),
        spread=np.stack([group.std(axis=0) for group in groups]),
        energy=np.stack([(group**2).mean(axis=0) for group in groups]),
        pooled=np.maximum(within.std(axis=0), 1e-12),
        magnitudes=magnitudes,
        codes=codes,
    )


def permutation_test(signatures: Signatures, permutations: int = 999, *, seed: int = 0) -> _Real:
    """Compute p-values ``[C, C]`` of the distances between classes by a permutation test.

    For each pair of classes, the labels of its samples are shuffled. The p-value is the fraction of shuffles
    with at least the observed distance. The original labels count as one of the shuffles, so it is at least
    1 / (permutations + 1). The diagonal is 1. There are C (C - 1) / 2 tests: correct for their number when
    drawing conclusions from several.

    ``permutations`` is the number of shuffles of each pair, at least 1, and ``seed`` their random seed.
    """
    if not isinstance(signatures, Signatures):
        raise TypeError(f"signatures: expected a Signatures object, got {type(signatures).__name__}")
    random = np.random.default_rng(as_seed(seed))
    permutations = checked_count(permutations, "permutations")
    count, codes = len(signatures.labels), signatures.codes
    p = np.ones((count, count))
    samples = (signatures.magnitudes / signatures.pooled).reshape(len(codes), -1)
    for a, b in itertools.combinations(range(count), 2):
        both = np.concatenate([samples[codes == a], samples[codes == b]])
        first = int((codes == a).sum())
        orders = [np.arange(len(both)), *(random.permutation(len(both)) for _ in range(permutations))]
        gaps = [_gap(both[order[:first]], both[order[first:]]) for order in orders]
        p[a, b] = p[b, a] = np.mean(np.asarray(gaps) >= gaps[0])
    return p


def _gap(a: _Real, b: _Real) -> float:
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum())
