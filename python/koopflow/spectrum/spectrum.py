"""The spectrum of a student: the linear motions that make up its samples, and how reliable they are."""

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
SPURIOUS = 0.5  # A mode with a larger residual does not obey its equation.
OWN_BASIS = "a basis of the student, not of the teacher's flow"
NEARLY_DEFECTIVE = 1e5  # At this condition number, rounding L to float32 changes an eigenvalue by some 0.01.


@dataclass(frozen=True)
class StabilityReport:
    """Energy shares of growing, decaying, neutral and oscillating modes, and the largest Re lambda.

    ``growing``, ``decaying`` and ``neutral`` modes have Re lambda above 0.05, below -0.05, or in between.
    Their shares add up to 1. ``oscillating`` modes have ``|Im lambda| > |Re lambda|``.
    """

    growing: float
    decaying: float
    neutral: float
    oscillating: float
    largest_growth: float


class Spectrum:
    """Eigenvalues, eigenfunctions and modes of a student's generator, returned by ``student.spectrum()``.

    With dg/dt = g L (rows), a right eigenvector w of L gives an *eigenfunction* psi(t, x) = g(t, x) w, which
    obeys d psi/dt = lambda psi along the student's flow. The left eigenvectors q give g = rest + sum_k psi_k
    q_k. The contribution of q_k to the state is the *Koopman mode* v_k of psi_k. The rest belongs to the
    structural eigenvalue 0 of the constant, of time and, with a spectral generator, of the state; it is not
    listed. Source: Turan et al., arXiv 2506.22304, section 3.

    A sample is the sum of its noise, a drift that is the same for all samples, and the displacement by each
    mode: x(t) = base(x0, t) + sum_k psi_k(0, x0) (e^{lambda_k t} - 1) v_k.

    Selections are spectra too: ``spec[3]``, ``spec[:10]``, ``spec[spec.growth < 0]``. Sampling and editing
    with a selection uses both modes of each conjugate pair, because real samples need both.

    Attributes
    ----------
    student, core : _core.Student, _core.Spectrum
        The student and its decomposition in the core, for internal use.
    places, indices : array, ``[r]``, int
        Positions of these modes in the core's order, and by decreasing energy. ``sample(modes=)`` takes the
        latter.
    eigenvalues : array, complex ``[r]``
        Eigenvalues lambda per whole flow, from source to data; conjugate pairs are neighbours. A horizon in
        other units of time does not change them.
    frequency, growth : array, ``[r]``
        Im lambda, the angular frequency in radians per whole flow, and Re lambda.
    energy : array, ``[r]``
        Share of each mode in the energy of the whole spectrum. The energy of a mode is the mean square of its
        displacement at t = 1. Displacements are not orthogonal, so shares rank the modes but are not
        fractions of explained variance.
    power, spread : array, ``[r]``
        Mean of ``|psi_k(0, x0)|²`` over noise, and standard deviation of psi_k(0, x0).
    residuals : array, ``[r]``, or None without a teacher
        Error of the equation d psi/dt = lambda psi along the teacher's paths: RMS of d psi/dt - lambda psi
        over sqrt(RMS(d psi/dt)² + Var(psi)). It may exceed 1.
    condition_numbers : array, ``[r]``
        Condition numbers ``||w_k|| ||q_k||``, at least 1: the sensitivity of lambda_k to changes of L.
    """

    def __init__(
        self, student: _core.Student, core: _core.Spectrum, places: Places, tables: Tables | None = None
    ) -> None:
        self.student, self.core, self.places = student, core, places
        self.event_shape = tuple(student.event_shape)
        # Measurements of all modes, copied from the core once for all selections.
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
        """Time -1 / Re lambda in which a decaying mode falls by a factor e, ``[r]``; infinite for others."""
        decaying = self.growth < 0
        return np.asarray(np.divide(-1.0, self.growth, out=np.full(len(self), np.inf), where=decaying))

    @property
    def modes(self) -> Complex:
        """Koopman modes, complex ``[r, *event]``: the contribution of a unit of psi_k to the state.

        They are 0 where an eigenvalue is 0; the state then grows in proportion to psi_k, by
        :attr:`mode_rates`. With ``decoder="network"`` they are modes of the state among the observables, not
        of the decoded state.
        """
        return self._ask("modes").reshape(-1, *self.event_shape)

    @property
    def mode_rates(self) -> Complex:
        """Contributions lambda_k v_k of a unit of psi_k to dx/dt, complex ``[r, *event]``; always finite."""
        return self._ask("mode_rates").reshape(-1, *self.event_shape)

    @property
    def displacements(self) -> Complex:
        """Displacements (e^{lambda_k} - 1) v_k of a sample by a unit of psi_k(0), complex ``[r, *event]``."""
        return self.core.displacements(1.0)[self.places].reshape(-1, *self.event_shape)

    @property
    def weights(self) -> Complex:
        """Right eigenvectors as columns, complex ``[m, r]``: psi = g @ weights. These are not the modes."""
        return self.core.weights[:, self.places]

    @property
    def weight_images(self) -> Complex:
        """Weights of the coordinates of x in each eigenfunction, complex ``[r, *event]``.

        The paper's notebooks show these. They are 0 with a spectral generator, whose eigenfunctions depend on
        the features alone.
        """
        size = math.prod(self.event_shape)
        return np.asarray(self.weights[2 : 2 + size].T.reshape(-1, *self.event_shape))

    @property
    def spurious(self) -> NDArray[np.bool_] | None:
        """Whether a mode's residual exceeds 0.5, so that it is no mode of the teacher's flow, ``[r]``.

        None without a teacher.
        """
        return None if self.residuals is None else self.residuals > SPURIOUS

    @property
    def trusted_energy(self) -> float | None:
        """Share of these modes' energy in modes that are not spurious. None without a teacher."""
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
        """One sentence on whether these modes are those of the teacher's flow."""
        trusted = self.trusted_energy
        if trusted is None:
            return "not checked against a teacher: spectrum(teacher) measures which modes are reliable"
        found = f"{trusted:.0%} of the energy is in modes that follow the teacher's flow"
        return found if trusted >= 0.5 else f"only {found}: this spectrum is {OWN_BASIS}"

    @property
    def single(self) -> NDArray[np.bool_]:
        """One of each conjugate pair, ``[r]``."""
        return np.asarray(self.frequency >= 0.0)

    @property
    def caveat(self) -> str | None:
        """A warning that a plot of these modes must show; None if there is none."""
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
        """Select the modes that meet all given conditions.

        Parameters
        ----------
        count : int, optional
            Number of modes of highest energy; one more is taken if a conjugate pair would be split.
        energy : float, optional
            Share of the selection's energy, in (0, 1]. As few modes of highest energy as reach it are taken.
        frequency, growth : (float, float), optional
            Half-open ranges of ``|Im lambda|`` and of Re lambda.
        residual : float, optional
            Largest residual; requires a spectrum made with a teacher.
        """
        keep = kept_by(
            self, count=count, energy=energy, frequency=frequency, growth=growth, residual=residual
        )
        return self[keep]

    def paired(self, places: Places) -> NDArray[np.bool_]:
        """A mask ``[r]`` of positions in this selection and their conjugate partners."""
        own = self.places[places]
        return np.isin(self.places, [own, np.asarray(self.core.partners)[own]])

    def eigenfunctions(self, t: Array | float, x: Array, *, condition: Array | None = None) -> Complex:
        """Values psi_k(t, x), complex ``[B, r]``. ``t`` is a number or ``[B]``, ``x`` is ``[B, *event]``."""
        x, places = as_batch(x, "x"), self.places.tolist()
        psi = self.core.eigenfunctions(times_for(t, x), x, places, condition=as_condition(condition))
        if not np.isfinite(psi).all():
            raise NonFiniteError("x: expected states whose eigenfunctions are finite, got larger ones")
        return psi

    def amplitudes(self, x0: Array, *, condition: Array | None = None) -> Complex:
        """Amplitudes psi_k(0, x0) of noise ``[B, *event]``, complex ``[B, r]``; they determine its sample."""
        return self.eigenfunctions(0.0, x0, condition=condition)

    def contributions(self, x0: Array, *, t: float = 1.0, condition: Array | None = None) -> Complex:
        """Displacement by each mode at time t, psi_k(0, x0) (e^{lambda_k t} - 1) v_k, ``[B, r, *event]``.

        The sum of :meth:`base` and the displacements of all modes is the state at t; imaginary parts of pairs
        cancel. Raises ``ArgumentError`` with ``decoder="network"``, where a sample is not a sum over modes.
        """
        self._check_linear()
        (t,), psi = as_times([t], "t"), self.amplitudes(x0, condition=condition)
        moved = psi[:, :, None] * self.core.displacements(t)[self.places]
        return np.asarray(moved.reshape(*psi.shape, *self.event_shape))

    def base(self, x0: Array, *, t: float = 1.0, condition: Array | None = None) -> NDArray[Any]:
        """The state at t without any mode, ``[B, *event]``: noise plus a drift that all samples share."""
        self._check_linear()
        return self[:0]._samples(x0, condition, t=as_times([t], "t")[0])

    def _check_linear(self) -> None:
        if not self.core.linear:
            raise ArgumentError(
                "decoder: expected 'slice' or 'linear', got 'network', whose samples are not sums over modes"
            )

    def sample_path(
        self, x0: Array, *, times: Array | Sequence[float], condition: Array | None = None
    ) -> Array:
        """States at ``times`` with the displacements of only these modes, ``[T, B, *event]``."""
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
        """Values of data ``[N, *event]`` at time ``at`` to regress on, and all values that an edit can shift.

        The first are the real and imaginary parts of psi, ``[N, 2 r]``; the second the observables,
        ``[N, m]``.
        """
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
        """Data, or samples of noise, with the observables at time ``at`` shifted by ``[B, m]``."""
        return self.core.shift(x, shifts, noise=noise, at=at, project=project, condition=condition)

    def shift_image(self, shift: NDArray[np.float64], at: float) -> NDArray[np.float64]:
        """Change ``[*event]`` of a sample by a shift ``[m]`` of the observables at time ``at``."""
        own = self.student.own_time(at)
        g = np.concatenate([[1.0, own], np.zeros(len(shift) - 2)])
        carried = self.student.propagate(np.stack([g, g + shift]), 1.0 - own)
        ends = to_numpy(self.student.readout(carried))
        return np.asarray(ends[1] - ends[0], dtype=np.float64)

    def signature_times(self, times: Sequence[float]) -> list[float]:
        """Times at which :meth:`signature` differs: all given ones."""
        return as_times(times)

    def signature(self, x: Array, times: Sequence[float], condition: Array | None = None) -> Real:
        """Values ``|psi_k|`` along the paths that end in data, ``[N, T, r]``."""
        condition, psi = as_condition(condition), []
        for t in times:
            states = self.states_at(x, t, condition=condition)
            psi.append(self.eigenfunctions(t, states, condition=condition))
        return np.asarray(np.abs(np.stack(psi, axis=1)))

    def energy_over_time(self, times: Sequence[float]) -> Real:
        """Mean squared displacement by each mode at each of ``times``, ``[T, r]``.

        It is divided by the sum over all modes of the whole spectrum at t = 1.
        """
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
        """Cumulative reconstructions by frequency, ``[len(edges), T, B, *event]``.

        They are states at ``times`` with the displacements of only the modes of ``|Im lambda|`` below each
        edge.
        """
        below = [self.select(frequency=(0.0, edge)) for edge in as_numbers(edges, "edges", "[1, 5]")]
        return np.stack([to_numpy(low.sample_path(x0, times=times, condition=condition)) for low in below])

    def truncation_curve(
        self, x0: Array, *, counts: Sequence[int] | None = None, condition: Array | None = None
    ) -> tuple[Places, Real]:
        """Error of samples with only the first modes by energy, against samples with all modes.

        ``counts`` are numbers of modes; by default about 24, geometrically spaced. Returns the numbers kept,
        ``[C]``, since pairs are not split, and the RMS difference of the samples divided by the RMS
        displacement by all modes together, ``[C]``.
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
        """One dictionary of plain numbers for each mode, with None for values not measured."""
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
        """A table of the first modes, after one sentence on their reliability."""
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
    """The spectrum of a student: see :meth:`FittedStudent.spectrum`."""
    core = _core.Spectrum(student, teacher=teacher, **checked_noise(**noise))
    whole = Spectrum(student, core, np.asarray(core.order(str(sort)), dtype=np.int64))
    return whole if count is None else whole.select(count=count)


def states_at(student: _core.Student, x: Array, t: float, condition: Array | None) -> Array:
    """The states at time t of a student's paths that end in data ``x``, ``[B, *event]``."""
    x, (t,) = as_batch(x, "x"), as_times([t], "t")
    if t == 1.0:
        return x
    g = student.encode(1.0, x, direction="backward", condition=as_condition(condition))
    return student.readout(student.propagate(g, student.own_time(t) - 1.0))


def checked_noise(
    *, condition: Array | None = None, n: int = 512, seed: int | None = NOISE_SEED
) -> dict[str, Any]:
    """The core's options for drawing the noise on which a spectrum is measured."""
    return {"n": checked_count(n), "seed": as_seed(seed), "condition": as_condition(condition)}


def _restored(student: _core.Student, measured: tuple[Any, ...], places: Places) -> Spectrum:
    """The spectrum from a pickle: a new decomposition with the stored measurements."""
    return Spectrum(student, _core.Spectrum.known(student, *measured), places)


def checked_spectrum(argument: str, spectrum: Any, *kinds: type) -> None:
    """Raise ``TypeError`` for anything but a spectrum of these kinds, by default one of a generator.

    Raises ``ArgumentError`` for an empty spectrum.
    """
    kinds = kinds or (Spectrum,)
    if not isinstance(spectrum, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{argument}: expected a {names}, got {type(spectrum).__name__}")
    if not len(spectrum):  # type: ignore[arg-type]
        raise ArgumentError(f"{argument}: expected at least one mode, got none")


def _rms(difference: NDArray[Any]) -> float:
    return float(np.sqrt((difference.astype(np.float64) ** 2).mean()))
