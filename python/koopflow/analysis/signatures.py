"""Class-conditional spectral signatures: how large each eigenfunction is for each class, and over time."""

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
        The C classes and the T times.
    mean, spread, energy : array, ``[C, T, r]``
        Mean and standard deviation of ``|psi_k|``, and mean of its square.
    pooled : array, ``[T, r]``
        Standard deviation of ``|psi_k|`` within classes: the unit of distances.
    magnitudes, codes : array, ``[N, T, r]`` and ``[N]``
        ``|psi_k|`` of every sample, and the place of its class among ``labels``. With a FlowSpectrum, its
        amplitudes a_k with their signs, the same at all times; with a LevelSpectrum, RMS of ``|psi_k|`` over
        pixels.
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
        """RMS difference of mean signatures in units of the deviation within classes, ``[C, C]``."""
        flat = (self.mean / self.pooled).reshape(len(self.mean), -1)
        return np.asarray(np.sqrt(((flat[:, None] - flat) ** 2).mean(axis=2)))

    def classify(self, x: Array, *, condition: Array | None = None) -> NDArray[Any]:
        """The label of the nearest signature for each of data ``[B, *event]``, ``[B]``."""
        given = self.spectrum.signature(as_samples(x, "x"), self.times, condition)
        gaps = (((given[:, None] - self.mean) / self.pooled) ** 2).sum(axis=(2, 3))
        return np.asarray(np.asarray(self.labels)[gaps.argmin(axis=1)])

    def accuracy(self, x: Array, labels: Array, *, condition: Array | None = None) -> float:
        """Share of held-out data ``[B, *event]`` that :meth:`classify` labels as given, ``[B]``."""
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
    """Mean, spread and energy of ``|psi_k|`` by class along the paths that end in data.

    Parameters
    ----------
    spectrum, x, condition
        As in :func:`koopflow.analysis.find_directions`.
    labels : array, ``[N]``
        Classes of the data: at least two, of two samples each.
    times : sequence of float
        Times in [0, 1].
    """
    checked_spectrum("spectrum", spectrum, Spectrum, FlowSpectrum, LevelSpectrum)
    x = as_samples(x, "x")
    times = spectrum.signature_times(times)
    values, codes = np.unique(one_per_sample("labels", labels, x), return_inverse=True)
    if len(values) < 2 or np.bincount(codes).min() < 2:
        raise ArgumentError("labels: expected at least two classes of two samples each")
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
    """p-values of the distances between classes, ``[C, C]``: how often chance parts two classes as far.

    For each pair of classes, the labels of its samples are shuffled among them; the p-value is the share of
    shuffles with at least the distance seen, the unshuffled one counted too, so it is at least
    1 / (permutations + 1). The diagonal is 1. This makes C (C - 1) / 2 tests: correct for their number before
    claiming several at once.

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
