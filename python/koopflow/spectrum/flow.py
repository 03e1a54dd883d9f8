"""The canonical spectrum of a flow, and samples made from its parts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
    as_numbers,
    as_path,
    as_seed,
    as_times,
    to_numpy,
)
from ..exceptions import ArgumentError
from ..progress import ProgressFunction, ProgressMeter
from .flow_comparison import FlowComparison
from .flow_reading import FlowReading
from .paths import Paths, chunks, core_of, like
from .places import truncation_counts
from .spectrum import Places, Real


class FlowSpectrum(FlowReading):
    """Drift, affine part and nonlinear modes of a flow, made by :func:`koopflow.analysis.flow_spectrum`.

    A sample is x(t) = x0 + b(t) + (x0 - mean) A(t) + sum_k a_k(x0) V_k(t). Its parts are the noise x0, a
    drift b that all samples share, a part that is affine in the noise, and space-time modes V_k with
    amplitudes a_k. The modes are the principal components of what the other parts leave. All parts are sums
    of the functions (e^{lambda_j t} - 1) / lambda_j, with a few rates lambda_j that all paths share
    (``basis_rates``). Nothing here depends on the observables of a student, so the same parts can be found
    again in another student.

    Modes whose energies do not differ significantly over bootstrap resamples form a group. Interpret the
    group as a whole, since its members may mix. Selections are spectra too: ``spec[3]``, ``spec[:10]``,
    ``spec[spec.groups[0]]``.

    Attributes
    ----------
    core : _core.FlowSpectrum
        The spectrum in the core.
    places : array, ``[K]``, int
        Positions of these modes in the order of decreasing energy.
    event_shape, paths, times : tuple, int, array ``[T]``
        The shape of one sample, the number of paths, and the times of their states.
    condition : array or None
        Conditions of those paths.
    rates : array, complex ``[r]``
        The few shared rates, per whole flow, that are comparable between flows. The slowest is first, and
        both of each conjugate pair are listed.
    basis_rates : array, complex
        The rates lambda_j of the functions that all parts are sums of. They are ``rates``, or more if those
        leave much of the motion unexplained.
    affine_rates : array, complex ``[r]``
        The rates that fit the affine part alone best.
    unexplained : array, ``[R]``
        Share of the motion of held-out paths that the best 1, 2, ... rates leave unexplained.
    bound : float
        Largest such share with which other rates count as being as good as ``rates``; see :attr:`regions`.
    affine, nonlinear : float
        Shares of the affine and the nonlinear part in the motion, which is the mean square of the
        displacement without the drift, over all times. They are corrected for what an affine map of that size
        explains by chance, and add up to 1.
    drift_energy : float
        Mean square of the drift, in units of the motion.
    energy, low, high : array, ``[K]``
        Share of each mode in the nonlinear part, and its 1% and 99% quantiles over resampled paths.
    edge : float
        Largest energy, in the same unit, that a mode of pure noise of the remaining energy would have
        (Marchenko and Pastur). ``standing`` is the number of modes above it.
    """

    def of(self, source: Any) -> FlowSpectrum:
        """The same modes, with amplitudes from the paths of another model of the same event shape."""
        shape = tuple(core_of(source).event_shape)
        if shape != self.event_shape:
            raise ArgumentError(f"modes: expected modes of event shape {shape}, got {self.event_shape}")
        return FlowSpectrum(self.core, source, self.places, self.condition, self._solving)

    # Samples.

    @property
    def source(self) -> Paths:
        """The model whose paths give amplitudes.

        Raises ``ArgumentError`` for a spectrum that has no model, since it was made from trajectories or read
        from a file: see :meth:`of`.
        """
        if self._source is None:
            raise ArgumentError(
                "source: expected the spectrum of a model, got one of trajectories or of a file: use "
                "load(path, model) or spectrum.of(model)"
            )
        return self._source

    def amplitudes(self, x0: Array, *, condition: Array | None = None) -> Real:
        """Amplitudes a_k of noise ``[B, *event]``, ``[B, K]``, computed from the path of each sample."""
        return np.concatenate([part for _, part, _ in self._read(x0, condition)])

    def amplitudes_at(self, t: float, x: Array, *, condition: Array | None = None) -> Real:
        """Amplitudes a_k ``[B, K]`` of the noise from which states ``[B, *event]`` at time t came."""
        x, (t,), condition = as_batch(x, "x"), as_times([t], "t"), as_condition(condition)
        noise = self.source.noise(x, condition) if t == 1.0 else self.source.carried(x, t, 0.0, condition)
        return self.amplitudes(noise, condition=condition)

    def amplitudes_of_paths(self, paths: Array) -> Real:
        """Amplitudes a_k ``[B, K]`` of states ``[T, B, *event]`` at all :attr:`times`."""
        return np.asarray(self.core.amplitudes(paths)[:, self.places])

    def axis_amplitudes(self, x0: Array) -> Real:
        """Amplitudes of noise along :attr:`axes`, ``[B, A]``. Over noise they are standard normal."""
        return self.core.axis_amplitudes(as_batch(x0, "x0"))

    def _read(self, x0: Array, condition: Array | None) -> Iterator[tuple[Array, Real, Array]]:
        """Noise, amplitudes and paths, in chunks of bounded memory."""
        x0, condition = as_batch(x0, "x0"), as_condition(condition)
        if len(x0) == 0:
            raise ArgumentError("x0: expected at least one sample, got none")
        single = condition is None or condition.ndim == 0
        if condition is not None and not single and len(condition) != len(x0):
            raise ArgumentError(
                f"condition: expected one for each of {len(x0)} samples, got {len(condition)}"
            )
        for rows in chunks(len(x0), len(self.times) * self._dimension):
            part = condition if condition is None or single else condition[rows]
            paths = self.source.states(x0[rows], self.times.tolist(), part)
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

    def base(self, x0: Array, *, t: float | None = None, drift: bool = True, affine: bool = True) -> Array:
        """Sum of noise, drift and affine part at time t, ``[B, *event]``: samples without any mode."""
        x0, t = as_batch(x0, "x0"), self._at(t)
        return self.core.states(
            x0, np.zeros((len(x0), self._count)), t, drift=bool(drift), affine=bool(affine)
        )

    def contributions(self, x0: Array, *, t: float | None = None, condition: Array | None = None) -> Real:
        """Contribution a_k(x0) V_k(t) of each mode, ``[B, K, *event]``."""
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
        """Cumulative reconstructions by frequency, ``[len(edges), T, B, *event]``.

        They are states at ``times`` with only the functions whose basis rates have ``|Im lambda|`` below each
        edge. The functions are not orthogonal, so one band may cancel part of another.
        """
        edges = as_numbers(edges, "edges", "[1, 5]")
        below = [(np.abs(self.basis_rates.imag) < edge).tolist() for edge in edges]
        times, parts = as_times(times), []
        for _, _, paths in self._read(x0, condition):
            parts.append([[to_numpy(self.core.with_rates(paths, keep, t)) for t in times] for keep in below])
        return np.concatenate(parts, axis=2)

    def truncation_curve(
        self, x0: Array, *, counts: Sequence[int] | None = None, condition: Array | None = None
    ) -> tuple[Places, Real]:
        """Error of samples with only the first modes, against the model's own samples.

        ``counts`` are numbers of modes; by default about 24, geometrically spaced. Returns them, ``[C]``, and
        the RMS difference of the samples divided by the RMS of the nonlinear part, ``[C]``. The error with
        drift and affine part alone is 1.
        """
        numbers = truncation_counts(counts, len(self))
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
        """Compare this flow with another one, to see which modes are found again.

        All modes of both flows are compared, not only those selected. Overlapping groups of either flow are
        merged; see :class:`FlowComparison`. If both spectra were computed from the same noise, as they are by
        default, their amplitudes are compared as well, with ``permutations`` shuffles of the noise as a
        control. Raises ``ShapeError`` for another event shape.
        """
        if not isinstance(other, FlowSpectrum):
            raise TypeError(f"other: expected a FlowSpectrum, got {type(other).__name__}")
        shuffles, seed = as_integer(permutations, "permutations", least=0), as_seed(seed)
        with ProgressMeter(progress=progress) as meter:
            found = self.core.agreement(other.core, shuffles, seed, monitor=meter.monitor)
        others = other.best_rates(len(self.rates))
        return FlowComparison.of(self.rates, others, *found, bound=self.bound, shuffles=shuffles)

    @property
    def spread(self) -> Real:
        """Standard deviation of a_k over the paths of the spectrum, ``[K]``."""
        return np.asarray(self.core.array("amplitudes")[:, self.places].std(axis=0))

    def readings(
        self, x: Array, at: float = 1.0, condition: Array | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values of data ``[N, *event]`` to regress on, and all values that an edit can shift.

        Both are the amplitudes along the affine axes and of these modes, ``[N, A + K]``. They are the same at
        all times ``at``.
        """
        noise = self.source.noise(as_batch(x, "x"), as_condition(condition))
        own = self.amplitudes(noise, condition=condition)
        both = np.concatenate([self.axis_amplitudes(noise), own], axis=1)
        return both, both.copy()

    def move(
        self,
        x: Array,
        shifts: NDArray[np.float64],
        *,
        noise: bool,
        at: float = 1.0,
        project: bool = False,
        condition: Array | None = None,
    ) -> Array:
        """Data, or samples of noise, with the amplitudes along axes and of modes shifted by ``[B, A + K]``.

        With ``project`` the state at time ``at`` is changed, and the model propagates it from there.
        """
        x, (at,), condition = (
            as_batch(x, "x0" if noise else "x"),
            as_times([at], "at"),
            as_condition(condition),
        )
        if not project:
            end = self.source.carried(x, 0.0, 1.0, condition) if noise else x
            return like(x, to_numpy(end) + self._images(shifts, 1.0))
        states = (
            self.source.carried(x, 0.0, at, condition)
            if noise
            else self.states_at(x, at, condition=condition)
        )
        moved = like(states, to_numpy(states) + self._images(shifts, at))
        edited = to_numpy(self.source.carried(moved, at, 1.0, condition))
        if noise:
            return like(x, edited)
        # The error of the round trip of data is added back.
        lost = to_numpy(x) - to_numpy(self.source.carried(states, at, 1.0, condition))
        return like(x, edited + lost)

    def shift_image(self, shift: NDArray[np.float64], at: float = 1.0) -> NDArray[np.float64]:
        """Change ``[*event]`` of a sample by a shift ``[A + K]`` of its amplitudes."""
        return np.asarray(self._images(np.asarray(shift)[None], 1.0)[0])

    def _images(self, shifts: NDArray[np.float64], t: float) -> Real:
        """Displacements at time t by shifts ``[B, A + K]``. A shift along an axis also moves the noise."""
        each = np.concatenate([self.axes + self.axis_modes(t), self.modes_at(t)])
        return np.asarray(np.tensordot(shifts, each, axes=1))

    def signature_times(self, times: Sequence[float]) -> list[float]:
        """A single time, since amplitudes are the same at all times."""
        return as_times(times)[-1:]

    def signature(self, x: Array, times: Sequence[float], condition: Array | None = None) -> Real:
        """Amplitudes a_k of the paths that end in data ``[N, *event]``, equal at all times: ``[N, T, K]``."""
        noise = self.source.noise(as_batch(x, "x"), as_condition(condition))
        own = self.amplitudes(noise, condition=condition)[:, None]
        return np.repeat(own, len(times), axis=1)

    # Files.

    def save(self, path: str | PathLike[str]) -> None:
        """Write the whole spectrum to one safetensors file, atomically. The model is not included."""
        self.core.save(as_path(path))

    @classmethod
    def load(cls, path: str | PathLike[str], source: Any = None) -> FlowSpectrum:
        """Read a file that :meth:`save` wrote.

        ``source`` is a teacher or student, needed only for amplitudes. Raises ``FileNotFoundError`` if there
        is no file, and ``CheckpointError`` if it is damaged or of another kind.
        """
        spectrum = cls(_core.FlowSpectrum.load(as_path(path)))
        return spectrum if source is None else spectrum.of(source)

    def __reduce__(self) -> tuple[Any, ...]:
        return FlowSpectrum, (self.core, self._owner, self.places, self.condition, self._solving)

    def __repr__(self) -> str:
        return (
            f"<FlowSpectrum of {self.paths} paths: {len(self.rates)} rates, {self.affine:.1%} affine, "
            f"{len(self)} of {self._count} modes>"
        )


def read_flow(
    source: Any,
    *,
    n: int,
    times: Sequence[float],
    condition: Array | None,
    seed: int | None,
    reading: dict[str, Any],
    solving: Mapping[str, Any],
    monitor: Any = None,
) -> FlowSpectrum:
    """The spectrum of a teacher or student; see :func:`koopflow.analysis.flow_spectrum`."""
    paths = Paths(core_of(source), solving)
    noise = paths.model.source.draw(n, as_seed(seed), condition=condition)
    held = _core.Displacements(list(paths.event_shape), times)
    for rows in chunks(n, int(np.prod(paths.event_shape)) * len(times)):
        part = None if condition is None else condition[rows]
        held.add(paths.states(noise[rows], times, part, monitor))
    core = held.spectrum(json.dumps(reading), monitor=monitor)
    return FlowSpectrum(core, source, condition=condition, solving=solving)


def read_paths(
    paths: Array, *, times: Sequence[float], reading: dict[str, Any], monitor: Any = None
) -> FlowSpectrum:
    """The spectrum of states ``[T, B, *event]``; see :func:`koopflow.analysis.flow_spectrum`."""
    held = _core.Displacements(list(paths.shape[2:]), times)
    for rows in chunks(paths.shape[1], int(np.prod(paths.shape[2:])) * len(times)):
        held.add(paths[:, rows])
    return FlowSpectrum(held.spectrum(json.dumps(reading), monitor=monitor))
