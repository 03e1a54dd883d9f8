"""The spectrum of a student: which linear motions its samples are made of, and which to believe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import (
    Array,
    as_batch,
    as_condition,
    as_numbers,
    as_seed,
    as_times,
    checked_count,
    times_for,
    to_numpy,
)
from .._tables import text_table, to_frame
from ..exceptions import ArgumentError, NonFiniteError
from .places import chosen_places, kept_by, truncation_counts

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]
Places = NDArray[np.int64]
Tables = dict[str, NDArray[Any]]

NOISE_SEED = 424_242
SPURIOUS = 0.5  # A mode whose residual is above this obeys its own equation worse than not.
OWN_BASIS = "a basis of the student, not of the teacher's flow"
NEARLY_DEFECTIVE = 1e5  # Rounding L to float32 then moves an eigenvalue by some hundredths.


@dataclass(frozen=True)
class StabilityReport:
    """Shares of the energy by what modes do, and the largest Re lambda.

    ``growing``, ``decaying`` and ``neutral`` modes have Re lambda above 0.05, below -0.05, or between: their
    shares add up to 1. ``oscillating`` ones have ``|Im lambda| > |Re lambda|``.
    """

    growing: float
    decaying: float
    neutral: float
    oscillating: float
    largest_growth: float


class Spectrum:
    """Eigenvalues, eigenfunctions and modes of a student's generator, as ``student.spectrum()`` makes them.

    With dg/dt = g L (rows), a right eigenvector w of L makes an *eigenfunction* psi(t, x) = g(t, x) w, which
    obeys d psi/dt = lambda psi along the student's flow. The left eigenvectors q give g = rest + sum_k psi_k
    q_k, and what q_k puts into the state is the *Koopman mode* v_k of psi_k. The rest belongs to the
    structural eigenvalue 0 of the constant, of time and, with a spectral generator, of the state; it is not
    listed. Source: Turan et al., arXiv 2506.22304, section 3.

    A sample is its noise, a drift that is the same for all, and what each mode has moved since:
    x(t) = base(x0, t) + sum_k psi_k(0, x0) (e^{lambda_k t} - 1) v_k.

    Selections are spectra too: ``spec[3]``, ``spec[:10]``, ``spec[spec.growth < 0]``. Sampling and editing
    with one takes both modes of each conjugate pair, because real samples need both.

    Attributes
    ----------
    student, core : _core.Student, _core.Spectrum
        The student and its decomposition in the core, for the rooms that build on spectra.
    places, indices : array, ``[r]``, int
        Places of these modes in the core's order and, as ``sample(modes=)`` takes them, by energy.
    eigenvalues : array, complex ``[r]``
        lambda, per whole flow (from source to data, whatever the clock); conjugate pairs are neighbours.
    frequency, growth : array, ``[r]``
        Im lambda, the angular frequency in radians per whole flow, and Re lambda.
    energy : array, ``[r]``
        Share of the whole spectrum's energy: mean square of what a mode has moved at t = 1. Contributions are
        not orthogonal, so shares rank modes and say nothing about explained variance.
    power, spread : array, ``[r]``
        Mean of ``|psi_k(0, x0)|²`` over noise, and standard deviation of psi_k(0, x0).
    residuals : array, ``[r]``, or None without a teacher
        How badly each eigenfunction obeys d psi/dt = lambda psi along the teacher's paths: RMS of
        d psi/dt - lambda psi over sqrt(RMS(d psi/dt)² + Var(psi)), in [0, 1] and beyond.
    condition_numbers : array, ``[r]``
        ``||w_k|| ||q_k||``, at least 1: how much lambda_k moves for a change of L.
    """

    def __init__(
        self, student: _core.Student, core: _core.Spectrum, places: Places, tables: Tables | None = None
    ) -> None:
        self.student, self.core, self.places = student, core, places
        self.event_shape = tuple(student.event_shape)
        # What was measured of all modes, copied out of the core once for all selections.
        self._tables = tables or {"energy": core.energy([1.0])[0], "rank": np.argsort(core.order("energy"))}
        self.indices: Places = self._ask("rank")
        self.eigenvalues: Complex = self._ask("eigenvalues")
        self.frequency: Real = self.eigenvalues.imag
        self.growth: Real = self.eigenvalues.real
        self.energy: Real = self._ask("energy")
        self.power, self.spread = self._ask("power"), self._ask("spread")
        self.residuals: Real | None = None if core.residuals is None else self._ask("residuals")
        self.condition_numbers: Real = self._ask("condition_numbers")

    def _ask(self, table: str) -> NDArray[Any]:
        if table not in self._tables:
            self._tables[table] = np.asarray(getattr(self.core, table))
        return self._tables[table][self.places]

    def _only(self, places: Places) -> Spectrum:
        return Spectrum(self.student, self.core, places, self._tables)

    @property
    def lifetime(self) -> Real:
        """-1 / Re lambda, ``[r]``: the time in which a decaying mode falls by e; infinite for others."""
        decaying = self.growth < 0
        return np.asarray(np.divide(-1.0, self.growth, out=np.full(len(self), np.inf), where=decaying))

    @property
    def modes(self) -> Complex:
        """Koopman modes, complex ``[r, *event]``: what a unit of psi_k puts into the state.

        0 where an eigenvalue vanishes: the state then grows in proportion to psi_k, by :attr:`mode_rates`.
        With ``decoder="network"`` they are those of the state among the observables, not of what is decoded.
        """
        return self._ask("modes").reshape(-1, *self.event_shape)

    @property
    def mode_rates(self) -> Complex:
        """lambda_k v_k, complex ``[r, *event]``: what a unit of psi_k puts into dx/dt; always finite."""
        return self._ask("mode_rates").reshape(-1, *self.event_shape)

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

        These columns are what the paper's notebooks show; 0 with a spectral generator, which reads features.
        """
        size = math.prod(self.event_shape)
        return np.asarray(self.weights[2 : 2 + size].T.reshape(-1, *self.event_shape))

    @property
    def spurious(self) -> NDArray[np.bool_] | None:
        """Whether a mode's residual is above 0.5: it is not the flow's, ``[r]``. None without a teacher."""
        return None if self.residuals is None else self.residuals > SPURIOUS

    @property
    def trusted_energy(self) -> float | None:
        """Share of these modes' energy in those that are not spurious. None without a teacher."""
        if self.spurious is None:
            return None
        return float(self.energy[~self.spurious].sum() / max(self.energy.sum(), 1e-300))

    @property
    def condition_number(self) -> float:
        """The largest condition number of the whole spectrum."""
        return float(self._tables["condition_numbers"].max())

    @property
    def nearly_defective(self) -> bool:
        """Whether some modes are nearly parallel (condition number above 1e5): single ones mean little."""
        return self.condition_number > NEARLY_DEFECTIVE

    @property
    def verdict(self) -> str:
        """One sentence on what these modes are: of the teacher's flow, or a basis of the student's own."""
        trusted = self.trusted_energy
        if trusted is None:
            return "not checked against a teacher: spectrum(teacher) measures which modes to believe"
        found = f"{trusted:.0%} of the energy is in modes that follow the teacher's flow"
        return found if trusted >= 0.5 else f"only {found}: this spectrum is {OWN_BASIS}"

    @property
    def single(self) -> NDArray[np.bool_]:
        """One of each conjugate pair, ``[r]``."""
        return np.asarray(self.frequency >= 0.0)

    @property
    def caveat(self) -> str | None:
        """A warning that a picture of these modes must carry; None if there is nothing to warn of."""
        if self.nearly_defective:
            return "nearly defective generator: single modes mean little"
        trusted = self.trusted_energy
        return OWN_BASIS if trusted is not None and trusted < 0.5 else None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: int | slice | Sequence[int] | NDArray[Any]) -> Spectrum:
        return self._only(self.places[chosen_places(key, len(self))])

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
        """
        keep = kept_by(
            self, count=count, energy=energy, frequency=frequency, growth=growth, residual=residual
        )
        return self[keep]

    def paired(self, places: Places) -> NDArray[np.bool_]:
        """A mask ``[r]`` of places in this selection, with the partner of each."""
        own = self.places[places]
        return np.isin(self.places, [own, np.asarray(self.core.partners)[own]])

    def eigenfunctions(self, t: Array | float, x: Array, *, condition: Array | None = None) -> Complex:
        """psi_k(t, x), complex ``[B, r]``; ``t`` is a number or ``[B]``, ``x`` is ``[B, *event]``."""
        x, places = as_batch(x, "x"), self.places.tolist()
        psi = self.core.eigenfunctions(times_for(t, x), x, places, condition=as_condition(condition))
        if not np.isfinite(psi).all():
            raise NonFiniteError("x: expected states whose eigenfunctions are finite, got larger ones")
        return psi

    def amplitudes(self, x0: Array, *, condition: Array | None = None) -> Complex:
        """psi_k(0, x0) of noise ``[B, *event]``, complex ``[B, r]``: what decides its sample."""
        return self.eigenfunctions(0.0, x0, condition=condition)

    def contributions(self, x0: Array, *, t: float = 1.0, condition: Array | None = None) -> Complex:
        """What each mode has moved by time t, psi_k(0, x0) (e^{lambda_k t} - 1) v_k: ``[B, r, *event]``.

        Over all modes they add up, with :meth:`base`, to the state at t; imaginary parts of pairs cancel.
        Raises ``ArgumentError`` with ``decoder="network"``, where a sample is no sum.
        """
        self._check_linear()
        (t,), psi = as_times([t], "t"), self.amplitudes(x0, condition=condition)
        moved = psi[:, :, None] * self.core.displacements(t)[self.places]
        return np.asarray(moved.reshape(*psi.shape, *self.event_shape))

    def base(self, x0: Array, *, t: float = 1.0, condition: Array | None = None) -> NDArray[Any]:
        """The state at t if no mode moved, ``[B, *event]``: the noise and a drift that all samples share."""
        self._check_linear()
        return self[:0]._samples(x0, condition, t=as_times([t], "t")[0])

    def _check_linear(self) -> None:
        if not self.core.linear:
            raise ArgumentError(
                "decoder: expected 'slice' or 'linear': what a network decodes is no sum over modes"
            )

    def sample_path(
        self, x0: Array, *, times: Array | Sequence[float], condition: Array | None = None
    ) -> Array:
        """States at ``times`` with only these modes moving since 0, ``[T, B, *event]``."""
        pairs = [self.places, np.asarray(self.core.partners)[self.places]]
        keep = np.isin(np.arange(len(self._tables["rank"])), pairs)
        x0, times = as_batch(x0, "x0"), as_times(times, extrapolate=True)
        return self.core.sample(x0, times, keep.tolist(), condition=as_condition(condition))

    def _samples(self, x0: Array, condition: Array | None, *, t: float = 1.0) -> NDArray[Any]:
        return np.asarray(to_numpy(self.sample_path(x0, times=[t], condition=condition))[0])

    def states_at(self, x: Array, t: float, *, condition: Array | None = None) -> Array:
        """The student's states at time t of the paths that end in data ``x``, ``[B, *event]``."""
        return states_at(self.student, x, t, condition)

    def readings(
        self, x: Array, at: float, condition: Array | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What of data ``[N, *event]`` these modes read at time ``at``, and all that can be moved there: real
        and imaginary parts of psi, ``[N, 2 r]``, and observables, ``[N, m]``."""
        states = self.states_at(x, at, condition=condition)
        g = to_numpy(self.student.encode(at, states, condition=as_condition(condition))).astype(np.float64)
        if not np.isfinite(g).all():
            raise NonFiniteError("x: expected samples whose observables are finite, got larger ones")
        psi = g @ self.weights
        return np.concatenate([psi.real, psi.imag], axis=1), g

    def move(
        self,
        x: Array,
        shifts: NDArray[np.float64],
        *,
        noise: bool,
        at: float,
        project: bool = False,
        condition: Array | None = None,
    ) -> Array:
        """Data, or samples of noise, whose observables are shifted at time ``at`` by ``[B, m]``."""
        return self.core.shift(x, shifts, noise=noise, at=at, project=project, condition=condition)

    def shift_image(self, shift: NDArray[np.float64], at: float) -> NDArray[np.float64]:
        """What a shift ``[m]`` of the observables at time ``at`` adds to a sample, ``[*event]``."""
        own = self.student.own_time(at)
        g = np.concatenate([[1.0, own], np.zeros(len(shift) - 2)])
        carried = self.student.propagate(np.stack([g, g + shift]), 1.0 - own)
        ends = to_numpy(self.student.readout(carried))
        return np.asarray(ends[1] - ends[0], dtype=np.float64)

    def signature_times(self, times: Sequence[float]) -> list[float]:
        """Those at which :meth:`signature` differs: all."""
        return as_times(times)

    def signature(self, x: Array, times: Sequence[float], condition: Array | None = None) -> Real:
        """``|psi_k|`` along the paths that end in data, ``[N, T, r]``."""
        condition, psi = as_condition(condition), []
        for t in times:
            states = self.states_at(x, t, condition=condition)
            psi.append(self.eigenfunctions(t, states, condition=condition))
        return np.asarray(np.abs(np.stack(psi, axis=1)))

    def energy_over_time(self, times: Sequence[float]) -> Real:
        """Mean square of what each mode has moved by each of ``times``, over the sum of all of the whole
        spectrum's at t = 1, ``[T, r]``."""
        return self.core.energy(as_times(times))[:, self.places]

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
        """Cumulative reconstructions, ``[len(edges), T, B, *event]``: states at ``times`` with only the modes
        of ``|Im lambda|`` below each edge moving."""
        below = [self.select(frequency=(0.0, edge)) for edge in as_numbers(edges, "edges", "[1, 5]")]
        return np.stack([to_numpy(low.sample_path(x0, times=times, condition=condition)) for low in below])

    def truncation_curve(
        self, x0: Array, *, counts: Sequence[int] | None = None, condition: Array | None = None
    ) -> tuple[Places, Real]:
        """How far samples of the first modes by energy are from samples of all of the student's.

        ``counts`` are numbers of modes, by default about 24, geometrically spaced. Returns those that were
        kept (pairs are not parted), ``[C]``, and the RMS difference of the samples over the RMS of what all
        modes move together, ``[C]``.
        """
        numbers = truncation_counts(counts, len(self))
        selections = [self.select(count=number) if number else self[:0] for number in numbers]
        parts = {len(part): part for part in selections}
        everything = self._only(np.arange(len(self._tables["rank"])))
        whole, none = (each._samples(x0, condition) for each in (everything, self[:0]))
        scale = max(_rms(whole - none), 1e-300)
        errors = [_rms(part._samples(x0, condition) - whole) / scale for part in parts.values()]
        return np.asarray(list(parts), dtype=np.int64), np.asarray(errors)

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
        """:meth:`records` as a ``pandas.DataFrame``, indexed by mode; an ``ArgumentError`` without pandas."""
        return to_frame(self.records(), index="mode")

    def summary(self, rows: int = 12) -> str:
        """A table of the first modes, after one sentence on what to believe."""
        rows = checked_count(rows, "rows")
        lines = [f"{len(self)} of {len(self._tables['rank'])} modes; {self.verdict}"]
        if self.nearly_defective:
            lines.append(
                f"nearly defective: condition number {self.condition_number:.1e}; single modes mean little, "
                "sums over clusters of eigenvalues do"
            )
        shown = [
            row | {"energy": 100.0 * row["energy"], "spurious": "spurious" if row["spurious"] else ""}
            for row in self[:rows].records()
        ]
        columns = {name: name for name in ("mode", "growth", "frequency")}
        columns |= {"energy": "energy (%)", "residual": "residual", "condition_number": "condition"}
        decimals = {"growth": 3, "frequency": 3, "energy": 1, "residual": 3, "condition_number": 1}
        lines.append(text_table(shown, columns | {"spurious": ""}, decimals=decimals, missing="-"))
        if len(self) > rows:
            lines.append(f"{len(self) - rows} more, {self.energy[rows:].sum():.1%} of the energy")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        measured = (self.core.power, self.core.spread, self.core.residuals)
        return _restored, (self.student, measured, self.places)

    def __repr__(self) -> str:
        return f"Spectrum({len(self)} of {len(self._tables['rank'])} modes; {self.verdict})"


def build_spectrum(
    student: _core.Student,
    teacher: _core.VelocityField | None,
    *,
    sort: str = "energy",
    count: int | None = None,
    **noise: Any,
) -> Spectrum:
    """See :meth:`FittedStudent.spectrum`."""
    core = _core.Spectrum(student, teacher=teacher, **checked_noise(**noise))
    whole = Spectrum(student, core, np.asarray(core.order(str(sort)), dtype=np.int64))
    return whole if count is None else whole.select(count=count)


def states_at(student: _core.Student, x: Array, t: float, condition: Array | None) -> Array:
    """A student's states at time t of its paths that end in data ``x``, ``[B, *event]``."""
    x, (t,) = as_batch(x, "x"), as_times([t], "t")
    if t == 1.0:
        return x
    g = student.encode(1.0, x, direction="backward", condition=as_condition(condition))
    return student.readout(student.propagate(g, student.own_time(t) - 1.0))


def checked_noise(
    *, condition: Array | None = None, n: int = 512, seed: int | None = NOISE_SEED
) -> dict[str, Any]:
    """What the core draws the noise by that a spectrum is measured on."""
    return {"n": checked_count(n), "seed": as_seed(seed), "condition": as_condition(condition)}


def _restored(student: _core.Student, measured: tuple[Any, ...], places: Places) -> Spectrum:
    """The spectrum of a pickle: decomposed anew, with what was measured of it."""
    return Spectrum(student, _core.Spectrum.known(student, *measured), places)


def checked_spectrum(argument: str, spectrum: Any, *kinds: type) -> None:
    """Raises ``TypeError`` for what is no spectrum of these kinds, by default one of a generator, and
    ``ArgumentError`` for an empty one."""
    kinds = kinds or (Spectrum,)
    if not isinstance(spectrum, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{argument}: expected a {names}, got {type(spectrum).__name__}")
    if not len(spectrum):  # type: ignore[arg-type]
        raise ArgumentError(f"{argument}: expected at least one mode, got none")


def _rms(difference: NDArray[Any]) -> float:
    return float(np.sqrt((difference.astype(np.float64) ** 2).mean()))
