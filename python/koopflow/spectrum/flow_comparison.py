"""Comparison of the rates and modes of two flows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from .._tables import text_table
from .spectrum import Complex, Places, Real

FOUND_AGAIN = 0.8  # Mean squared cosine from which a group counts as found again.
SLOWEST = 0.1  # Motion at smaller rates is nearly linear in time, so distances are relative to this at least.


@dataclass(frozen=True, eq=False)
class FlowComparison:
    """Rates and groups of modes of a flow, compared with those of another by ``a.compare(b)``.

    Attributes
    ----------
    rates, others, distance : array, ``[P]``
        Rates of the first flow, the rates of the other flow that are matched to them one to one, and the
        distances ``|lambda - lambda'| / max(|lambda|, 0.1)``. The other flow is described by its best rates
        of the same number.
    unexplained : (float, float)
        Share of the first flow's motion that its own rates leave unexplained, and that the other's do.
    bound : float
        Largest such share with which rates count as being as good as the first flow's own: see
        :attr:`interchangeable`.
    first, second : list of arrays
        Positions of the modes of each group in the first flow, and in the other.
    energy : array, ``[G]``
        Share of each group in the energy of the first flow's modes.
    cosine, chance : array, ``[G]``
        Mean squared cosine of the principal angles between the spans of the two groups in space and time,
        divided by the larger dimension; and its value for random directions.
    amplitude, shuffled, p : array, ``[G]``, or None
        The same cosine for the amplitudes of the same noise; its mean over shuffles of the noise; and the
        p-value, which is the fraction of shuffles that reach it, with the original order counted as one.
        ``amplitude`` is None if the paths started from different noise; the others are also None without
        shuffles.
    cosines, correlations : array, ``[K, K']``
        Cosines between single modes, and correlations between their amplitudes (or None).
    shuffles : int
        Number of shuffles of the noise.
    """

    rates: Complex
    others: Complex
    distance: Real
    unexplained: tuple[float, float]
    bound: float
    first: list[Places]
    second: list[Places]
    energy: Real
    cosine: Real
    chance: Real
    amplitude: Real | None
    shuffled: Real | None
    p: Real | None
    cosines: Real
    correlations: Real | None
    shuffles: int

    @classmethod
    def of(
        cls,
        rates: Complex,
        others: Complex,
        found: str,
        unexplained: Sequence[float],
        cosines: Real,
        correlations: Real | None,
        *,
        bound: float,
        shuffles: int,
    ) -> FlowComparison:
        """The comparison from the core's results."""
        groups: list[dict[str, Any]] = json.loads(found)

        def column(name: str) -> NDArray[Any]:
            return np.asarray([group[name] for group in groups], dtype=np.float64)

        known = correlations is not None
        first, second = linear_sum_assignment(np.abs(rates[:, None] - others))
        distance = np.abs(rates[first] - others[second]) / np.maximum(np.abs(rates[first]), SLOWEST)
        return cls(
            rates=rates[first],
            others=others[second],
            distance=distance,
            unexplained=(unexplained[0], unexplained[1]),
            bound=bound,
            first=[np.asarray(group["first"], dtype=np.int64) for group in groups],
            second=[np.asarray(group["second"], dtype=np.int64) for group in groups],
            energy=column("energy"),
            cosine=column("cosine"),
            chance=column("chance"),
            amplitude=column("amplitude") if known else None,
            shuffled=column("shuffled") if known and shuffles else None,
            p=column("p") if known and shuffles else None,
            cosines=cosines,
            correlations=correlations,
            shuffles=shuffles,
        )

    @property
    def interchangeable(self) -> bool:
        """Whether the other's rates explain the first flow as well as its own do, even if they differ."""
        return self.unexplained[1] <= self.bound

    @property
    def found(self) -> NDArray[np.bool_]:
        """Groups of the first flow that are found again in the other, ``[G]``.

        Their cosine is at least 0.8. If amplitudes were compared, at most 5% of the shuffles reach the cosine
        of the amplitudes, or none of fewer than 20 shuffles.
        """
        again = np.asarray(self.cosine >= FOUND_AGAIN)
        return again if self.p is None else again & (self.p <= max(0.05, 1.0 / (self.shuffles + 1)))

    @property
    def found_energy(self) -> float:
        """Share of the first flow's nonlinear energy in groups that are found again."""
        return float(self.energy[self.found].sum())

    def summary(self, rows: int = 12) -> str:
        """The rates, and a table of the groups by energy."""
        pairs = [
            f"{rate:.3g} and {other:.3g} ({gap:.1%} apart)"
            for rate, other, gap in zip(self.rates, self.others, self.distance, strict=True)
            if rate.imag >= 0
        ]
        columns = {
            "modes": [len(group) for group in self.first],
            "of the other": [len(group) for group in self.second],
            "energy (%)": 100.0 * self.energy,
            "cosine²": self.cosine,
            "chance": self.chance,
            "amplitudes": self.amplitude,
            "p": self.p,
        }
        given = {name: values for name, values in columns.items() if values is not None}
        table = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
        decimals = {"energy (%)": 1, "cosine²": 2, "chance": 2, "amplitudes": 2, "p": 3}
        less = "as good as" if self.interchangeable else "worse than"
        left = (
            f"the other's are {less} its own: they leave {self.unexplained[1]:.2g} of the motion, and "
            f"its own {self.unexplained[0]:.2g}"
        )
        lines = [
            self._verdict,
            f"rates {'; '.join(pairs)}; {left}",
            text_table(table[:rows], decimals=decimals),
        ]
        return "\n".join(lines)

    @property
    def _verdict(self) -> str:
        return (
            f"{int(self.found.sum())} of {len(self.first)} groups are found again, {self.found_energy:.1%} "
            "of the energy"
        )

    def __repr__(self) -> str:
        return f"<FlowComparison: {self._verdict}>"


def nearest(rates: Complex, others: Complex) -> Complex:
    """The other rates, matched one to one to the rates by least distance and in their order."""
    _, order = linear_sum_assignment(np.abs(rates[:, None] - others))
    return np.asarray(others[order])
