"""Methods of a fitted student: samples, paths, inverses, spectra and edits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from .. import _core
from .._arrays import (
    Array,
    as_condition,
    as_flag,
    as_integer,
    as_number,
    as_numbers,
    as_seed,
    as_states,
    checked_count,
    starts_or,
    to_numpy,
)
from .._conditioning import Conditioning
from .._parameters import Parameters
from ..exceptions import ArgumentError, ShapeError
from ..progress import ProgressFunction, ProgressMeter
from ..spectrum import (
    NOISE_SEED,
    FlowSpectrum,
    LevelSpectrum,
    MapSpectrum,
    Spectrum,
    build_level_spectrum,
    build_spectrum,
    checked_spectrum,
)
from ..teachers.flow import Flow, checked_teacher
from .density import Densities
from .edit import changes, edit_flow
from .inverse import inverted
from .observables import Observables

S = TypeVar("S", bound="FittedStudent")
Modes: TypeAlias = (
    Spectrum | FlowSpectrum | LevelSpectrum | int | str | slice | Sequence[int | str] | NDArray[Any]
)


class FittedStudent(Densities, Observables, Parameters):
    """A fitted student: samples, paths, inverses, densities, spectra and edits.

    :class:`koopflow.KoopmanDistiller` is a subclass. Parameters that are set after fitting change nothing
    until the next fit. Copies, pickles and worker processes have what a file has, which is everything except
    the teacher of ``fit``. An argument ``condition`` that is not described is that of :meth:`sample`. Results
    carry no gradients, and an input tensor that requires gradients causes a UserWarning. For gradients use
    the module that :meth:`koopflow.KoopmanDistiller.to_torch` makes.

    Attributes
    ----------
    event_shape_ : tuple of int
        Shape of one sample.
    n_observables_ : int
        Number m of observables, including the constant, time and state.
    config_ : dict
        Configuration with every None resolved, by the core's flat names.
    history_ : dict
        Record of the fit: ``seed``, ``steps``, ``seconds``, ``trajectories``, ``trajectory_seconds``,
        ``teacher_evaluations``, ``best_step`` (0 is the untrained student), ``skipped_steps`` and
        ``restarts`` (after losses that were not finite), ``notes`` (a list of ``step`` and ``text``),
        ``stopped`` and ``log``. ``stopped`` is ``"completed"``, ``"interrupted"``, ``"budget"``,
        ``"patience"`` or ``"diverged"``; it is ``"interrupted"`` in a checkpoint of a fit that had not ended.
        ``log`` is a list of dictionaries: ``step``, ``seconds``, every loss term, the held-out errors and the
        learning rate. Values that are not finite are left out.
        After a linear solve there is also ``closed_form``: ``ridge``, ``residual``, the held-out scores
        before and after, and which was ``kept``. With several averages there are also ``averages``, a list of
        ``decay`` and the ``step`` and ``metric`` of its best state, and ``average``, the decay that was kept.
    teacher_ : dict
        Facts about the teacher: ``kind``, ``event_shape``, ``conditioning``, ``mixing`` (the path or noise
        schedule of its states), and ``classes``, the labels that training drew from. Sampling another label
        causes a UserWarning.
    conversion_ : dict
        Report of :meth:`to_spectral` or :meth:`to_dense`; absent before. Its entries are
        ``condition_number`` of the eigenvectors, ``residual``, largest ``growth``, ``smallest`` eigenvalue,
        ``observables``, ``dropped`` and ``affine_residual``. It is empty after ``to_dense``, which changes no
        number.
    """

    # Sorted by energy, for modes given by their index; computed at first use.
    _spectrum: Spectrum | LevelSpectrum | None = None
    # The teacher of fit, in this process only.
    _teacher: Flow | None = None
    conversion_: dict[str, Any]

    def sample(
        self,
        n: int | None = None,
        *,
        x0: Array | None = None,
        steps: int = 1,
        seed: int | None = 0,
        condition: Array | None = None,
        modes: Modes | None = None,
        log_prob: bool = False,
        progress: bool | ProgressFunction = False,
    ) -> Any:
        """Data from noise, by one evaluation of the observables: ``[B, *event]``, of the kind of ``x0``.

        Parameters
        ----------
        n : int, optional
            Number of fresh samples, returned in NumPy and made in chunks of bounded memory. Give either ``n``
            or ``x0``.
        x0 : array, ``[B, *event]``, optional
            Noise to start from.
        steps : int, default 1
            Number of encodings, at equal distances in time. Observables evolve linearly, so every encoding is
            propagated to the end, and all are averaged. That of the noise has three times the weight
            (docs/distillation.md).
        seed : int or None, default 0
            Random seed of fresh noise; None draws one.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, dim]`` for a conditional student, or one for all samples.
        modes : Spectrum, FlowSpectrum, LevelSpectrum, int, slice, list of int or mask, optional
            Modes that move, while the others stay as they are in the noise: a selection of :meth:`spectrum`,
            or indices into it as sorted by energy. Both modes of a conjugate pair move. With a FlowSpectrum,
            its drift and affine part move as well. For a hierarchy, a selection of its LevelSpectrum, or
            indices or names of feature maps; the other maps are replaced by their mean over noise. Requires
            ``steps=1``.
        log_prob : bool, default False
            Whether to return a tuple of the samples and their log-densities in nats, ``[B]`` in float64. They
            come from the change of variables at each sample's own noise, without an inversion. If other noise
            leads to the same sample, the true density is larger. Requires ``steps=1`` and all modes.
        progress : bool or callable, default False
            Progress bar or function: see :mod:`koopflow.progress`.
        """
        student = self._fitted()
        for name, given in (("modes", modes is not None), ("log_prob", as_flag(log_prob, "log_prob"))):
            if given and as_integer(steps, "steps") != 1:
                raise ArgumentError(f"steps: expected 1 with {name}, got {steps!r}")
        if log_prob and modes is not None:
            raise ArgumentError("modes: expected None with log_prob, which is that of whole samples")
        if log_prob:
            condition = self._checked(condition)
            x0 = starts_or(x0, n, student, seed, condition)
            with ProgressMeter(progress=progress) as meter:
                found = student.sample_with_density(x0, condition=condition, monitor=meter.monitor)
            return found[0], found[1]
        if modes is not None:
            condition = self._checked(condition)
            x0 = starts_or(x0, n, student, seed, condition)
            return self._selection(modes, condition).sample_path(x0, times=[1.0], condition=condition)[0]
        with ProgressMeter(progress=progress) as meter:
            options: dict[str, Any] = {"steps": as_integer(steps, "steps"), "monitor": meter.monitor}
            options["condition"] = self._checked(condition)
            if x0 is None and n is not None:
                return student.sample_count(checked_count(n), seed=as_seed(seed), **options)
            return student.sample(starts_or(x0, n, student, seed, options["condition"]), **options)

    def _fresh(self, n: int, seed: int | None, condition: Array | None) -> Array:
        """Fresh draws of the source of the paths."""
        return starts_or(None, n, self._fitted(), seed, condition)

    def sample_path(
        self,
        x0: Array | int | None = None,
        *,
        n: int | None = None,
        times: Array | Sequence[float],
        seed: int | None = 0,
        condition: Array | None = None,
        modes: Modes | None = None,
    ) -> Array:
        """States along the path from one encoding of the noise, in closed form: ``[len(times), B, *event]``.

        Parameters
        ----------
        x0, n : array, ``[B, *event]``, or int, optional
            Noise to start from, or a number of fresh samples. ``x0`` accepts either.
        times : sequence of float
            Times in any order. 0 is noise and 1 is data, unless the teacher has another ``horizon``. Times
            outside this range extrapolate by the generator, beyond what the student was trained on.
        seed, condition, modes
            As in :meth:`sample`.
        """
        student = self._fitted()
        if isinstance(x0, int | np.integer):
            x0, n = None, checked_count(x0)
        condition, own = self._checked(condition), self.clock.times(times, extrapolate=True)
        x0 = starts_or(x0, n, student, seed, condition)
        if modes is not None:
            return self._selection(modes, condition).sample_path(x0, times=own, condition=condition)
        return student.sample_path(x0, own, condition=condition)

    def denoise(
        self, t: Array | float, x0: Array, *, of: str = "data", condition: Array | None = None
    ) -> Array:
        """Expected data or noise given the states on this student's paths, by one evaluation.

        The state x_t on the path from noise x0 and its velocity are in closed form. From both follow
        E[x1 | x_t] and E[x0 | x_t], as in :meth:`koopflow.FlowTeacher.denoise`.

        Parameters
        ----------
        t : array, ``[B]``, or float
            Times of :attr:`clock`, [0, 1] by default.
        x0 : array, ``[B, *event]``
            Noise that the paths start from.
        of : {"data", "noise"}, default "data"
            Quantity to return: E[x1 | x_t] or E[x0 | x_t].
        condition : array, optional
            As in :meth:`sample`.

        Returns
        -------
        array, ``[B, *event]``
            Expected values, of the kind of ``x0``.

        Raises
        ------
        ArgumentError
            If times are outside [0, 1] or ``of`` is unknown. Also if the teacher's states are not a mixture
            of noise and data, or the student's file does not say which mixture, as in older files of students
            of diffusion models.
        """
        x0 = as_states(x0, "x0")
        mixing = self.teacher_.get("mixing")
        if "mixing" not in self.teacher_ and self.teacher_.get("kind") != "diffusion":
            # Older files have the path alone.
            mixing = {"path": self.config_.get("path", "linear")}
        if mixing is None:
            raise ArgumentError(
                "teacher: expected one whose states are known to be a x1 + s x0, got one of kind "
                f"{self.teacher_.get('kind')!r}"
            )
        return self._fitted().denoise(
            self.clock.times_for(t, x0, "t"),
            x0,
            json.dumps(mixing),
            of=str(of),
            condition=self._checked(condition),
        )

    def invert(
        self,
        x: Array,
        *,
        polish: int = 0,
        method: str = "newton",
        damping: float = 1e-3,
        residuals: bool = False,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Any:
        """The noise that maps to given data, ``[B, *event]``, of the kind of ``x``.

        Parameters
        ----------
        x : array, ``[B, *event]``
            Data.
        polish : int, default 0
            Number of refinement steps, which bring :meth:`sample` of the noise closer to the data. For each
            sample a step is kept if it reduces the distance. Otherwise it is shortened or damped more.
        method : {"newton", "fixed_point", "anderson"}, default "newton"
            Type of refinement step. ``"newton"``: Levenberg-Marquardt with the exact Jacobian, which takes
            one product per coordinate, for up to 1024 coordinates. ``"fixed_point"``: the student's own
            inverse applied to the residual, at two evaluations. ``"anderson"``: fixed-point steps combined by
            Anderson acceleration, at the same cost.
        damping : float, default 1e-3
            Damping, relative to the mean diagonal of J^T J. Fixed-point steps shrink by 1 / (1 + damping).
        residuals : bool, default False
            Whether to return a tuple of the noise and the distances ``||sample(x0) - x||``, ``[B]``.
        condition, progress
            As in :meth:`sample`. With ``progress``, Ctrl-C can interrupt the computation.
        """
        return inverted(
            self._fitted(),
            x,
            polish=polish,
            method=method,
            damping=damping,
            residuals=residuals,
            condition=self._checked(condition),
            progress=progress,
        )

    def interpolate(
        self,
        a: Array,
        b: Array,
        *,
        weights: Array | Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        polish: int = 0,
        condition: Array | None = None,
    ) -> Array:
        """Samples ``[len(weights), B, *event]`` between data ``a`` and ``b``, in NumPy, by weights of ``b``.

        The noise is interpolated on the great circle, which keeps its norm, or on the straight line if the
        student starts from another source than noise. Without ``polish``, as in :meth:`invert`, the ends are
        reconstructions of the data rather than the data themselves.
        """
        start, end = (to_numpy(self.invert(x, polish=polish, condition=condition)) for x in (a, b))
        if start.shape != end.shape:
            raise ShapeError(f"b: expected shape {start.shape}, got {end.shape}")
        flat = np.stack([start, end]).reshape(2, len(start), -1)
        norms = np.linalg.norm(flat, axis=2, keepdims=True)
        units = flat / np.maximum(norms, 1e-12)
        angle = np.arccos(np.clip(np.sum(units[0] * units[1], axis=1, keepdims=True), -1.0, 1.0))
        # A straight line if the two directions are nearly the same or opposite.
        chord = np.abs(np.sin(angle)) < 1e-6
        if self._fitted().source.kind != "normal":
            chord, units = np.ones_like(chord), flat

        def state(weight: float) -> NDArray[Any]:
            both = np.array([1.0 - weight, weight]).reshape(2, 1, 1)
            shares = np.where(chord, both, np.sin(both * angle) / np.where(chord, 1.0, np.sin(angle)))
            length = np.sum(both * norms, axis=0) if units is not flat else 1.0
            noise = np.sum(shares * units, axis=0) * length
            x0 = noise.reshape(start.shape).astype(start.dtype)
            return to_numpy(self.sample(x0=x0, condition=condition))

        return np.stack([state(weight) for weight in as_numbers(weights, "weights", "[0, 0.5, 1]")])

    def spectrum(
        self,
        teacher: Flow | None = None,
        *,
        condition: Array | None = None,
        sort: str = "energy",
        count: int | None = None,
        n: int = 512,
        seed: int | None = NOISE_SEED,
    ) -> Spectrum | LevelSpectrum:
        """Eigenvalues, eigenfunctions and modes of the generator.

        Parameters
        ----------
        teacher : FlowTeacher, optional
            Teacher along whose paths residuals are measured. A small residual means that a mode belongs to
            the flow. The default is the teacher that this student was fitted to in this process.
        condition : array, optional
            Labels or vectors to average over, for a conditional student. By default all classes have equal
            weight.
        sort : {"energy", "frequency", "growth", "modulus", "residual"}, default "energy"
            Order of modes: descending energy, or ascending ``|Im lambda|``, Re lambda, ``|lambda|`` or
            residual.
        count : int, optional
            Number of modes to keep, those of the highest energy.
        n, seed : int
            Number of noise samples for energies and residuals (512), and their random seed.

        Returns
        -------
        Spectrum
            The modes. A hierarchical student returns a :class:`koopflow.LevelSpectrum` instead, which lists
            feature maps and ignores ``sort`` and ``count``. A defective dense generator has no spectrum and
            raises ``DivergenceError``.
        """
        if teacher is None:
            teacher = self._teacher
        student, field = self._fitted(), None if teacher is None else checked_teacher(teacher).field
        condition = as_condition(condition)
        if student.feature_maps:
            return build_level_spectrum(student, field, condition=condition, n=n, seed=seed)
        return build_spectrum(student, field, condition=condition, sort=sort, count=count, n=n, seed=seed)

    def edit(
        self,
        x: Array | None = None,
        modes: Modes | None = None,
        *,
        x0: Array | None = None,
        scale: float | Array | None = None,
        shift: complex | Array | None = None,
        rotate: float | Array | None = None,
        at: float | None = None,
        project: bool = False,
        condition: Array | None = None,
    ) -> Array:
        """Data, or samples of noise, with some eigenfunctions changed: psi -> scale e^{i rotate} psi + shift.

        The edit changes what the modes contribute to the motion and keeps the noise. ``scale=0`` therefore
        gives a sample without these modes, as :meth:`sample` with all other modes does. The result,
        ``[B, *event]``, is of the kind of the input.

        Parameters
        ----------
        x, x0 : array, ``[B, *event]``, optional
            Data, which are first carried back to time ``at``, or noise, whose sample is edited. The error of
            the data's round trip is added back, so that an edit that changes nothing returns the data.
        modes : Spectrum, FlowSpectrum, LevelSpectrum, int, slice, list of int or mask, optional
            Modes to change, as in :meth:`sample`; all by default. Both modes of a conjugate pair change
            alike. The modes of a FlowSpectrum have real amplitudes that are constant in time, so ``rotate``
            is not available and ``at`` matters only with ``project``. The modes of a hierarchy change alike
            at all pixels, and are scaled and rotated about their mean over noise.
        scale : float or array, ``[r]``, optional
            Factors of the selected modes. 0 removes them.
        shift : complex or array, ``[r]`` or ``[B, r]``, optional
            Shifts, in standard deviations of each eigenfunction over noise, propagated to ``at``.
        rotate : float or array, ``[r]``, optional
            Angles in radians, for complex modes only.
        at : float, optional
            Time of the edit on :attr:`clock`, from source to data; by default that of the source.
        project : bool, default False
            Whether to decode the edited state at ``at``, which must be above 0, and to encode it again before
            it is propagated to the end. This costs one more evaluation and makes the observables those of an
            actual state.
        """
        if scale is None and shift is None and rotate is None:
            raise ArgumentError("expected scale, shift or rotate, got none of them")
        if (x is None) == (x0 is None):
            raise ArgumentError(f"expected one of x and x0, got {'neither' if x is None else 'both'}")
        states = as_states(x0, "x0") if x is None else as_states(x)
        condition = self._checked(condition)
        # The default is the source.
        (at,) = [0.0] if at is None else self.clock.times([as_number(at, "at")], "at")
        chosen = self._selection(slice(None) if modes is None else modes, condition)
        if isinstance(chosen, FlowSpectrum):
            how = {"scale": scale, "shift": shift, "rotate": rotate}
            return edit_flow(chosen, states, how, at, project=project, noise=x is None, condition=condition)
        gains, shifts = changes(chosen, scale, shift, rotate, at)
        options: dict[str, Any] = {"noise": x is None, "at": at, "condition": condition}
        options["project"] = as_flag(project, "project")
        return chosen.core.edit(states, gains, shifts, **options)

    def _selection(self, modes: Modes, condition: Array | None) -> Spectrum | FlowSpectrum | LevelSpectrum:
        """The selected modes, from indices, a selection of this student's spectrum or a FlowSpectrum.

        The spectrum of a student conditioned on vectors is averaged over the given ones.
        """
        student = self._fitted()
        build = build_level_spectrum if student.feature_maps else build_spectrum
        if isinstance(modes, FlowSpectrum):
            return modes.of(student)
        if isinstance(modes, Spectrum | LevelSpectrum):
            if modes.student is student:
                # Without any map, a hierarchy would give the same image for all noise.
                if isinstance(modes, LevelSpectrum):
                    checked_spectrum("modes", modes, LevelSpectrum)
                return modes
            raise ArgumentError("modes: expected this student's spectrum, got another student's")
        if isinstance(modes, MapSpectrum):
            raise ArgumentError(
                f"modes: expected a selection such as spectrum[[2]] or spectrum['{modes.name}'], got the "
                "MapSpectrum of one map"
            )
        if Conditioning.from_plain(self.teacher_.get("conditioning", "none")).dim is not None:
            return _chosen(build(student, None, condition=condition), modes)
        if self._spectrum is None:
            self._spectrum = build(student, None)
        return _chosen(self._spectrum, modes)

    def to_spectral(self: S) -> S:
        """The same student with a spectral generator, whose parameters are the dense one's eigenvalues.

        Samples and paths are the same. The observables are linear combinations of this student's, and
        ``conversion_`` has the condition number of this change of coordinates. Raises ``ArgumentError`` if
        the generator is already spectral, and ``DivergenceError`` if it has no spectral form. That happens
        with nearly parallel eigenvectors, growth beyond 8, or a nearly zero eigenvalue that an affine motion
        would need.
        """
        return self._converted("spectral", self._fitted().to_spectral())

    def to_dense(self: S) -> S:
        """The same student with a dense generator over the same observables. Raises ``ArgumentError`` if it
        is already dense."""
        return self._converted("dense", self._fitted().to_dense())

    def _converted(self: S, generator: str, outcome: tuple[_core.Student, str]) -> S:
        student, report = outcome
        other: S = clone(self)
        # The converted parameters already satisfy the stability constraint, so the new model has none.
        other.set_params(generator=generator, architecture__frame=None, architecture__stability=None)
        other._adopt(student, self.teacher_)
        other._teacher = self._teacher
        other.conversion_ = json.loads(report)
        return other

    def _adopt(self, student: _core.Student, teacher: dict[str, Any]) -> None:
        self._student = student
        self._spectrum = None
        self.event_shape_ = tuple(student.event_shape)
        self.n_observables_ = student.size
        self.config_: dict[str, Any] = json.loads(student.config)
        self.history_: dict[str, Any] = json.loads(student.history)
        self.history_["seed"] = self.config_["seed"]
        self.history_["log"] = [
            {"step": entry["step"], "seconds": entry["seconds"], **dict(entry["values"])}
            for entry in self.history_["log"]
        ]
        self.teacher_ = teacher

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_spectrum": None, "_teacher": None}


def _chosen(spectrum: Spectrum | LevelSpectrum, modes: Any) -> Spectrum | LevelSpectrum:
    """Modes at some indices, or the maps of a hierarchy."""
    return spectrum.select(maps=modes) if isinstance(spectrum, LevelSpectrum) else spectrum[modes]
