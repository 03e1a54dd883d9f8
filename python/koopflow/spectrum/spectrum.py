"""The spectrum of a student: which linear motions its samples are made of, and which to believe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array, as_batch, as_condition, to_numpy
from ..exceptions import ArgumentError, ShapeError
from ..teachers.flow import Flow, checked_count
from .facts import NOISE_SEED, SORTS, SpectralFacts, integral, measure_facts, sorted_by

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..analysis import Directions, Signatures, SpectrumComparison
    from ..students.student import FittedStudent

# A mode whose residual is above this obeys its own equation worse than not.
SPURIOUS = 0.5
# Rounding L to float32 then moves an eigenvalue by some hundredths.
NEARLY_DEFECTIVE = 1e5
_Complex = NDArray[np.complex128]
_Real = NDArray[np.float64]


@dataclass(frozen=True)
class StabilityReport:
    """Shares of the energy by what modes do; growing, decaying and neutral ones add up to 1.

    Attributes
    ----------
    growing, decaying, neutral : float
        With Re lambda above 0.05, below -0.05, or between: by 5% over the time from noise to data.
    oscillating : float
        With ``|Im lambda| > |Re lambda|``.
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

    Selections are spectra too: ``spec[3]``, ``spec[:10]``, ``spec[spec.growth < 0]``. Whoever samples or
    edits with a selection gets both of each conjugate pair where one is selected, because real samples come
    of nothing else.

    Attributes
    ----------
    eigenvalues : array, ``[r]``, complex128
        Per unit of time, the time from noise to data. Conjugate pairs stand side by side.
    indices : array, ``[r]``, int
        Of these modes in the whole spectrum by energy, as ``modes=`` of :meth:`FittedStudent.sample` takes
        them.
    """

    def __init__(self, facts: SpectralFacts, order: NDArray[np.int64], chosen: NDArray[np.int64]) -> None:
        self._facts = facts
        # Core indices: of the whole spectrum as it is sorted, and of this selection.
        self._order = order
        self._chosen = chosen

    # --- what there is -----------------------------------------------------------------------------------

    @property
    def eigenvalues(self) -> _Complex:
        return self._facts.eigenvalues[self._chosen]

    @property
    def indices(self) -> NDArray[np.int64]:
        place = np.empty(len(self._facts.eigenvalues), dtype=np.int64)
        place[sorted_by("energy", self._facts)] = np.arange(len(place))
        return place[self._chosen]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self._facts.student._fitted().event_shape)

    @property
    def frequency(self) -> _Real:
        """Im lambda, ``[r]``: angular frequency, in radians per unit of time."""
        return np.asarray(self.eigenvalues.imag)

    @property
    def growth(self) -> _Real:
        """Re lambda, ``[r]``, per unit of time."""
        return np.asarray(self.eigenvalues.real)

    @property
    def lifetime(self) -> _Real:
        """-1 / Re lambda, ``[r]``: the time in which a decaying mode falls by e; infinite where none does."""
        growth = self.growth
        return np.where(growth < 0, -1.0 / np.where(growth < 0, growth, -1.0), np.inf)

    @property
    def modes(self) -> _Complex:
        """Koopman modes, complex ``[r, *event]``: what a unit of psi_k puts into the state.

        0 where an eigenvalue vanishes: the state then grows in proportion to psi_k, by :attr:`mode_rates`.
        With ``decoder="network"`` the state's observables are meant; what is decoded is not linear in them.
        """
        return self._facts.modes[self._chosen].reshape(-1, *self.event_shape)

    @property
    def mode_rates(self) -> _Complex:
        """lambda_k times the modes, complex ``[r, *event]``: what a unit of psi_k puts into dx/dt; always
        finite."""
        return self._facts.rates[self._chosen].reshape(-1, *self.event_shape)

    @property
    def displacements(self) -> _Complex:
        """(e^{lambda_k} - 1) v_k, complex ``[r, *event]``: how far a unit of psi_k(0) moves the sample."""
        factors = integral(self.eigenvalues, 1.0)
        return np.asarray(factors.reshape(-1, *[1] * len(self.event_shape)) * self.mode_rates)

    @property
    def weights(self) -> _Complex:
        """Right eigenvectors as columns, complex ``[m, r]``: psi = g @ weights. Not modes."""
        return self._facts.weights[:, self._chosen]

    @property
    def weight_images(self) -> _Complex:
        """How much of each coordinate of x an eigenfunction reads, complex ``[r, *event]``.

        These are the columns of P that the paper's notebooks show. 0 with a spectral generator, whose
        eigenfunctions read features only.
        """
        size = int(np.prod(self.event_shape))
        return np.asarray(self.weights[2 : 2 + size].T.reshape(-1, *self.event_shape))

    @property
    def energy(self) -> _Real:
        """Share of the whole spectrum's energy, ``[r]``: mean square of what a mode has moved at t = 1.

        A pair's is shared equally. Contributions are not orthogonal, so that shares rank modes; they do not
        say how much of the variance is explained.
        """
        return np.asarray(self.energy_over_time([1.0])[0])

    @property
    def power(self) -> _Real:
        """Mean of ``|psi_k(0, x0)|²`` over noise, ``[r]``."""
        return self._facts.power[self._chosen]

    @property
    def residuals(self) -> _Real | None:
        """How badly each eigenfunction obeys d psi/dt = lambda psi along the teacher's paths, ``[r]``.

        RMS of d psi/dt - lambda psi over sqrt(RMS(d psi/dt)² + Var(psi)), in [0, 1] and beyond: relative to
        its rate for a fast one, to its own size per unit of time for a slow one. None without a teacher.
        """
        residuals = self._facts.residuals
        return None if residuals is None else np.asarray(residuals[self._chosen])

    @property
    def spurious(self) -> NDArray[np.bool_] | None:
        """Residuals above 0.5, ``[r]``: not to be read as the flow's. None without a teacher."""
        residuals = self.residuals
        return None if residuals is None else np.asarray(residuals > SPURIOUS)

    @property
    def trusted_energy(self) -> float | None:
        """Share of this selection's energy in modes that are not spurious. None without a teacher."""
        spurious = self.spurious
        if spurious is None:
            return None
        energy = self.energy
        return float(energy[~spurious].sum() / max(energy.sum(), 1e-300))

    @property
    def condition_numbers(self) -> _Real:
        """``||w_k|| ||q_k||``, ``[r]``, at least 1: how much lambda_k moves for a change of L."""
        return self._facts.condition_numbers[self._chosen]

    @property
    def condition_number(self) -> float:
        """The largest of them; above 1e5 the generator is nearly defective and :meth:`summary` says so."""
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
        """What a picture must say beside the modes; None where nothing."""
        if self.nearly_defective:
            return "nearly defective generator: single modes mean little"
        trusted = self.trusted_energy
        if trusted is not None and trusted < 0.5:
            return "a basis of the student, not of the teacher's flow"
        return None

    def __len__(self) -> int:
        return len(self._chosen)

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
        return Spectrum(self._facts, self._order, self._chosen[index])

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
            So many of the highest energy; one more where that would part a pair.
        energy : float, optional
            The fewest of the highest energy whose shares add up to this much of the selection's, in (0, 1].
        frequency, growth : (float, float), optional
            Half-open ranges of ``|Im lambda|`` and of Re lambda.
        residual : float, optional
            At most this; needs a spectrum made with a teacher.

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
            keep &= self._closed(order[:enough])
        if count is not None:
            if checked_count(count) > len(self):
                raise ArgumentError(f"count: expected at most {len(self)}, got {count}")
            keep &= self._closed(np.argsort(-self.energy, kind="stable")[:count])
        return self[keep]

    def _closed(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """A mask of places in this selection, with the partner of each."""
        wanted = self._chosen[places]
        return np.isin(self._chosen, np.concatenate([wanted, self._facts.partners[wanted]]))

    def _mask(self) -> list[bool]:
        mask = np.zeros(len(self._facts.eigenvalues), dtype=bool)
        mask[self._chosen] = True
        mask[self._facts.partners[self._chosen]] = True
        return [bool(kept) for kept in mask]

    # --- samples in eigenfunctions -----------------------------------------------------------------------

    def eigenfunctions(self, t: Array | float, x: Array, *, condition: Array | None = None) -> _Complex:
        """psi_k(t, x), complex ``[B, r]``; ``t`` is a number or ``[B]``, ``x`` is ``[B, *event]``."""
        g = self._facts.student.encode(t, x, condition=condition)
        return np.asarray(to_numpy(g).astype(np.float64) @ self.weights)

    def amplitudes(self, x0: Array, *, condition: Array | None = None) -> _Complex:
        """psi_k(0, x0) of noise ``[B, *event]``, complex ``[B, r]``: what decides its sample."""
        return self.eigenfunctions(0.0, x0, condition=condition)

    def contributions(
        self, x0: Array, *, t: float = 1.0, condition: Array | None = None
    ) -> NDArray[np.complex128]:
        """What each mode has moved by time t, complex ``[B, r, *event]``.

        psi_k(0, x0) (e^{lambda_k t} - 1) v_k. Over all modes they add up, with :meth:`base`, to the state at
        t; the imaginary parts of a pair cancel.

        Raises
        ------
        ArgumentError
            With ``decoder="network"``, where a sample is no sum.
        """
        self._linear()
        factors = integral(self.eigenvalues, t)
        psi = self.amplitudes(x0, condition=condition)
        moved = (psi * factors)[:, :, None] * self._facts.rates[self._chosen][None]
        return np.asarray(moved.reshape(*psi.shape, *self.event_shape))

    def base(self, x0: Array, *, t: float = 1.0, condition: Array | None = None) -> NDArray[Any]:
        """The state at t if no mode moved, ``[B, *event]``: the noise and a drift that all samples share."""
        self._linear()
        none = [False] * len(self._facts.eigenvalues)
        path = self._facts.core.sample(as_batch(x0), [float(t)], none, condition=as_condition(condition))
        return np.asarray(to_numpy(path)[0])

    def _linear(self) -> None:
        if self._facts.core.readout is None:
            raise ArgumentError(
                "decoder: expected 'slice' or 'linear': what a network decodes is no sum over modes"
            )

    def sample_path(self, x0: Array, *, times: Sequence[float], condition: Array | None = None) -> Array:
        """States at ``times`` with only these modes moving, ``[T, B, *event]``; the others stay as they are
        at 0."""
        times = [float(t) for t in times]
        return self._facts.core.sample(as_batch(x0), times, self._mask(), condition=as_condition(condition))

    # --- time --------------------------------------------------------------------------------------------

    def energy_over_time(self, times: Sequence[float]) -> _Real:
        """Mean square over noise of what each mode has moved by each of ``times``, ``[T, r]``.

        In units of the whole spectrum's sum at t = 1.
        """
        facts = self._facts
        size = (np.abs(facts.rates) ** 2).sum(axis=1) * facts.power
        end = size * np.abs(integral(facts.eigenvalues, 1.0)) ** 2
        rows = [size * np.abs(integral(facts.eigenvalues, float(t))) ** 2 for t in times]
        return np.asarray(np.stack(rows)[:, self._chosen] / max(end.sum(), 1e-300))

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
    ) -> tuple[NDArray[np.int64], _Real]:
        """How far samples of the first modes by energy are from samples of all of the student's.

        Parameters
        ----------
        x0 : array, ``[B, *event]``
            Noise.
        counts : sequence of int, optional
            Numbers of modes; about 24 of them, geometrically spaced, by default.
        condition : array, optional
            For a conditional student.

        Returns
        -------
        counts : array, ``[C]``
            As many modes as were really kept: pairs are not parted.
        errors : array, ``[C]``
            RMS difference over the RMS of what all modes move together.
        """
        if counts is None:
            grid = np.geomspace(1, len(self), min(24, len(self)))
            counts = [0, *np.unique(grid.round().astype(int)).tolist()]
        everything = Spectrum(self._facts, self._order, self._order)
        whole, none = everything._samples(x0, condition), self[:0]._samples(x0, condition)
        scale = max(_rms(whole - none), 1e-300)
        kept, errors = [], []
        for count in counts:
            part = self.select(count=count) if count else self[:0]
            if len(part) not in kept:
                kept.append(len(part))
                errors.append(_rms(part._samples(x0, condition) - whole) / scale)
        return np.asarray(kept, dtype=np.int64), np.asarray(errors)

    def _samples(self, x0: Array, condition: Array | None) -> NDArray[Any]:
        return np.asarray(to_numpy(self.sample_path(x0, times=[1.0], condition=condition))[0])

    # --- labels, and other spectra -----------------------------------------------------------------------

    def states_at(self, x: Array, t: float, *, condition: Array | None = None) -> Array:
        """The student's states at time t of the paths that end in data ``x``, ``[B, *event]``."""
        student = self._facts.student
        x = as_batch(x)
        if t == 1.0:
            return x
        g = student.encode(1.0, x, direction="backward", condition=condition)
        return student.readout(student.propagate(g, t - 1.0))

    def directions(
        self,
        x: Array,
        *,
        labels: Array | None = None,
        scores: Array | None = None,
        at: float = 1.0,
        condition: Array | None = None,
    ) -> Directions:
        """Directions of eigenfunction values along which labels or a score change.

        Parameters
        ----------
        x : array, ``[N, *event]``
            Data.
        labels : array, ``[N]``, optional
            Classes; one direction for each. Or:
        scores : array, ``[N]``, optional
            Numbers of any function of the data; one direction.
        at : float, default 1.0
            The time on the way from noise to data whose eigenfunctions are looked at and edited.
        condition : array, optional
            For a conditional student.

        Returns
        -------
        Directions
            ``directions.sweep(x, label, strengths)`` moves data or noise along one.
        """
        from ..analysis.directions import find_directions

        return find_directions(self, as_batch(x), labels=labels, scores=scores, at=at, condition=condition)

    def signatures(
        self,
        x: Array,
        labels: Array,
        *,
        times: Sequence[float] = (0.0, 0.5, 1.0),
        condition: Array | None = None,
    ) -> Signatures:
        """Mean, spread and energy of ``|psi_k|`` by label along the paths that end in data.

        Parameters
        ----------
        x : array, ``[N, *event]``
            Data.
        labels : array, ``[N]``
            Their classes.
        times : sequence of float
            In [0, 1].
        condition : array, optional
            For a conditional student.

        Returns
        -------
        Signatures
        """
        from ..analysis.signatures import measure_signatures

        return measure_signatures(self, as_batch(x), labels, times=times, condition=condition)

    def compare(self, other: Spectrum, *, n: int = 512, seed: int = NOISE_SEED) -> SpectrumComparison:
        """Match the eigenvalues of another student's spectrum with these.

        Modes are paired one to one by the nearness of eigenvalues and by the correlation of eigenfunctions
        on the same noise and the same samples of this student; see
        :class:`koopflow.matching.SpectrumComparison`.
        """
        from ..analysis.matching import match

        return match(self, other, n=checked_count(n), seed=seed)

    # --- to read -----------------------------------------------------------------------------------------

    def summary(self, rows: int = 12) -> str:
        """A table of the first modes, after one sentence on what to believe."""
        spurious, residuals = self.spurious, self.residuals
        head = f"{len(self)} of {len(self._facts.eigenvalues)} modes; {self.verdict}"
        lines = [head]
        if self.nearly_defective:
            lines.append(
                f"nearly defective: condition number {self.condition_number:.1e}; single modes mean little, "
                "sums over clusters of eigenvalues do"
            )
        lines.append(
            f"{'mode':>6}{'growth':>10}{'frequency':>11}{'energy':>9}{'residual':>10}{'condition':>11}"
        )
        for place in range(min(rows, len(self))):
            value = self.eigenvalues[place]
            residual = "-" if residuals is None else f"{residuals[place]:.3f}"
            flag = "  spurious" if spurious is not None and spurious[place] else ""
            lines.append(
                f"{self.indices[place]:>6}{value.real:>10.3f}{value.imag:>11.3f}{self.energy[place]:>9.1%}"
                f"{residual:>10}{self.condition_numbers[place]:>11.1f}{flag}"
            )
        if len(self) > rows:
            lines.append(f"{'...':>6}  {len(self) - rows} more, {self.energy[rows:].sum():.1%} of the energy")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Spectrum({len(self)} of {len(self._facts.eigenvalues)} modes; {self.verdict})"

    def plot_eigenvalues(self, *, ax: Axes | None = None) -> Axes:
        """:func:`koopflow.plotting.spectrum` of this selection."""
        from ..plotting import spectrum

        return spectrum(self, ax=ax)

    def plot_modes(self, *, ax: Axes | None = None) -> Axes:
        """:func:`koopflow.plotting.modes` of this selection."""
        from ..plotting import modes

        return modes(self, ax=ax)


def build_spectrum(
    student: FittedStudent,
    teacher: Flow | None,
    *,
    condition: Array | None,
    sort: str,
    count: int | None,
    n: int,
    seed: int,
) -> Spectrum:
    """See :meth:`FittedStudent.spectrum`."""
    if sort not in SORTS:
        raise ArgumentError(f"sort: expected one of {', '.join(SORTS)}, got {sort!r}")
    if sort == "residual" and teacher is None:
        raise ArgumentError("sort: expected a teacher for 'residual', got none")
    facts = measure_facts(student, teacher, condition=condition, n=n, seed=seed)
    order = sorted_by(sort, facts)
    whole = Spectrum(facts, order, order)
    return whole if count is None else whole.select(count=count)


def _rms(difference: NDArray[Any]) -> float:
    return float(np.sqrt((difference.astype(np.float64) ** 2).mean()))
