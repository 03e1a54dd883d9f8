"""The spectrum of a student: which linear motions its samples are made of, and which to believe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_batch, as_condition, checked_count, to_numpy
from .._tables import text_table, to_frame
from ..exceptions import ArgumentError, ShapeError
from .facts import Complex, Places, Real, SpectralFacts

NOISE_SEED = 424_242
SORTS = ("energy", "frequency", "growth", "modulus", "residual")
# A mode whose residual is above this obeys its own equation worse than not.
SPURIOUS = 0.5
# Rounding L to float32 then moves an eigenvalue by some hundredths.
NEARLY_DEFECTIVE = 1e5


@dataclass(frozen=True)
class StabilityReport:
    """Shares of the energy by what modes do; growing, decaying and neutral ones add up to 1.

    Attributes
    ----------
    growing, decaying, neutral : float
        Shares with Re lambda above 0.05, below -0.05, or between: by 5% over the time from noise to data.
    oscillating : float
        Share with ``|Im lambda| > |Re lambda|``.
    largest_growth : float
        max Re lambda, per unit of time.
    """

    growing: float
    decaying: float
    neutral: float
    oscillating: float
    largest_growth: float


class Spectrum:
    """Eigenvalues, eigenfunctions and modes of a student's generator; :meth:`FittedStudent.spectrum` makes
    one.

    With dg/dt = g L (rows), a right eigenvector w of L makes an *eigenfunction* psi(t, x) = g(t, x) w, which
    obeys d psi/dt = lambda psi along the student's flow. The left eigenvectors q give g = rest + sum_k psi_k
    q_k, and what q_k puts into the state is the *Koopman mode* v_k of psi_k. (Columns w shown as images, as
    in the paper's notebooks, are the weights of an eigenfunction: :attr:`weight_images`. Modes are
    :attr:`modes`.) The rest belongs to the structural eigenvalue 0 of the constant, of time and, with a
    spectral generator, of the state; it is not listed. Source: Turan et al., arXiv 2506.22304, section 3.

    A sample is its noise, a drift that is the same for all, and what each mode has moved since:
    x(t) = base(x0, t) + sum_k psi_k(0, x0) (e^{lambda_k t} - 1) v_k; see :meth:`base` and
    :meth:`contributions`.

    Selections are spectra too: ``spec[3]``, ``spec[:10]``, ``spec[spec.growth < 0]``. Sampling and editing
    with a selection takes both modes of each conjugate pair if one is selected, because real samples need
    both.

    Attributes
    ----------
    student : _core.Student
        The student in the core, for the rooms that build on spectra.
    core : _core.Spectrum
        The decomposition in the core, of all modes.
    places : array, ``[r]``, int
        Places of these modes in the core's order.
    """

    def __init__(self, facts: SpectralFacts, places: Places) -> None:
        self._facts = facts
        self.student, self.core = facts.student, facts.core
        self.places = places

    # --- what there is -----------------------------------------------------------------------------------

    @cached_property
    def eigenvalues(self) -> Complex:
        """lambda, complex ``[r]``, per unit of time, the time from noise to data; pairs stand side by
        side."""
        return self._facts.eigenvalues[self.places]

    @cached_property
    def indices(self) -> Places:
        """Places of these modes in the whole spectrum by energy, ``[r]``, as ``modes=`` of
        :meth:`FittedStudent.sample` takes them."""
        return self._facts.rank[self.places]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.student.event_shape)

    @property
    def frequency(self) -> Real:
        """Im lambda, ``[r]``: angular frequency, in radians per unit of time."""
        return np.asarray(self.eigenvalues.imag)

    @property
    def growth(self) -> Real:
        """Re lambda, ``[r]``, per unit of time."""
        return np.asarray(self.eigenvalues.real)

    @property
    def lifetime(self) -> Real:
        """-1 / Re lambda, ``[r]``: the time in which a decaying mode falls by e; infinite for others."""
        growth = self.growth
        return np.where(growth < 0, -1.0 / np.where(growth < 0, growth, -1.0), np.inf)

    @property
    def modes(self) -> Complex:
        """Koopman modes, complex ``[r, *event]``: what a unit of psi_k puts into the state.

        0 where an eigenvalue vanishes: the state then grows in proportion to psi_k, by :attr:`mode_rates`.
        With ``decoder="network"`` these are modes of the state among the observables; what is decoded is not
        linear in them.
        """
        return self._facts.modes[self.places].reshape(-1, *self.event_shape)

    @property
    def mode_rates(self) -> Complex:
        """lambda_k times the modes, complex ``[r, *event]``: what a unit of psi_k puts into dx/dt; always
        finite."""
        return self._facts.mode_rates[self.places].reshape(-1, *self.event_shape)

    @property
    def displacements(self) -> Complex:
        """(e^{lambda_k} - 1) v_k, complex ``[r, *event]``: how far a unit of psi_k(0) moves the sample."""
        return self.core.displacements(1.0)[self.places].reshape(-1, *self.event_shape)

    @property
    def weights(self) -> Complex:
        """Right eigenvectors as columns, complex ``[m, r]``: psi = g @ weights. Not modes."""
        return self.core.weights[:, self.places]

    @property
    def weight_images(self) -> Complex:
        """How much of each coordinate of x an eigenfunction reads, complex ``[r, *event]``.

        These are the columns of P that the paper's notebooks show. 0 with a spectral generator, whose
        eigenfunctions read features only.
        """
        size = int(np.prod(self.event_shape))
        return np.asarray(self.weights[2 : 2 + size].T.reshape(-1, *self.event_shape))

    @cached_property
    def energy(self) -> Real:
        """Share of the whole spectrum's energy, ``[r]``: mean square of what a mode has moved at t = 1.

        The two modes of a pair have equal shares. Contributions are not orthogonal, so shares rank modes;
        they do not say how much of the variance is explained.
        """
        return self._facts.energy[self.places]

    @property
    def power(self) -> Real:
        """Mean of ``|psi_k(0, x0)|²`` over noise, ``[r]``."""
        return self._facts.power[self.places]

    @property
    def spread(self) -> Real:
        """Standard deviation of psi_k(0, x0) over noise, ``[r]``."""
        return self._facts.spread[self.places]

    @cached_property
    def residuals(self) -> Real | None:
        """How badly each eigenfunction obeys d psi/dt = lambda psi along the teacher's paths, ``[r]``.

        RMS of d psi/dt - lambda psi over sqrt(RMS(d psi/dt)² + Var(psi)), in [0, 1] and beyond: relative to
        its rate for a fast one, to its own size per unit of time for a slow one. None without a teacher.
        """
        residuals = self._facts.residuals
        return None if residuals is None else residuals[self.places]

    @property
    def spurious(self) -> NDArray[np.bool_] | None:
        """Whether the residual is above 0.5, so that a mode is not the flow's, ``[r]``. None without a
        teacher."""
        residuals = self.residuals
        return None if residuals is None else np.asarray(residuals > SPURIOUS)

    @property
    def trusted_energy(self) -> float | None:
        """Share of this selection's energy in modes that are not spurious. None without a teacher."""
        spurious = self.spurious
        if spurious is None:
            return None
        return float(self.energy[~spurious].sum() / max(self.energy.sum(), 1e-300))

    @cached_property
    def condition_numbers(self) -> Real:
        """``||w_k|| ||q_k||``, ``[r]``, at least 1: how much lambda_k moves for a change of L."""
        return self._facts.condition_numbers[self.places]

    @property
    def condition_number(self) -> float:
        """The largest condition number of the whole spectrum; above 1e5 the generator is nearly defective
        and :meth:`summary` says so."""
        return float(self._facts.condition_numbers.max())

    @property
    def nearly_defective(self) -> bool:
        """Whether some modes are nearly parallel, so that single ones mean little."""
        return self.condition_number > NEARLY_DEFECTIVE

    @property
    def verdict(self) -> str:
        """One sentence on what these modes are: of the teacher's flow, or a basis of the student's own."""
        trusted = self.trusted_energy
        if trusted is None:
            return "not checked against a teacher: spectrum(teacher) measures which modes to believe"
        if trusted >= 0.5:
            return f"{trusted:.0%} of the energy is in modes that follow the teacher's flow"
        return (
            f"only {trusted:.0%} of the energy is in modes that follow the teacher's flow: "
            "this spectrum is a basis of the student, not of the teacher's flow"
        )

    @property
    def caveat(self) -> str | None:
        """A warning that a picture of these modes must carry; None if there is nothing to warn of."""
        if self.nearly_defective:
            return "nearly defective generator: single modes mean little"
        trusted = self.trusted_energy
        if trusted is not None and trusted < 0.5:
            return "a basis of the student, not of the teacher's flow"
        return None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: int | slice | Sequence[int] | NDArray[Any]) -> Spectrum:
        if isinstance(key, int | np.integer):
            if not -len(self) <= key < len(self):
                raise IndexError(f"mode {key} of {len(self)}")
            key = [int(key)]
        index = key if isinstance(key, slice) else np.asarray(key)
        if isinstance(index, np.ndarray):
            if index.dtype == bool and index.shape != (len(self),):
                raise ShapeError(f"modes: expected a mask of shape ({len(self)},), got {index.shape}")
            if index.size == 0:
                index = index.astype(np.int64)
            if index.dtype.kind not in "iub" or index.ndim != 1:
                raise ArgumentError("modes: expected an integer, a slice, a list of integers or a mask")
        return Spectrum(self._facts, self.places[index])

    def select(
        self,
        *,
        count: int | None = None,
        energy: float | None = None,
        frequency: tuple[float, float] | None = None,
        growth: tuple[float, float] | None = None,
        residual: float | None = None,
    ) -> Spectrum:
        """The modes that fulfil every condition given.

        Parameters
        ----------
        count : int, optional
            Number of modes, those of the highest energy; one more if a pair would be parted.
        energy : float, optional
            Share of the selection's energy, in (0, 1], that the fewest modes of the highest energy reach.
        frequency, growth : (float, float), optional
            Half-open ranges of ``|Im lambda|`` and of Re lambda.
        residual : float, optional
            Largest residual; needs a spectrum made with a teacher.

        Returns
        -------
        Spectrum
        """
        keep = np.ones(len(self), dtype=bool)
        if frequency is not None:
            keep &= (np.abs(self.frequency) >= frequency[0]) & (np.abs(self.frequency) < frequency[1])
        if growth is not None:
            keep &= (self.growth >= growth[0]) & (self.growth < growth[1])
        if residual is not None:
            if self.residuals is None:
                raise ArgumentError("residual: expected a spectrum made with a teacher: spectrum(teacher)")
            keep &= self.residuals <= residual
        if energy is not None:
            if not 0.0 < energy <= 1.0:
                raise ArgumentError(f"energy: expected a share in (0, 1], got {energy!r}")
            order = np.argsort(-self.energy, kind="stable")
            shares = np.cumsum(self.energy[order]) / max(self.energy.sum(), 1e-300)
            enough = int(np.searchsorted(shares, energy - 1e-12)) + 1
            keep &= self.paired(order[:enough])
        if count is not None:
            if checked_count(count) > len(self):
                raise ArgumentError(f"count: expected at most {len(self)}, got {count}")
            keep &= self.paired(np.argsort(-self.energy, kind="stable")[:count])
        return self[keep]

    def paired(self, places: Places) -> NDArray[np.bool_]:
        """A mask ``[r]`` of places in this selection, with the partner of each."""
        return np.isin(self.places, self._with_partners(self.places[places]))

    def _with_partners(self, places: Places) -> Places:
        return np.concatenate([places, self._facts.partners[places]])

    # --- samples in eigenfunctions -----------------------------------------------------------------------

    def eigenfunctions(self, t: Array | float, x: Array, *, condition: Array | None = None) -> Complex:
        """psi_k(t, x), complex ``[B, r]``; ``t`` is a number or ``[B]``, ``x`` is ``[B, *event]``."""
        return self.core.eigenfunctions(
            t, as_batch(x), self.places.tolist(), condition=as_condition(condition)
        )

    def amplitudes(self, x0: Array, *, condition: Array | None = None) -> Complex:
        """psi_k(0, x0) of noise ``[B, *event]``, complex ``[B, r]``: what decides its sample."""
        return self.eigenfunctions(0.0, x0, condition=condition)

    def contributions(self, x0: Array, *, t: float = 1.0, condition: Array | None = None) -> Complex:
        """What each mode has moved by time t, complex ``[B, r, *event]``.

        psi_k(0, x0) (e^{lambda_k t} - 1) v_k. Over all modes they add up, with :meth:`base`, to the state at
        t; the imaginary parts of a pair cancel.

        Raises
        ------
        ArgumentError
            With ``decoder="network"``, where a sample is no sum.
        """
        self._check_linear()
        psi = self.amplitudes(x0, condition=condition)
        moved = psi[:, :, None] * self.core.displacements(float(t))[self.places][None]
        return np.asarray(moved.reshape(*psi.shape, *self.event_shape))

    def base(self, x0: Array, *, t: float = 1.0, condition: Array | None = None) -> NDArray[Any]:
        """The state at t if no mode moved, ``[B, *event]``: the noise and a drift that all samples share."""
        self._check_linear()
        return self[:0]._samples(x0, condition, t=float(t))

    def _check_linear(self) -> None:
        if not self.core.linear:
            raise ArgumentError(
                "decoder: expected 'slice' or 'linear': what a network decodes is no sum over modes"
            )

    def sample_path(self, x0: Array, *, times: Sequence[float], condition: Array | None = None) -> Array:
        """States at ``times`` with only these modes moving, ``[T, B, *event]``; the others stay as they are
        at 0."""
        keep = np.isin(np.arange(len(self._facts)), self._with_partners(self.places))
        times = [float(t) for t in times]
        return self.core.sample(as_batch(x0), times, keep.tolist(), condition=as_condition(condition))

    def states_at(self, x: Array, t: float, *, condition: Array | None = None) -> Array:
        """The student's states at time t of the paths that end in data ``x``, ``[B, *event]``."""
        x = as_batch(x)
        if t == 1.0:
            return x
        g = self.student.encode(1.0, x, direction="backward", condition=as_condition(condition))
        return self.student.readout(self.student.propagate(g, t - 1.0))

    # --- time --------------------------------------------------------------------------------------------

    def energy_over_time(self, times: Sequence[float]) -> Real:
        """Mean square over noise of what each mode has moved by each of ``times``, ``[T, r]``.

        In units of the whole spectrum's sum at t = 1.
        """
        return self.core.energy([float(t) for t in times])[:, self.places]

    def stability(self) -> StabilityReport:
        """Shares of this selection's energy in growing, decaying, neutral and oscillating modes."""
        share = self.energy / max(self.energy.sum(), 1e-300)
        growth = self.growth
        return StabilityReport(
            growing=float(share[growth > 0.05].sum()),
            decaying=float(share[growth < -0.05].sum()),
            neutral=float(share[np.abs(growth) <= 0.05].sum()),
            oscillating=float(share[np.abs(self.frequency) > np.abs(growth)].sum()),
            largest_growth=float(growth.max()) if len(self) else 0.0,
        )

    def bands(
        self,
        x0: Array,
        *,
        edges: Sequence[float],
        times: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        condition: Array | None = None,
    ) -> Array:
        """Cumulative reconstructions: states with only the modes of ``|Im lambda|`` below each edge moving.

        Returns
        -------
        array, ``[len(edges), T, B, *event]``
            The last band is the whole path where the last edge is above every frequency.
        """
        low = [
            to_numpy(self.select(frequency=(0.0, edge)).sample_path(x0, times=times, condition=condition))
            for edge in edges
        ]
        return np.stack(low)

    def truncation_curve(
        self, x0: Array, *, counts: Sequence[int] | None = None, condition: Array | None = None
    ) -> tuple[Places, Real]:
        """How far samples of the first modes by energy are from samples of all of the student's.

        Parameters
        ----------
        x0 : array, ``[B, *event]``
            Noise.
        counts : sequence of int, optional
            Numbers of modes; about 24 of them, geometrically spaced, by default.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, dim]`` for a conditional student.

        Returns
        -------
        counts : array, ``[C]``
            Numbers of modes that were kept: pairs are not parted.
        errors : array, ``[C]``
            RMS difference over the RMS of what all modes move together.
        """
        if counts is None:
            grid = np.geomspace(1, len(self), min(24, len(self)))
            counts = [0, *np.unique(grid.round().astype(int)).tolist()]
        everything = Spectrum(self._facts, np.arange(len(self._facts)))
        whole, none = everything._samples(x0, condition), self[:0]._samples(x0, condition)
        scale = max(_rms(whole - none), 1e-300)
        kept, errors = [], []
        for count in counts:
            part = self.select(count=count) if count else self[:0]
            if len(part) not in kept:
                kept.append(len(part))
                errors.append(_rms(part._samples(x0, condition) - whole) / scale)
        return np.asarray(kept, dtype=np.int64), np.asarray(errors)

    def _samples(self, x0: Array, condition: Array | None, *, t: float = 1.0) -> NDArray[Any]:
        return np.asarray(to_numpy(self.sample_path(x0, times=[t], condition=condition))[0])

    # --- to read -----------------------------------------------------------------------------------------

    def records(self) -> list[dict[str, Any]]:
        """One mapping of names to plain numbers for each mode; what was not measured is None."""
        columns = {
            "mode": self.indices,
            "growth": self.growth,
            "frequency": self.frequency,
            "energy": self.energy,
            "residual": self.residuals,
            "spurious": self.spurious,
            "condition_number": self.condition_numbers,
        }
        values = [[None] * len(self) if column is None else column.tolist() for column in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    def to_frame(self) -> Any:
        """:meth:`records` as a ``pandas.DataFrame``, indexed by mode.

        Raises
        ------
        ArgumentError
            When pandas is not installed.
        """
        return to_frame(self.records(), index="mode")

    def summary(self, rows: int = 12) -> str:
        """A table of the first modes, after one sentence on what to believe."""
        lines = [f"{len(self)} of {len(self._facts)} modes; {self.verdict}"]
        if self.nearly_defective:
            lines.append(
                f"nearly defective: condition number {self.condition_number:.1e}; single modes mean little, "
                "sums over clusters of eigenvalues do"
            )
        shown = [
            row | {"energy": 100.0 * row["energy"], "spurious": "spurious" if row["spurious"] else ""}
            for row in self[:rows].records()
        ]
        columns = {
            "mode": "mode",
            "growth": "growth",
            "frequency": "frequency",
            "energy": "energy (%)",
            "residual": "residual",
            "condition_number": "condition",
            "spurious": "",
        }
        decimals = {"growth": 3, "frequency": 3, "energy": 1, "residual": 3, "condition_number": 1}
        lines.append(text_table(shown, columns, decimals=decimals, missing="-"))
        if len(self) > rows:
            lines.append(f"{len(self) - rows} more, {self.energy[rows:].sum():.1%} of the energy")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Spectrum({len(self)} of {len(self._facts)} modes; {self.verdict})"


def build_spectrum(
    student: _core.Student,
    teacher: _core.VelocityField | None,
    *,
    condition: Array | None = None,
    sort: str = "energy",
    count: int | None = None,
    n: int = 512,
    seed: int = NOISE_SEED,
) -> Spectrum:
    """See :meth:`FittedStudent.spectrum`."""
    if sort not in SORTS:
        raise ArgumentError(f"sort: expected one of {', '.join(SORTS)}, got {sort!r}")
    if sort == "residual" and teacher is None:
        raise ArgumentError("sort: expected a teacher for 'residual', got none")
    core = _core.Spectrum(
        student, n=checked_count(n), seed=seed, condition=as_condition(condition), teacher=teacher
    )
    whole = Spectrum(SpectralFacts(student, core), np.asarray(core.order(sort), dtype=np.int64))
    return whole if count is None else whole.select(count=count)


def _rms(difference: NDArray[Any]) -> float:
    return float(np.sqrt((difference.astype(np.float64) ** 2).mean()))
