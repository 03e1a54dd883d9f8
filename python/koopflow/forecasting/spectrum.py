"""The spectrum of a forecaster: the linear motions in its data, and how reliable they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_batch
from .._tables import text_table, to_frame
from ..spectrum.places import chosen_places

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]
SPURIOUS = 0.5  # A mode with a larger residual does not obey its equation, as in a student's spectrum.
TRUSTED = 0.05  # Residual over one step up to which a mode counts as one of the data.


class SequenceSpectrum:
    """Eigenvalues, eigenfunctions and modes of a forecaster, returned by ``model.spectrum(paths)``.

    An eigenvector w of the step matrix K gives an eigenfunction psi(x) = g(x) w, which a step multiplies by
    mu; lambda = log(mu) / step. The contribution of a unit of psi to the state is its mode v: x is the mean
    plus the sum of psi_k(x) v_k. For irregular times they are those of the generator.

    Modes are in the order of ``explained``: each adds the most to those before it. Selections are spectra
    too: ``spec[:6]``, ``spec[spec.residuals < 0.05]``.

    Attributes
    ----------
    eigenvalues : array, complex ``[r]``
        Eigenvalues lambda per unit of time; conjugates are neighbours.
    growth, frequency : array, ``[r]``
        Re lambda, and Im lambda in radians per unit of time. A frequency is determined only up to multiples
        of 2 pi / step; the smallest is taken.
    energy : array, ``[r]``, or None without paths
        Mean square of a mode's contribution to the state, in units of the data's variance. Contributions are
        not orthogonal, so energies do not add up.
    explained : array, ``[r]``, or None without paths
        Share of the data's variance that a mode and all modes before it explain.
    residuals : array, ``[r]``, or None without paths
        RMS of psi(next) - mu psi divided by the RMS of psi along the paths (Colbrook and Townsend, 2024). It
        is 0 for an eigenfunction of the data. A chaotic system has no eigenfunction but the constant.
    condition_numbers : array, ``[r]``
        Condition numbers ``||w|| ||q||``: the sensitivity of an eigenvalue to changes of K.
    """

    def __init__(
        self,
        model: _core.Forecaster,
        tables: dict[str, NDArray[Any]],
        places: NDArray[np.int64] | None = None,
        *,
        scalar: bool = False,
        numbered: Callable[[Any, int], Any] | None = None,
    ) -> None:
        self.core, self.event_shape, self._tables = model, tuple(model.event_shape), tables
        self.places = np.arange(len(tables["eigenvalues"])) if places is None else places
        self._scalar, self._numbered = scalar, numbered
        if scalar:
            self.event_shape = ()
        self.eigenvalues: Complex = tables["eigenvalues"][self.places]
        self.growth: Real = self.eigenvalues.real
        self.frequency: Real = self.eigenvalues.imag
        self.condition_numbers: Real = tables["condition_numbers"][self.places]
        self.energy, self.explained, self.residuals, self.power = (
            tables[name][self.places] if name in tables else None
            for name in ("energy", "explained", "residuals", "power")
        )

    @classmethod
    def measure(
        cls,
        model: _core.Forecaster,
        paths: _core.Observed | None,
        monitor: Any,
        *,
        scalar: bool,
        numbered: Callable[[Any, int], Any],
    ) -> SequenceSpectrum:
        """The spectrum of a model, measured along paths if they are given."""
        (rates, weights, modes, conditions), facts = model.spectrum(paths, monitor=monitor)
        tables = {"eigenvalues": rates, "weights": weights.T, "modes": modes, "condition_numbers": conditions}
        if facts is None:
            order = np.argsort(-rates.real, kind="stable")
        else:
            power, residuals, energy, ranks, explained = facts
            tables |= {"power": power, "residuals": residuals, "energy": energy, "explained": explained}
            order = np.asarray(ranks, dtype=np.int64)
        return cls(model, tables, order, scalar=scalar, numbered=numbered)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: Any) -> SequenceSpectrum:
        chosen = self.places[chosen_places(key, len(self))]
        own: dict[str, Any] = {"scalar": self._scalar, "numbered": self._numbered}
        return SequenceSpectrum(self.core, self._tables, chosen, **own)

    @property
    def modes(self) -> Complex:
        """Modes, complex ``[r, *event]``: the contribution of a unit of psi to the state."""
        return np.asarray(self._tables["modes"][self.places]).reshape(-1, *self.event_shape)

    @property
    def weights(self) -> Complex:
        """Eigenvectors as columns, complex ``[m, r]``: psi = g @ weights."""
        return np.transpose(self._tables["weights"][self.places])

    @property
    def period(self) -> Real:
        """Period 2 pi / |frequency|, ``[r]``; infinite for modes that do not oscillate."""
        turning = self.frequency != 0
        found = np.divide(2 * np.pi, np.abs(self.frequency), out=np.full(len(self), np.inf), where=turning)
        return np.asarray(found)

    @property
    def lifetime(self) -> Real:
        """Time -1 / growth in which a decaying mode falls by a factor e, ``[r]``; infinite for others."""
        decaying = self.growth < 0
        return np.asarray(np.divide(-1.0, self.growth, out=np.full(len(self), np.inf), where=decaying))

    @property
    def spurious(self) -> NDArray[np.bool_] | None:
        """Whether the residual exceeds 0.5, ``[r]``. None without paths."""
        return None if self.residuals is None else self.residuals > SPURIOUS

    def eigenfunctions(self, x: Array, *, condition: Array | None = None) -> Complex:
        """Values psi_k, complex ``[B, r]``, of rows ``[B, *event]`` or ``[B, history, *event]``."""
        x = as_batch(x, "x")
        if self._scalar:
            x = x[..., None]
        if condition is not None and self._numbered is not None:
            condition = self._numbered(condition, len(x))
        return np.asarray(self.core.encode(x, condition=condition)) @ self.weights

    @property
    def verdict(self) -> str:
        """One sentence on whether these modes are modes of the data."""
        if self.residuals is None or self.energy is None:
            return "not checked along data: spectrum(paths) measures which modes are reliable"
        moving = np.abs(self.eigenvalues) > 1e-9
        trusted = max(float(self.energy[moving & (self.residuals <= TRUSTED)].sum()), 0.0)
        share = trusted / max(self.energy[moving].sum(), 1e-300)
        said = f"{share:.0%} of the energy is in modes that follow the data to {TRUSTED:.0%} a step"
        if share < 0.5:
            said = f"only {said}: the data have no such point spectrum, or the observables do not span it"
            noise = json.loads(self.core.facts)["facts"]["noise"]
            said += f", or noise of {noise:.2g} deviations hides it" if noise else ""
        return said

    def records(self) -> list[dict[str, Any]]:
        """One dictionary of plain numbers for each mode, with None for values not measured."""
        columns = {
            "growth": self.growth,
            "frequency": self.frequency,
            "energy": self.energy,
            "explained": self.explained,
            "residual": self.residuals,
            "condition_number": self.condition_numbers,
        }
        values = [[None] * len(self) if column is None else column.tolist() for column in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    def to_frame(self) -> Any:
        """:meth:`records` as a ``pandas.DataFrame``; an ``ArgumentError`` without pandas."""
        return to_frame(self.records())

    def summary(self, count: int = 12) -> str:
        """The first modes as a table, and the verdict."""
        step = json.loads(self.core.facts)["facts"]["step"]
        shown = [row for row in self.records() if row["frequency"] >= 0][:count]
        kept = f"{len(self)} modes of {self.core.size} observables, step {step:g}"
        return f"{text_table(shown, missing='-')}\n{kept}; {self.verdict}"

    def __repr__(self) -> str:
        size = math.prod(self.event_shape)
        return f"SequenceSpectrum({len(self)} modes of {size} numbers)"
