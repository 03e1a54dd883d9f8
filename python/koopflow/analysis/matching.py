"""Matching of two students' spectra: the eigenvalues that both have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from .._arrays import as_seed, checked_count
from .._tables import text_table
from ..exceptions import ShapeError
from ..spectrum import NOISE_SEED, Spectrum, checked_spectrum

# Modes count as the same with at least this correlation of eigenfunctions and at most this distance of
# eigenvalues.
SAME_CORRELATION, SAME_EIGENVALUE = 0.9, 0.5


@dataclass(frozen=True, eq=False)
class SpectrumComparison:
    """Matched modes that :func:`koopflow.analysis.compare_spectra` found, one entry for each pair.

    Attributes
    ----------
    first, second : array, ``[P]``, int
        Positions in the two selections; P is the size of the smaller one.
    eigenvalues, others, distance : array, ``[P]``
        Eigenvalues of the first spectrum and of the other, and ``|lambda - lambda'|``, per whole flow.
    correlation : array, ``[P]``
        Correlation ``|<psi, psi'>| / (|psi| |psi'|)`` of the centred eigenfunctions, over noise and the first
        student's samples of it.
    energy : array, ``[P]``
        Energy shares of those modes in the first spectrum.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    eigenvalues: NDArray[np.complex128]
    others: NDArray[np.complex128]
    distance: NDArray[np.float64]
    correlation: NDArray[np.float64]
    energy: NDArray[np.float64]

    @property
    def reproducible(self) -> NDArray[np.bool_]:
        """Whether the correlation is at least 0.9 and the distance at most 0.5, ``[P]``."""
        return (self.correlation >= SAME_CORRELATION) & (self.distance <= SAME_EIGENVALUE)

    @property
    def reproducible_energy(self) -> float:
        """Fraction of the matched modes' energy in reproducible modes."""
        return float(self.energy[self.reproducible].sum() / max(self.energy.sum(), 1e-300))

    def summary(self, rows: int = 12) -> str:
        """A table of the matches, reproducible ones first, by energy."""
        order = np.lexsort((-self.energy, ~self.reproducible))[:rows]
        columns = {
            "mode": self.first,
            "growth": self.eigenvalues.real,
            "frequency": self.eigenvalues.imag,
            "other mode": self.second,
            "its growth": self.others.real,
            "its frequency": self.others.imag,
            "distance": self.distance,
            "correlation": self.correlation,
        }
        table = text_table(
            [{name: values[place].item() for name, values in columns.items()} for place in order], decimals=3
        )
        return f"{self._verdict}\n{table}"

    @property
    def _verdict(self) -> str:
        return (
            f"{int(self.reproducible.sum())} of {len(self.first)} modes are reproducible, "
            f"{self.reproducible_energy:.0%} of their energy"
        )

    def __repr__(self) -> str:
        return f"SpectrumComparison({self._verdict})"


def compare_spectra(
    spectrum: Spectrum, other: Spectrum, *, n: int = 512, seed: int = NOISE_SEED
) -> SpectrumComparison:
    """Match the modes of two students' spectra, or of selections of them, one to one.

    Modes are paired by the distance of their eigenvalues and the correlation of their eigenfunctions. The
    correlation is taken over the same noise (``n`` samples of random seed ``seed``) and the first student's
    samples of it.
    """
    checked_spectrum("spectrum", spectrum)
    checked_spectrum("other", other)
    if spectrum.event_shape != other.event_shape:
        raise ShapeError(f"other: expected event shape {spectrum.event_shape}, got {other.event_shape}")
    condition = spectrum.core.conditions(checked_count(n))
    noise = spectrum.student.source.draw(n, as_seed(seed), condition=condition)
    ends = spectrum.student.sample(noise, condition=condition)
    values = [_standardised(each, noise, ends, condition) for each in (spectrum, other)]
    correlation = np.abs(values[0].conj().T @ values[1])
    distance = np.abs(spectrum.eigenvalues[:, None] - other.eigenvalues[None])
    first, second = linear_sum_assignment(distance / SAME_EIGENVALUE - 10.0 * correlation)
    return SpectrumComparison(
        first=first,
        second=second,
        eigenvalues=spectrum.eigenvalues[first],
        others=other.eigenvalues[second],
        distance=distance[first, second],
        correlation=correlation[first, second],
        energy=spectrum.energy[first],
    )


def _standardised(spectrum: Spectrum, noise: Any, ends: Any, condition: Any) -> NDArray[np.complex128]:
    """Eigenfunctions of noise and samples, each set centred, the whole of norm 1, ``[2 n, r]``."""
    parts = []
    for t, x in ((0.0, noise), (1.0, ends)):
        psi = spectrum.eigenfunctions(t, x, condition=condition)
        parts.append(psi - psi.mean(axis=0))
    whole = np.concatenate(parts)
    return np.asarray(whole / np.maximum(np.sqrt((np.abs(whole) ** 2).sum(axis=0)), 1e-300))
