"""Class-conditional spectral signatures: how large each eigenfunction is for each class, and over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array, as_batch, as_condition, to_numpy
from ..exceptions import ArgumentError, ShapeError
from ..spectrum import Spectrum

_Real = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Signatures:
    """Signatures that :func:`koopflow.analysis.measure_signatures` measured.

    Attributes
    ----------
    labels : list
        The C classes.
    times : tuple of float
        The T times.
    mean, spread, energy : array, ``[C, T, r]``
        Mean and standard deviation of ``|psi_k|``, and mean of its square.
    pooled : array, ``[T, r]``
        Standard deviation of ``|psi_k|`` within classes: the unit of distances.
    magnitudes : array, ``[N, T, r]``
        ``|psi_k|`` of every sample.
    codes : array, ``[N]``, int
        Place of each sample's class among ``labels``.
    """

    spectrum: Spectrum
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
        return _distances(self.mean / self.pooled)

    def classify(self, x: Array, *, condition: Array | None = None) -> NDArray[Any]:
        """The label of the nearest signature for each of data ``[B, *event]``, ``[B]``."""
        given = _magnitudes(self.spectrum, as_batch(x), self.times, condition) / self.pooled
        gaps = ((given[:, None] - (self.mean / self.pooled)[None]) ** 2).sum(axis=(2, 3))
        nearest: NDArray[Any] = np.asarray(self.labels)[gaps.argmin(axis=1)]
        return nearest

    def accuracy(self, x: Array, labels: Array, *, condition: Array | None = None) -> float:
        """Share of held-out data ``[B, *event]`` that :meth:`classify` labels as given, ``[B]``."""
        return float((self.classify(x, condition=condition) == np.asarray(to_numpy(labels))).mean())


def measure_signatures(
    spectrum: Spectrum,
    x: Array,
    labels: Array,
    *,
    times: Sequence[float] = (0.0, 0.5, 1.0),
    condition: Array | None = None,
) -> Signatures:
    """Mean, spread and energy of ``|psi_k|`` by class along the paths that end in data.

    Parameters
    ----------
    spectrum : Spectrum
        A spectrum, or a selection of one.
    x : array, ``[N, *event]``
        Data.
    labels : array, ``[N]``
        Classes of the data.
    times : sequence of float
        Times in [0, 1].
    condition : array, optional
        Labels ``[N]`` or vectors ``[N, dim]`` for a conditional student.

    Returns
    -------
    Signatures

    Raises
    ------
    ArgumentError
        For fewer than two classes of two samples each, and without modes or times.
    ShapeError
        For labels that are not one a sample.
    """
    x = as_batch(x)
    given = np.asarray(to_numpy(labels))
    if given.shape != (len(x),):
        raise ShapeError(f"labels: expected shape ({len(x)},), got {given.shape}")
    values, codes = np.unique(given, return_inverse=True)
    if len(values) < 2 or np.bincount(codes).min() < 2:
        raise ArgumentError("labels: expected at least two classes of two samples each")
    if len(spectrum) == 0 or len(times) == 0:
        raise ArgumentError("expected at least one mode and one time")
    magnitudes = _magnitudes(spectrum, x, times, condition)
    groups = [magnitudes[codes == code] for code in range(len(values))]
    within = np.concatenate([group - group.mean(axis=0) for group in groups])
    return Signatures(
        spectrum=spectrum,
        labels=values.tolist(),
        times=tuple(float(t) for t in times),
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

    Parameters
    ----------
    signatures : Signatures
        Measured signatures.
    permutations : int, default 999
        Number of shuffles of each pair.
    seed : int, default 0
        Random seed of the shuffles.

    Raises
    ------
    ArgumentError
        For fewer than 1 permutation.
    """
    if permutations < 1:
        raise ArgumentError(f"permutations: expected at least 1, got {permutations}")
    random = np.random.default_rng(seed)
    count, codes = len(signatures.labels), signatures.codes
    p = np.ones((count, count))
    samples = (signatures.magnitudes / signatures.pooled).reshape(len(codes), -1)
    for a in range(count):
        for b in range(a + 1, count):
            both = samples[(codes == a) | (codes == b)]
            first = int((codes == a).sum())
            seen = _gap(samples[codes == a], samples[codes == b])
            as_far = 1
            for _ in range(permutations):
                order = random.permutation(len(both))
                as_far += _gap(both[order[:first]], both[order[first:]]) >= seen
            p[a, b] = p[b, a] = as_far / (permutations + 1)
    return p


def _magnitudes(spectrum: Spectrum, x: Array, times: Sequence[float], condition: Array | None) -> _Real:
    """``|psi_k|`` along the paths that end in x, ``[N, T, r]``."""
    condition = as_condition(condition)
    states = [spectrum.states_at(x, float(t), condition=condition) for t in times]
    psi = [
        spectrum.eigenfunctions(float(t), state, condition=condition)
        for t, state in zip(times, states, strict=True)
    ]
    return np.asarray(np.abs(np.stack(psi, axis=1)))


def _gap(a: _Real, b: _Real) -> float:
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum())


def _distances(mean: _Real) -> _Real:
    flat = mean.reshape(len(mean), -1)
    return np.asarray(np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(axis=2)))
