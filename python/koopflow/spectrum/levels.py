"""The spectrum of a hierarchical student: eigenvalues of the feature maps of every level."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_batch, as_condition, as_numbers, as_times, times_for, to_numpy
from .._tables import text_table
from ..exceptions import ArgumentError, NonFiniteError
from .maps import MapSpectrum, maps_of
from .places import curve_of, kept_by, named_places
from .spectrum import OWN_BASIS, SPURIOUS, Complex, Places, Real, checked_noise, checked_spectrum, states_at


class LevelSpectrum(Sequence[MapSpectrum]):
    """The eigenvalues of every feature map of a hierarchy, from full resolution down to the middle.

    Along the student's flow, each channel z of a map obeys dz/dt = lambda z at all pixels. Two real channels
    that rotate together count as one complex channel. A decoder turns the maps into images, so there are no
    modes in data space. ``for level in student.spectrum(teacher): print(level.name, level.eigenvalues)``

    Selections are spectra too: ``spec[2:]``, ``spec["middle"]``, ``spec.select(levels=-1)``. In samples of a
    selection, all eigenfunctions outside it start from their mean over the noise that the spectrum was
    measured on, and evolve by their own eigenvalues. They are then the same for every sample, and close to
    values that the decoder was trained on.

    Attributes
    ----------
    student, core : _core.Student, _core.LevelSpectrum
        The student and its maps in the core, for internal use.
    places : array, ``[R]``, int
        Positions of these eigenfunctions among those of all maps.
    names, levels : list of str, array ``[maps]``
        Names and levels of the maps.
    eigenvalues, energy, spread, residuals : array, ``[R]``
        Values of :class:`MapSpectrum`, one map after another. ``residuals`` is None without a teacher.
    """

    def __init__(
        self, student: _core.Student, core: _core.LevelSpectrum, places: Places | None = None
    ) -> None:
        self.student, self.core = student, core
        self.event_shape = tuple(student.event_shape)
        self._whole = maps_of(core)
        self._ends = [0, *accumulate(len(level.eigenvalues) for level in self._whole)]
        self.places: Places = np.arange(self._ends[-1]) if places is None else places
        # For each map with selected eigenfunctions: its position, and the positions of these in it.
        self._own = [
            (index, self.places[(self.places >= first) & (self.places < end)] - first)
            for index, (first, end) in enumerate(zip(self._ends[:-1], self._ends[1:], strict=True))
        ]
        self._own = [(index, own) for index, own in self._own if len(own)]
        self._maps = [self._whole[index].only(own) for index, own in self._own]
        self.names = [level.name for level in self._maps]
        self.levels = np.array([level.level for level in self._maps], dtype=np.int64)
        self.eigenvalues: Complex = self._joined("eigenvalues", np.complex128)
        self.energy: Real = self._joined("energy")
        self.spread: Real = self._joined("spread")
        bare = any(level.residual is None for level in self._maps)
        self.residuals: Real | None = None if bare else self._joined("residual")

    def _joined(self, name: str, dtype: type = np.float64) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *(getattr(level, name) for level in self._maps)])

    @property
    def growth(self) -> Real:
        """Growth rates Re lambda, ``[R]``."""
        return np.asarray(self.eigenvalues.real)

    @property
    def frequency(self) -> Real:
        """Angular frequencies Im lambda, ``[R]``, in radians per whole flow."""
        return np.asarray(self.eigenvalues.imag)

    @property
    def single(self) -> NDArray[np.bool_]:
        """One of each conjugate pair, ``[R]``: all, since only one of each pair is listed."""
        return np.ones(len(self.places), dtype=bool)

    @property
    def indices(self) -> list[str]:
        """Names of the eigenfunctions, ``[R]``: the map and the position in it."""
        return [f"{self._whole[index].name}: {place}" for index, own in self._own for place in own.tolist()]

    @property
    def caveat(self) -> str | None:
        """A warning that a plot of these eigenfunctions must show; None if there is none."""
        if self.residuals is None:
            return None
        trusted = self.energy[self.residuals <= SPURIOUS].sum() / max(self.energy.sum(), 1e-300)
        return OWN_BASIS if trusted < 0.5 else None

    def __len__(self) -> int:
        return len(self._maps)

    def __getitem__(self, key: Any) -> Any:
        """The :class:`MapSpectrum` of one map for an integer.

        A name, a slice, a list or a mask of maps gives a selection, which may be empty.
        """
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            return self._maps[key]
        return self._only(self._are_of(named_places(key, self.names, "maps")))

    def _only(self, keep: NDArray[np.bool_]) -> LevelSpectrum:
        return LevelSpectrum(self.student, self.core, self.places[keep])

    def _are_of(self, maps: Places) -> NDArray[np.bool_]:
        """A mask ``[R]`` of the eigenfunctions that belong to the maps at these positions."""
        return np.isin(np.repeat(np.arange(len(self)), [len(own) for _, own in self._own]), maps)

    def select(
        self,
        *,
        maps: int | str | slice | Sequence[int | str] | NDArray[Any] | None = None,
        levels: int | slice | Sequence[int] | NDArray[Any] | None = None,
        count: int | None = None,
        energy: float | None = None,
        frequency: tuple[float, float] | None = None,
        growth: tuple[float, float] | None = None,
        residual: float | None = None,
    ) -> LevelSpectrum:
        """Select the eigenfunctions that meet all given conditions.

        Parameters
        ----------
        maps : int, str, slice, list or mask, optional
            Maps of this selection by position or name: ``-1`` or ``"middle"``, ``slice(0, 2)``,
            ``["8x8, 1"]``.
        levels : int, slice, list of int or mask, optional
            Levels by position among those of this selection: 0 is the finest and ``-1`` the coarsest.
        count, energy, frequency, growth, residual
            As in :meth:`koopflow.Spectrum.select`, for all maps together.

        Raises
        ------
        ArgumentError
            If a map or level does not exist, or no eigenfunction meets the conditions.
        """
        keep = kept_by(
            self, count=count, energy=energy, frequency=frequency, growth=growth, residual=residual
        )
        given: dict[str, Any] = {"count": count, "energy": energy, "frequency": frequency, "growth": growth}
        given |= {"residual": residual, "maps": maps, "levels": levels}
        if maps is not None:
            keep &= self._are_of(named_places(maps, self.names, "maps"))
        if levels is not None:
            known = np.unique(self.levels)
            chosen = known[named_places(levels, [str(level) for level in known], "levels")]
            keep &= self._are_of(np.flatnonzero(np.isin(self.levels, chosen)))
        if not keep.any():
            names = ", ".join(name for name, value in given.items() if value is not None)
            raise ArgumentError(
                f"{names or 'modes'}: expected at least one eigenfunction, got none{self._range()}"
            )
        return self._only(keep)

    def _range(self) -> str:
        if not len(self):
            return " of an empty selection"
        turning, of = np.abs(self.frequency), len(self.places)
        return (
            f" of {of}, whose growth is {self.growth.min():.3g} to {self.growth.max():.3g} and frequency "
            f"{turning.min():.3g} to {turning.max():.3g}"
        )

    def paired(self, places: Places) -> NDArray[np.bool_]:
        """A mask ``[R]`` of positions in this selection."""
        return np.isin(np.arange(len(self.places)), places)

    def eigenfunctions(
        self, t: Array | float, x: Array, index: int, *, condition: Array | None = None
    ) -> NDArray[Any]:
        """Eigenfunctions psi(t, x) of the map at position ``index``, complex ``[B, r, height, width]``.

        If every pixel has its own eigenvalues they are ``[B, r]``. ``t``, ``x`` and ``condition`` are as in
        :meth:`koopflow.Spectrum.eigenfunctions`. Raises ``ArgumentError`` for an index without a map.
        """
        if index not in range(-len(self), len(self)):
            raise ArgumentError(f"index: expected one of {len(self)} feature maps, got {index!r}")
        x, (place, own) = as_batch(x, "x"), self._own[int(index)]
        psi = self.core.eigenfunctions(times_for(t, x), x, place, condition=as_condition(condition))
        return psi[:, own]

    # Samples.

    def sample_path(
        self, x0: Array, *, times: Array | Sequence[float], condition: Array | None = None
    ) -> Array:
        """States at ``times`` with these eigenfunctions and the mean of all others, ``[T, B, *event]``."""
        checked_spectrum("modes", self, LevelSpectrum)
        x0, times = as_batch(x0, "x0"), as_times(times, extrapolate=True)
        return self._with(self.places, x0, times, condition)

    def _with(self, places: Places, x0: Array, times: list[float], condition: Array | None) -> Array:
        keep = np.isin(np.arange(self._ends[-1]), places)
        return self.core.sample(x0, times, keep.tolist(), condition=as_condition(condition))

    def _samples(self, places: Places, x0: Array, condition: Array | None) -> NDArray[Any]:
        return np.asarray(to_numpy(self._with(places, x0, [1.0], condition))[0])

    def build_up(
        self, x0: Array, *, by: Literal["level", "map"] = "level", condition: Array | None = None
    ) -> tuple[list[str], NDArray[Any]]:
        """Samples with the coarsest level alone, then also the next finer level, and so on to all levels.

        Parameters
        ----------
        x0 : array, ``[B, *event]``
            Noise of the samples.
        by : {"level", "map"}, default "level"
            Whether each step adds all maps of one size or a single map, starting from the middle.

        Returns
        -------
        names, samples : list of str, array ``[S, B, *event]``
            Names of what each step adds, and the samples with it, in NumPy.
        """
        if by not in ("level", "map"):
            raise ArgumentError(f"by: expected 'level' or 'map', got {by!r}")
        checked_spectrum("modes", self, LevelSpectrum)
        x0, steps = as_batch(x0, "x0"), []
        if by == "map":
            steps = [([index], level.name) for index, level in enumerate(self._maps)]
        else:
            for value in np.unique(self.levels).tolist():
                own = np.flatnonzero(self.levels == value).tolist()
                steps.append((own, self._maps[own[0]].size))
        names: list[str] = []
        samples, places = [], np.empty(0, dtype=np.int64)
        for own, name in reversed(steps):
            names.append(f"+ {name}" if names else name)
            places = np.concatenate([places, *(self._flat(index) for index in own)])
            samples.append(self._samples(places, x0, condition))
        return names, np.stack(samples)

    def _flat(self, index: int) -> Places:
        """Positions, among all eigenfunctions, of those of the map at position ``index``."""
        place, own = self._own[index]
        return own + self._ends[place]

    def bands(
        self,
        x0: Array,
        *,
        edges: Sequence[float],
        times: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        condition: Array | None = None,
    ) -> Array:
        """Cumulative reconstructions by frequency, ``[len(edges), T, B, *event]``.

        They are states at ``times`` with the eigenfunctions of ``|Im lambda|`` below each edge, and the means
        of all others.
        """
        x0, times = as_batch(x0, "x0"), as_times(times)
        below = [self.places[np.abs(self.frequency) < edge] for edge in as_numbers(edges, "edges", "[1, 5]")]
        return np.stack([to_numpy(self._with(places, x0, times, condition)) for places in below])

    def truncation_curve(
        self, x0: Array, *, counts: Sequence[int] | None = None, condition: Array | None = None
    ) -> tuple[Places, Real]:
        """Error of samples with only the first eigenfunctions by energy, against those with all.

        ``counts`` are numbers of eigenfunctions; by default about 24, geometrically spaced. Returns them,
        ``[C]``, and the RMS difference of the samples, ``[C]``, divided by its value without any
        eigenfunction, where all are at their means.
        """
        x0, order = as_batch(x0, "x0"), np.argsort(-self.energy, kind="stable")
        return curve_of(
            lambda count: self._samples(self.places[order[:count]], x0, condition),
            self._samples(np.arange(self._ends[-1]), x0, condition),
            counts,
            len(order),
        )

    # Directions and signatures.

    def states_at(self, x: Array, t: float, *, condition: Array | None = None) -> Array:
        """The student's states at time t of the paths that end in data ``x``, ``[B, *event]``."""
        return states_at(self.student, x, t, condition)

    def _columns(self) -> list[tuple[Places, Places]]:
        """Positions of each map's eigenfunctions in the observables ``[m]``.

        There is one array for the real parts, ``[r, pixels]``, and one for the imaginary parts,
        ``[pairs, pixels]``. A map holds the real parts of pairs, their imaginary parts and then the real
        eigenfunctions, with pixels innermost.
        """
        columns, start = [], 2
        for index, level in enumerate(self._whole):
            places = start + np.arange(level.features).reshape(-1, level.pixels)
            # A conjugate pair is one eigenvalue and two features.
            pairs = len(places) - len(level.eigenvalues)
            for own in (chosen for place, chosen in self._own if place == index):
                real = places[np.where(own < pairs, own, own + pairs)]
                columns.append((real, places[pairs + own[own < pairs]]))
            start += level.features
        return columns

    def _movable(self) -> Places:
        """Positions of these eigenfunctions in the observables ``[m]``."""
        return np.concatenate([part.reshape(-1) for both in self._columns() for part in both])

    def _observables(self, x: Array, at: float, condition: Array | None) -> Real:
        """Observables g at time ``at`` of the paths that end in data, ``[N, m]``."""
        states = self.states_at(x, at, condition=condition)
        g = to_numpy(self.student.encode(at, states, condition=as_condition(condition))).astype(np.float64)
        if not np.isfinite(g).all():
            raise NonFiniteError("x: expected samples whose observables are finite, got larger ones")
        return np.asarray(g)

    def readings(self, x: Array, at: float, condition: Array | None = None) -> tuple[Real, Real]:
        """Values of data ``[N, *event]`` at time ``at`` to regress on, and all values that an edit can shift.

        Both are the real and imaginary parts of these eigenfunctions at every pixel, ``[N, F]``.
        """
        own = self._observables(x, at, condition)[:, self._movable()]
        return own, own.copy()

    def move(
        self,
        x: Array,
        shifts: Real,
        *,
        noise: bool,
        at: float,
        project: bool = False,
        condition: Array | None = None,
    ) -> Array:
        """Data, or samples of noise, with the readings at time ``at`` shifted by ``[B, F]``."""
        everywhere = np.zeros((len(shifts), self.student.size))
        everywhere[:, self._movable()] = shifts
        return self.core.shift(x, everywhere, noise=noise, at=at, project=project, condition=condition)

    def shift_image(self, shift: Real, at: float) -> Real:
        """Change ``[*event]`` by a shift ``[F]`` of the readings at time ``at``.

        It is that of the sample that belongs to the means of all eigenfunctions. For other samples it
        differs, since the decoder is not linear.
        """
        own = self.student.own_time(at)
        g = np.concatenate([[1.0, own], *(level.mean_features(own) for level in self._whole)])
        moved = g.copy()
        moved[self._movable()] += shift
        carried = self.student.propagate(np.stack([g, moved]), 1.0 - own)
        ends = to_numpy(self.student.readout(carried))
        return np.asarray(ends[1] - ends[0], dtype=np.float64)

    def signature_times(self, times: Sequence[float]) -> list[float]:
        """Times at which :meth:`signature` differs: all given ones."""
        return as_times(times)

    def signature(self, x: Array, times: Sequence[float], condition: Array | None = None) -> Real:
        """RMS of ``|psi_k|`` over pixels along the paths that end in data, ``[N, T, R]``."""
        condition, found = as_condition(condition), []
        for t in times:
            square = self._observables(x, t, condition) ** 2
            power = []
            for real, imaginary in self._columns():
                own = square[:, real]
                own[:, : len(imaginary)] += square[:, imaginary]
                power.append(own.mean(axis=2))
            found.append(np.sqrt(np.concatenate(power, axis=1)))
        return np.stack(found, axis=1)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.student, self.core.measured, self.places)

    def summary(self) -> str:
        """A table of the maps: channels, ranges of rates, share of the energy and median residual."""
        rows = [
            {
                "map": level.name,
                "channels": level.channels,
                "growth": f"{level.growth.min():.2f} .. {level.growth.max():.2f}",
                "frequency": float(np.abs(level.frequency).max()),
                "energy (%)": 100.0 * float(level.energy.sum()),
                "residual": None if level.residual is None else float(np.median(level.residual)),
            }
            for level in self._maps
        ]
        return text_table(rows, decimals={"frequency": 2, "energy (%)": 1, "residual": 2}, missing="-")

    def __repr__(self) -> str:
        return f"<LevelSpectrum of {len(self)} feature maps, {len(self.eigenvalues)} eigenvalues>"


def build_level_spectrum(
    student: _core.Student, teacher: _core.VelocityField | None, **noise: Any
) -> LevelSpectrum:
    """The spectrum of a hierarchical student: see :meth:`FittedStudent.spectrum`."""
    core = _core.LevelSpectrum(student, teacher=teacher, **checked_noise(**noise))
    return LevelSpectrum(student, core)


def _restored(student: _core.Student, measured: list[Any], places: Places) -> LevelSpectrum:
    """The spectrum from a pickle, with its measured values."""
    return LevelSpectrum(student, _core.LevelSpectrum.known(student, measured), places)
