"""The canonical spectrum of a flow: what its own paths determine, whoever's they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import (
    Array,
    as_batch,
    as_condition,
    as_integer,
    as_number,
    as_numbers,
    as_path,
    as_seed,
    as_times,
    checked_count,
    to_numpy,
)
from .._tables import text_table, to_frame
from ..exceptions import ArgumentError
from ..progress import ProgressFunction, ProgressMeter
from .flow_comparison import FlowComparison, nearest
from .paths import Paths, chunks, core_of
from .places import chosen_places
from .spectrum import Complex, Places, Real

UNCERTAIN = 0.1  # A rate that other paths move by more than this, of its modulus, is not resolved.


class FlowSpectrum:
    """Drift, affine part and nonlinear modes, as :func:`koopflow.analysis.flow_spectrum` reads them.

    A sample is x(t) = x0 + b(t) + (x0 - mean) A(t) + sum_k a_k(x0) V_k(t): its noise, a drift that all
    samples share, a part that is affine in the noise, and space-time modes with an amplitude each, the
    principal components of what remains. All of them are sums of the functions (e^{lambda_j t} - 1) /
    lambda_j with few rates lambda_j that all paths share. None of it depends on the observables of a student,
    so that it can be found again in another one.

    Modes whose energies the bootstrap cannot tell apart form a group: read the group, since its members may
    mix. Selections are spectra too: ``spec[3]``, ``spec[:10]``, ``spec[spec.groups[0]]``.

    Attributes
    ----------
    core : _core.FlowSpectrum
        The reading in the core.
    places : array, ``[K]``, int
        Places of these modes in the order of falling energy.
    event_shape, paths, times : tuple, int, array ``[T]``
        The shape of one sample, the number of paths that were read, and where.
    condition : array or None
        Conditions of those paths.
    rates : array, complex ``[r]``
        The shared lambda_j per unit of time, slowest first, both of each conjugate pair.
    affine_rates : array, complex ``[r]``
        Those that suit the affine part alone best.
    unexplained : array, ``[R]``
        Share of the motion of held-out paths that the best 1, 2, ... rates leave.
    affine, nonlinear : float
        Shares of the motion, which is the mean square of the displacement without the drift, over all times;
        corrected for what a map of that size explains by chance. They add up to 1.
    drift_energy : float
        Mean square of the drift, in units of the motion.
    energy, low, high : array, ``[K]``
        Share of each mode in the nonlinear part, and 1% and 99% quantiles over resampled paths.
    edge : float
        Energy in that unit that the largest of pure noise of the remaining energy would have (Marchenko and
        Pastur), and ``standing``, the number of modes above it.
    """

    def __init__(
        self,
        core: _core.FlowSpectrum,
        source: _core.VelocityField | _core.Student | None = None,
        places: Places | None = None,
        condition: Array | None = None,
    ) -> None:
        facts = json.loads(core.facts)
        self.core, self._facts = core, facts
        self._source = None if source is None else Paths(source)
        self.condition = condition
        self.event_shape: tuple[int, ...] = tuple(facts["event_shape"])
        self.paths: int = facts["paths"]
        self._count = int(facts["sizes"][3])
        self.places: Places = np.arange(self._count) if places is None else np.asarray(places, dtype=np.int64)
        self.times: Real = core.array("times")
        self.rates: Complex = _eigenvalues(facts["rates"])
        self.affine_rates: Complex = _eigenvalues(facts["affine_rates"])
        self.unexplained: Real = np.asarray(facts["unexplained"])
        motion = max(facts["motion"], 1e-300)
        self.affine: float = facts["affine"] / motion
        self.nonlinear: float = facts["nonlinear"] / motion
        self.drift_energy: float = facts["drift"] / motion
        self.unresolved: float = facts["unresolved"] / motion
        energies = core.array("energies")
        self._whole = max(float(energies.sum()), 1e-300)
        self.energy: Real = energies[self.places] / self._whole
        self.low, self.high = (core.array("interval")[self.places] / self._whole).T
        self.edge: float = facts["edge"] / self._whole
        self.standing: int = facts["standing"]

    def _with(self, places: Places) -> FlowSpectrum:
        source = None if self._source is None else self._source.model
        return FlowSpectrum(self.core, source, places, self.condition)

    def of(self, source: _core.VelocityField | _core.Student) -> FlowSpectrum:
        """The same modes, with amplitudes from the paths of another model of the same events."""
        if tuple(source.event_shape) != self.event_shape:
            got = tuple(source.event_shape)
            raise ArgumentError(f"modes: expected those of events {got}, got {self.event_shape}")
        return FlowSpectrum(self.core, source, self.places, self.condition)

    # What paths do in time.

    @property
    def cloud(self) -> Complex:
        """The rates of resampled paths, complex ``[40, r]``, each beside the rate that it belongs to."""
        cloud = self.core.array("cloud")
        values = cloud[..., 0] + 1j * cloud[..., 1]
        return np.stack([nearest(self.rates, row) for row in values])

    @property
    def halves(self) -> Complex:
        """The rates of the even and of the odd paths, complex ``[2, r]``."""
        return np.stack([nearest(self.rates, _eigenvalues(half)) for half in self._facts["halves"]])

    @property
    def uncertainty(self) -> Real:
        """RMS distance of each rate in the cloud from itself, in units of its modulus, ``[r]``."""
        distance = np.sqrt((np.abs(self.cloud - self.rates) ** 2).mean(axis=0))
        return np.asarray(distance / np.maximum(np.abs(self.rates), 1e-12))

    def functions(self, times: Sequence[float]) -> Complex:
        """(e^{lambda_j t} - 1) / lambda_j at ``times``, complex ``[T, r]``."""
        t = np.asarray(as_times(times))[:, None]
        small = np.abs(self.rates) < 1e-9
        rates = np.where(small, 1.0, self.rates)
        return np.asarray(np.where(small, t, np.expm1(rates * t) / rates))

    @cached_property
    def shares(self) -> Real:
        """Drift, affine and nonlinear energy of the displacement at each of :attr:`times`, ``[T, 3]``, over
        the motion's at the last: the blueprint of generation."""
        shares = self.core.array("shares")
        return np.asarray(shares / max(float(shares[-1, 1:].sum()), 1e-300))

    # What they are in space.

    @property
    def drift(self) -> Real:
        """b at each of :attr:`times`, ``[T, *event]``."""
        return self.core.array("drift").reshape(-1, *self.event_shape)

    @property
    def axes(self) -> Real:
        """Orthonormal axes of the noise, ``[A, *event]``, by how far the affine part moves along them."""
        return self.core.array("axes").reshape(-1, *self.event_shape)

    @property
    def axis_values(self) -> Real:
        """Singular values of the affine part along :attr:`axes`, ``[A]``: RMS of what each moves."""
        return self.core.array("axis_values")

    @property
    def axis_groups(self) -> list[Places]:
        """Places of axes whose singular values the number of paths cannot tell apart."""
        return _groups(self._facts["axis_groups"], len(self.axis_values))

    def axis_modes(self, t: float = 1.0) -> Real:
        """What a unit along each axis has moved by time t, ``[A, *event]``."""
        modes = self.core.array("axis_modes") * self.core.array("axis_values")[:, None, None]
        at = self.core.functions(as_times([t], "t"))[0]
        return np.asarray(np.einsum("ard,r->ad", modes, at).reshape(-1, *self.event_shape))

    def modes_at(self, t: float = 1.0) -> Real:
        """V_k(t), ``[K, *event]``: what a unit of a_k has moved by time t."""
        at = self.core.functions(as_times([t], "t"))[0]
        return np.asarray(np.einsum("krd,r->kd", self._modes, at).reshape(-1, *self.event_shape))

    @cached_property
    def _modes(self) -> Real:
        return np.asarray(self.core.array("modes")[self.places])

    @cached_property
    def _split(self) -> tuple[Real, Real, Real]:
        """Each mode's best product of a function of time and an image: weights, images, shares."""
        left, values, right = np.linalg.svd(self._modes, full_matrices=False)
        share = values[:, 0] ** 2 / np.maximum((values**2).sum(axis=1), 1e-300)
        image = right[:, 0]
        # The image is what is there at the end, not its negative.
        end = np.einsum("kr,r->k", left[:, :, 0], self.core.functions([float(self.times[-1])])[0])
        sign = np.where(end < 0.0, -1.0, 1.0)[:, None]
        return left[:, :, 0] * sign * values[:, :1], image * sign, share

    @property
    def images(self) -> Real:
        """The image of each mode's best product of an image and a profile, ``[K, *event]``, of norm 1."""
        return self._split[1].reshape(-1, *self.event_shape)

    @property
    def separability(self) -> Real:
        """Share of each mode that this product holds, ``[K]``: 1 is an image that grows as a whole."""
        return self._split[2]

    def profiles(self, times: Sequence[float] | None = None) -> Real:
        """The profile in time of that product, ``[T, K]``, at :attr:`times` by default."""
        at = self.core.functions(as_times(self.times if times is None else times))
        return np.asarray(at @ self._split[0].T)

    # Groups, and what to believe.

    @property
    def groups(self) -> list[Places]:
        """Places in this selection of modes that cannot be told apart, by energy."""
        whole = _groups(self._facts["groups"], self._count)
        own = [np.flatnonzero(np.isin(self.places, group)) for group in whole]
        return [group for group in own if len(group)]

    @property
    def agreement(self) -> Real:
        """Mean squared cosine between each group in the even and in the odd paths, ``[G]``."""
        whole = _groups(self._facts["groups"], self._count)
        found = np.asarray(self._facts["agreement"])
        return found[[bool(np.isin(self.places, group).any()) for group in whole]]

    @property
    def caveats(self) -> list[str]:
        """What is not determined, in words; empty if all is."""
        found = []
        if (vague := int((self.uncertainty > UNCERTAIN).sum())) > 0:
            found.append(f"{vague} of {len(self.rates)} rates move by more than 10% with other paths")
        if self.unexplained[len(self.rates) - 1] > 1e-2:
            share = self.unexplained[len(self.rates) - 1]
            found.append(f"{len(self.rates)} rates leave {share:.1%} of the motion unexplained")
        if self._facts["freedom"] > 0.5 * self.paths:
            found.append(f"{self.paths} paths are too few for an affine map in {self._dimension} dimensions")
        sizes = [len(group) for group in self.groups]
        if sizes and sizes[0] > 1:
            found.append(f"the first {sizes[0]} modes have nearly equal energies: read them as one group")
        return found

    @property
    def _dimension(self) -> int:
        return int(np.prod(self.event_shape))

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[FlowSpectrum]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, key: int | slice | Sequence[int] | NDArray[Any]) -> FlowSpectrum:
        return self._with(self.places[chosen_places(key, len(self))])

    def select(self, *, count: int | None = None, energy: float | None = None) -> FlowSpectrum:
        """The first modes of this selection: a number of them, or the fewest that hold a share in (0, 1] of
        its energy."""
        if (count is None) == (energy is None):
            raise ArgumentError(
                f"expected one of count and energy, got {'neither' if count is None else 'both'}"
            )
        if count is None:
            energy = as_number(energy, "energy", "a share in (0, 1]", lambda share: 0.0 < share <= 1.0)
            shares = np.cumsum(self.energy) / max(float(self.energy.sum()), 1e-300)
            return self[: int(np.searchsorted(shares, energy - 1e-12)) + 1]
        if (number := checked_count(count, "count")) > len(self):
            raise ArgumentError(f"count: expected at most {len(self)}, got {count}")
        return self[:number]

    # Samples.

    @property
    def source(self) -> Paths:
        """The model whose paths give amplitudes. Raises ``ArgumentError`` for a spectrum of trajectories or
        of a file: see :meth:`of`."""
        if self._source is None:
            raise ArgumentError(
                "source: expected the spectrum of a model, got one of trajectories or of a file: "
                "load(path, model), or give it to a student's methods"
            )
        return self._source

    def amplitudes(self, x0: Array, *, condition: Array | None = None) -> Real:
        """a_k of noise ``[B, *event]``: ``[B, K]``. Takes the path of each sample."""
        return np.concatenate([part for _, part, _ in self._read(x0, condition)])

    def amplitudes_of_paths(self, paths: Array) -> Real:
        """a_k of states at all :attr:`times`, ``[T, B, *event]``: ``[B, K]``."""
        return np.asarray(self.core.amplitudes(paths)[:, self.places])

    def axis_amplitudes(self, x0: Array) -> Real:
        """Amplitudes along :attr:`axes`, standard normal over noise: ``[B, A]``."""
        return self.core.axis_amplitudes(as_batch(x0, "x0"))

    def _read(self, x0: Array, condition: Array | None) -> Iterator[tuple[Array, Real, Array]]:
        """Noise, amplitudes and paths, in chunks of bounded memory."""
        x0, condition = as_batch(x0, "x0"), as_condition(condition)
        for rows in chunks(len(x0), len(self.times) * self._dimension):
            part = None if condition is None or condition.ndim == 0 else condition[rows]
            paths = self.source.states(x0[rows], self.times.tolist(), condition if part is None else part)
            yield x0[rows], self.amplitudes_of_paths(paths), paths

    def _composed(self, x0: Array, amplitudes: Real, t: float, **parts: bool) -> Array:
        every = np.zeros((len(x0), self._count))
        every[:, self.places] = amplitudes
        return self.core.states(x0, every, t, **parts)

    def sample_path(
        self, x0: Array, *, times: Array | Sequence[float], condition: Array | None = None
    ) -> Array:
        """States at ``times`` with the drift, the affine part and only these modes, ``[T, B, *event]``."""
        times, parts = as_times(times), []
        for noise, amplitudes, _ in self._read(x0, condition):
            parts.append(np.stack([to_numpy(self._composed(noise, amplitudes, t)) for t in times]))
        return np.concatenate(parts, axis=1)

    def base(self, x0: Array, *, t: float = 1.0, drift: bool = True, affine: bool = True) -> Array:
        """Noise, drift and affine part at time t, ``[B, *event]``: samples without any mode."""
        x0, (t,) = as_batch(x0, "x0"), as_times([t], "t")
        return self.core.states(
            x0, np.zeros((len(x0), self._count)), t, drift=bool(drift), affine=bool(affine)
        )

    def contributions(self, x0: Array, *, t: float = 1.0, condition: Array | None = None) -> Real:
        """a_k(x0) V_k(t) of each mode, ``[B, K, *event]``."""
        return np.asarray(
            np.einsum("bk,k...->bk...", self.amplitudes(x0, condition=condition), self.modes_at(t))
        )

    def bands(
        self,
        x0: Array,
        *,
        edges: Sequence[float],
        times: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
        condition: Array | None = None,
    ) -> Real:
        """States at ``times`` with only the functions of rates of ``|Im lambda|`` below each edge,
        ``[len(edges), T, B, *event]``: cumulative reconstructions. Functions are not orthogonal, so that
        what one band leaves out another may undo."""
        edges = as_numbers(edges, "edges", "[1, 5]")
        below = [(np.abs(self.rates.imag) < edge).tolist() for edge in edges]
        times, parts = as_times(times), []
        for _, _, paths in self._read(x0, condition):
            parts.append([[to_numpy(self.core.with_rates(paths, keep, t)) for t in times] for keep in below])
        return np.concatenate(parts, axis=2)

    def truncation_curve(
        self, x0: Array, *, counts: Sequence[int] | None = None, condition: Array | None = None
    ) -> tuple[Places, Real]:
        """How far samples of the first modes are from the model's own.

        ``counts`` are numbers of modes, by default about 24, geometrically spaced. Returns those, ``[C]``,
        and the RMS difference of the samples over the RMS of what the nonlinear part moves, ``[C]``: 1 is
        drift and affine part alone.
        """
        if counts is None:
            grid = np.geomspace(1, max(len(self), 1), min(24, max(len(self), 1)))
            counts = [0, *np.unique(grid.round().astype(int)).tolist()]
        numbers = [int(number) for number in as_numbers(counts, "counts", "[0, 2, 8]")]
        if not all(number in range(len(self) + 1) for number in numbers):
            raise ArgumentError(f"counts: expected integers from 0 to {len(self)}, got {counts!r}")
        squares, whole = np.zeros(len(numbers)), 0.0
        end = float(self.times[-1])
        for noise, amplitudes, paths in self._read(x0, condition):
            rest = to_numpy(paths[-1]) - to_numpy(self.base(noise, t=end))
            whole += float((rest.astype(np.float64) ** 2).sum())
            moved = self.modes_at(end)
            for place, number in enumerate(numbers):
                part = np.tensordot(amplitudes[:, :number], moved[:number], axes=1)
                squares[place] += float(((rest - part) ** 2).sum())
        return np.asarray(numbers), np.sqrt(squares / max(whole, 1e-300))

    # Directions, signatures and edits of data.

    def states_at(self, x: Array, t: float, *, condition: Array | None = None) -> Array:
        """States at time t of the paths that end in data ``x``, ``[B, *event]``."""
        x, (t,), condition = as_batch(x, "x"), as_times([t], "t"), as_condition(condition)
        if t == 1.0:
            return x
        noise = self.source.noise(x, condition)
        return noise if t == 0.0 else self.source.states(noise, [0.0, t], condition)[1]

    def compare(
        self,
        other: FlowSpectrum,
        *,
        permutations: int = 199,
        seed: int | None = 0,
        progress: bool | ProgressFunction = False,
    ) -> FlowComparison:
        """What of this flow is there again in another, of all modes of both.

        Groups of either flow that overlap are read together; see :class:`FlowComparison`. If both were read
        from the same noise, as they are by default, their amplitudes are compared as well, with
        ``permutations`` shuffles of the noise as a control. Raises ``ShapeError`` for other events.
        """
        if not isinstance(other, FlowSpectrum):
            raise TypeError(f"other: expected a FlowSpectrum, got {type(other).__name__}")
        shuffles, seed = as_integer(permutations, "permutations", least=0), as_seed(seed)
        with ProgressMeter(progress=progress) as meter:
            found = self.core.agreement(other.core, shuffles, seed, monitor=meter.monitor)
        return FlowComparison.of(self.rates, other.rates, *found)

    # Files and tables.

    def records(self) -> list[dict[str, Any]]:
        """One mapping of names to plain numbers for each mode."""
        whole = _groups(self._facts["groups"], self._count)
        group = np.concatenate([np.full(len(members), place) for place, members in enumerate(whole)])
        columns = {
            "mode": self.places,
            "group": group.astype(int)[self.places],
            "energy": self.energy,
            "low": self.low,
            "high": self.high,
            "separability": self.separability,
        }
        return [
            dict(zip(columns, row, strict=True))
            for row in zip(*(column.tolist() for column in columns.values()), strict=True)
        ]

    def to_frame(self) -> Any:
        """:meth:`records` as a ``pandas.DataFrame``, indexed by mode; an ``ArgumentError`` without pandas."""
        return to_frame(self.records(), index="mode")

    def summary(self, rows: int = 12) -> str:
        """Rates, shares and a table of the first groups, after what is not determined."""
        rows = checked_count(rows, "rows")
        rates = [
            f"{rate.real:.3g}" if rate.imag == 0 else f"{rate.real:.3g} ± {rate.imag:.3g}i"
            for rate in self.rates
            if rate.imag >= 0
        ]
        lines = [
            f"rates {', '.join(rates)} leave {self.unexplained[len(self.rates) - 1]:.2g} of held-out motion",
            f"motion: {self.affine:.1%} affine in the noise, {self.nonlinear:.1%} not; drift "
            f"{self.drift_energy:.2f} times the motion",
            f"{len(self)} of {self._count} modes in {len(self.groups)} groups",
        ]
        lines += [f"caution: {text}" for text in self.caveats]
        table = [
            {
                "group": place,
                "modes": _span(self.places[group]),
                "energy (%)": 100.0 * float(self.energy[group].sum()),
                "of halves": float(agreement),
            }
            for place, (group, agreement) in enumerate(zip(self.groups, self.agreement, strict=True))
        ]
        lines.append(text_table(table[:rows], decimals={"energy (%)": 1, "of halves": 2}))
        if len(table) > rows:
            left = sum(float(self.energy[group].sum()) for group in self.groups[rows:])
            lines.append(f"{len(table) - rows} more groups, {left:.1%} of the energy")
        return "\n".join(lines)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the whole spectrum to one safetensors file, atomically, without the model that it is of."""
        self.core.save(as_path(path))

    @classmethod
    def load(cls, path: str | PathLike[str], source: Any = None) -> FlowSpectrum:
        """Read a file that :meth:`save` wrote; ``source`` is a teacher or student for amplitudes, if they are
        wanted. Raises ``FileNotFoundError`` or ``CheckpointError`` without such a file."""
        spectrum = cls(_core.FlowSpectrum.load(as_path(path)))
        return spectrum if source is None else spectrum.of(core_of(source))

    def __reduce__(self) -> tuple[Any, ...]:
        source = None if self._source is None else self._source.model
        return FlowSpectrum, (self.core, source, self.places, self.condition)

    def __repr__(self) -> str:
        return (
            f"<FlowSpectrum of {self.paths} paths: {len(self.rates)} rates, {self.affine:.1%} affine, "
            f"{len(self)} of {self._count} modes>"
        )


def read_flow(
    source: _core.VelocityField | _core.Student | Array,
    *,
    n: int,
    times: Sequence[float],
    condition: Array | None,
    seed: int | None,
    reading: dict[str, Any],
    monitor: Any = None,
) -> FlowSpectrum:
    """See :func:`koopflow.analysis.flow_spectrum`."""
    if not isinstance(source, _core.VelocityField | _core.Student):
        held = _core.Displacements(list(source.shape[2:]), times)
        for rows in chunks(source.shape[1], int(np.prod(source.shape[2:])) * len(times)):
            held.add(source[:, rows])
        return FlowSpectrum(held.spectrum(json.dumps(reading), monitor=monitor))
    paths = Paths(source)
    noise = _core.normal((n, *paths.event_shape), as_seed(seed))
    held = _core.Displacements(list(paths.event_shape), times)
    for rows in chunks(n, int(np.prod(paths.event_shape)) * len(times)):
        part = None if condition is None else condition[rows]
        held.add(paths.states(noise[rows], times, part, monitor))
    return FlowSpectrum(held.spectrum(json.dumps(reading), monitor=monitor), source, condition=condition)


def _eigenvalues(rates: list[dict[str, float]]) -> Complex:
    values: list[complex] = []
    for rate in rates:
        pair = rate["growth"] + 1j * rate["frequency"]
        values += [pair] if rate["frequency"] == 0 else [pair, pair.conjugate()]
    return np.asarray(values, dtype=np.complex128)


def _groups(begins: list[int], count: int) -> list[Places]:
    ends = [*begins[1:], count]
    return [np.arange(begin, end) for begin, end in zip(begins, ends, strict=True)] if count else []


def _span(places: Places) -> str:
    if len(places) > 1 and np.all(np.diff(places) == 1):
        return f"{places[0]}-{places[-1]}"
    return ", ".join(map(str, places))
