"""Matching two spectra: which eigenvalues are there again in another student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from .. import _core
from .._arrays import to_numpy
from ..exceptions import ShapeError

if TYPE_CHECKING:
    from ..spectrum.spectrum import Spectrum

# A pair is the same mode if its eigenfunctions correlate at least so, and its eigenvalues are no farther
# apart.
SAME_CORRELATION = 0.9
SAME_EIGENVALUE = 0.5


@dataclass(frozen=True, eq=False)
class SpectrumComparison:
    """What :meth:`koopflow.spectrum.Spectrum.compare` found, one entry a matched pair.

    Attributes
    ----------
    first, second : array, ``[P]``, int
        Places in the two selections, P the size of the smaller.
    distance : array, ``[P]``
        ``|lambda - lambda'|``, per unit of time.
    correlation : array, ``[P]``
        ``|<psi, psi'>| / (|psi| |psi'|)``, centred, over noise at t = 0 and the first student's samples at t
        = 1 that come of it.
    energy : array, ``[P]``
        The first spectrum's shares of those modes.
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
        """Correlation at least 0.9 and distance at most 0.5, ``[P]``."""
        return (self.correlation >= SAME_CORRELATION) & (self.distance <= SAME_EIGENVALUE)

    @property
    def reproducible_energy(self) -> float:
        """Share of the matched modes' energy in reproducible ones."""
        return float(self.energy[self.reproducible].sum() / max(self.energy.sum(), 1e-300))

    def summary(self, rows: int = 12) -> str:
        """A table of the matches, reproducible ones first, by energy."""
        lines = [
            f"{int(self.reproducible.sum())} of {len(self.first)} modes are reproducible, "
            f"{self.reproducible_energy:.0%} of their energy",
            f"{'mode':>6}{'eigenvalue':>18}{'other mode':>12}{'eigenvalue':>18}"
            f"{'distance':>10}{'correlation':>13}",
        ]
        for p in np.lexsort((-self.energy, ~self.reproducible))[:rows]:
            lines.append(
                f"{self.first[p]:>6}{self.eigenvalues[p]:>18.3f}{self.second[p]:>12}{self.others[p]:>18.3f}"
                f"{self.distance[p]:>10.3f}{self.correlation[p]:>13.3f}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"SpectrumComparison({self.summary(0).splitlines()[0]})"


def match(spectrum: Spectrum, other: Spectrum, *, n: int, seed: int) -> SpectrumComparison:
    """See :meth:`koopflow.spectrum.Spectrum.compare`."""
    if spectrum.event_shape != other.event_shape:
        raise ShapeError(f"other: expected event shape {spectrum.event_shape}, got {other.event_shape}")
    from ..spectrum.facts import conditions_for

    student = spectrum._facts.student
    noise = _core.normal((n, *spectrum.event_shape), seed)
    condition = conditions_for(student, n, None)
    ends = student.sample(x0=noise, condition=condition)
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
    """Eigenfunctions at both ends, each end centred and the whole of norm 1, ``[2 n, r]``."""
    parts = []
    for t, x in ((0.0, noise), (1.0, ends)):
        psi = spectrum.eigenfunctions(t, to_numpy(x), condition=condition)
        parts.append(psi - psi.mean(axis=0))
    whole = np.concatenate(parts)
    return np.asarray(whole / np.maximum(np.sqrt((np.abs(whole) ** 2).sum(axis=0)), 1e-300))
