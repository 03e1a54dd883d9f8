"""Methods of every velocity field: evaluation, sampling, trajectories and densities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import _core
from .._arrays import (
    Array,
    as_grid,
    as_integer,
    as_number,
    as_seed,
    as_states,
    kept,
    starts_or,
    to_numpy,
)
from .._clock import UNIT, Clock
from .._conditioning import Conditioning
from ..exceptions import ArgumentError, NotFittedError
from ..progress import ProgressFunction, ProgressMeter
from ..steering import Observation, Tilted, tilted_model
from ..twins.stored import Stored
from ..twins.teacher import TeacherModule, field_of


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Copies of the data that a teacher was trained on in this process. Files of teachers do not hold them.

    They are the data ``[N, *event]``, the condition of each row, and the noise of each row if pairs were
    given.
    """

    data: Array
    condition: Array | None = None
    noise: Array | None = None

    @classmethod
    def copied(cls, data: Array, condition: Array | None = None, noise: Array | None = None) -> TrainingData:
        """Training data with copied arrays. Files that are mapped read-only are not copied."""
        return cls(kept(data), kept(condition), kept(noise))


class Flow:
    """A velocity field in the core, and its flow. :class:`koopflow.FlowTeacher` makes such fields.

    Attributes
    ----------
    event_shape_ : tuple of int
        Shape of one sample.
    history_ : dict
        Record of training: ``steps``, ``seconds``, ``stopped``, ``loss`` (a list of ``[step, loss]``),
        ``skipped_steps`` (with a loss or gradient that was not finite), ``restarts`` after a divergence,
        ``notes`` (a list of ``step`` and ``text``), ``config`` (the options with every None resolved) and
        ``classes``, the labels that training saw. Sampling another label causes a UserWarning. Empty for a
        teacher that koopflow did not train.
    training_data_ : TrainingData or None
        Data that the field comes from. None for a teacher that was attached or loaded.
    """

    training_data_: TrainingData | None = None
    _clock: Clock = UNIT
    _field: _core.VelocityField | None = None
    # Makes the PyTorch module of a field that has no stored form.
    _attached: Callable[[], TeacherModule] | None = None
    _history: dict[str, Any] = {}  # noqa: RUF012 (replaced as a whole, never changed)

    @property
    def field(self) -> _core.VelocityField:
        """The velocity field in the core. Raises ``NotFittedError`` before :meth:`fit`."""
        if self._field is None:
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit(data) first")
        return self._field

    @property
    def event_shape_(self) -> tuple[int, ...]:
        return tuple(self.field.event_shape)

    @property
    def clock(self) -> Clock:
        """Clock that all times here refer to: the times of source and data."""
        return self._clock

    @property
    def history_(self) -> dict[str, Any]:
        return self._history if self.field else {}

    @property
    def pairing_(self) -> dict[str, Any]:
        """``coupling``, ``path`` and ``flip`` of the training. For a teacher that koopflow did not train:
        independent pairs on the linear path, not mirrored."""
        known = self._history.get("config", {}) if self.field.kind == "network" else {}
        otherwise = {"coupling": "independent", "path": "linear", "flip": False}
        return {name: known.get(name, value) for name, value in otherwise.items()}

    @property
    def evaluations(self) -> int:
        """Number of batched evaluations of the field so far (NFE)."""
        return self.field.evaluations

    def velocity(
        self, t: Array | float, x: Array, condition: Array | None = None, *, extrapolate: bool = False
    ) -> Array:
        """The velocity v(t, x), ``[B, *event]``, of the kind of ``x``.

        ``t`` is a number or ``[B]``, ``x`` are states ``[B, *event]``, and the condition is labels ``[B]`` or
        vectors ``[B, condition_dim]``. Raises ``ArgumentError`` for times outside the clock ([0, 1] unless
        ``horizon`` says otherwise) if ``extrapolate`` is False.
        """
        x = as_states(x)
        own = self.clock.times_for(t, x, extrapolate=extrapolate)
        v = self.field.velocity(own, x, self._checked(condition))
        return v if self.clock.is_unit else v / self.clock.length

    def denoise(
        self, t: Array | float, x: Array, *, of: str = "data", condition: Array | None = None
    ) -> Array:
        """Expected data x1 or noise x0 given states x_t = a x1 + s x0, by one evaluation.

        With W = a' s - a s', E[x1|x] = (s v - s' x) / W and E[x0|x] = (a' x - a v) / W. On a path that ends
        in the data, the first is x itself at t = 1, and the second is x at t = 0. A guided field returns its
        guided estimate, and a window the estimate of the whole flow. For a reversed flow the data are the
        noise of the original.

        Parameters
        ----------
        t : array, ``[B]``, or float
            Times of :attr:`clock`, [0, 1] by default.
        x : array, ``[B, *event]``
            States at these times.
        of : {"data", "noise"}, default "data"
            Quantity to return: E[x1 | x_t = x] or E[x0 | x_t = x].
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, condition_dim]``.

        Returns
        -------
        array, ``[B, *event]``
            Expected values, of the kind of ``x``.

        Raises
        ------
        ArgumentError
            If times are outside [0, 1], ``of`` is unknown, or the teacher's states are not such a mixture.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.gaussian([2.0, 0.0], np.eye(2))
        >>> teacher.denoise(0.0, np.ones((1, 2), dtype=np.float32))  # the mean, since x is pure noise
        array([[2., 0.]], dtype=float32)
        """
        x = as_states(x)
        return self.field.denoise(
            self.clock.times_for(t, x), x, of=str(of), condition=self._checked(condition)
        )

    def to_torch(self) -> TeacherModule:
        """The velocity as a plain PyTorch module with this teacher's weights.

        Its call is ``module(t, x, condition=None)``, with times as a number or ``[B]``. It is differentiable
        in times, states and weights. The weights of a network are copied, and the module works with
        ``torch.compile`` and ``torch.export`` (also with a dynamic batch).
        :meth:`koopflow.FlowTeacher.from_torch_module` makes a teacher of fine-tuned weights. An attached
        model is not copied: the module contains it, and calls it as the teacher does, in evaluation mode.

        Examples
        --------
        >>> import torch
        >>> from koopflow import FlowTeacher
        >>> module = FlowTeacher.gaussian([1.0, 2.0], torch.eye(2)).to_torch()
        >>> x = torch.zeros(3, 2, requires_grad=True)
        >>> module(0.5, x).sum().backward()
        """
        twin = self._twin()
        twin.clock = (self.clock.start, self.clock.end)
        return twin

    def sample(
        self,
        n: int | None = None,
        *,
        x0: Array | None = None,
        solver: str = "dopri5",
        steps: int = 100,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        grid: str | Sequence[float] | None = None,
        seed: int | None = 0,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Array:
        """Data ``[B, *event]`` by solving dx/dt = v from source to data, of the kind of ``x0`` (or NumPy).

        Raises ``DivergenceError`` if dopri5 cannot reach its tolerance or the state is no longer finite.

        Parameters
        ----------
        n : int, optional
            Number of fresh samples. Give either ``n`` or ``x0``.
        x0 : array, ``[B, *event]``, optional
            Noise, or other states of the source, to start from.
        solver : {"dopri5", "euler", "midpoint", "heun", "rk4", "ab2", "ab3", "dpm2m"}, default "dopri5"
            ODE solver. ``"dopri5"`` is the adaptive Dormand-Prince 5(4). The others take fixed steps. The
            one-step methods (``"euler"`` to ``"rk4"``) take 1, 2, 2 and 4 evaluations per step. The multistep
            methods take one: Adams-Bashforth of order 2 and 3, and DPM-Solver++(2M). docs/solvers.md
            recommends one for each number of evaluations.
        steps : int, default 100
            Number of steps of the fixed-step solvers.
        rtol, atol : float, default 1e-5
            Relative and absolute tolerance of dopri5.
        grid : {"uniform", "tau", "log_snr"} or sequence of float, optional
            Times of the fixed steps: equally spaced in t, in tau = a / (a + s), or in the log-SNR, which is
            softened at the ends. A sequence of rising times from 0 to 1 is used as it is and sets the number
            of steps. By default ``"uniform"`` for one-step methods and ``"log_snr"`` for multistep methods.
        seed : int or None, default 0
            Random seed of fresh noise; None draws one.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, condition_dim]``.
        progress : bool or callable, default False
            Progress bar or function: see :mod:`koopflow.progress`.

        """
        given = {**self._numbers(solver, steps, rtol, atol, grid), "condition": condition}
        return self._solve(self._starts(x0, n, seed, condition), [0.0, 1.0], progress, given)[-1]

    def trajectory(
        self,
        x0: Array | None = None,
        *,
        n: int | None = None,
        times: Array | Sequence[float],
        solver: str = "dopri5",
        steps: int = 100,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        grid: str | Sequence[float] | None = None,
        seed: int | None = 0,
        condition: Array | None = None,
        extrapolate: bool = False,
        progress: bool | ProgressFunction = False,
    ) -> Array:
        """States ``[len(times), B, *event]`` at given times along the flow, forwards or backwards.

        The first states are ``x0``.

        Parameters
        ----------
        x0 : array, ``[B, *event]``, optional
            States at ``times[0]``: states of the source if that time is 0, or data if it is 1 and the times
            decrease.
        n : int, optional
            Number of fresh samples of the source, in place of ``x0``. ``times`` must then begin at 0.
        times : sequence of float
            Increasing or decreasing times within [0, 1], or within the clock that ``horizon`` set.
        extrapolate : bool, default False
            Whether to allow times outside that range, where the model is evaluated too.
        solver, steps, rtol, atol, grid, seed, condition, progress
            As in :meth:`sample`. Fixed steps are distributed over the whole span, and multistep methods keep
            their history across the times in between. Outside the range ``"dpm2m"`` is not available, and the
            grid must be ``"uniform"`` or a sequence of times.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.gaussian([0.0, 0.0], np.eye(2))
        >>> teacher.trajectory(teacher.sample(3), times=[1.0, 0.5, 0.0]).shape
        (3, 3, 2)
        """
        own = self.clock.times(times, extrapolate=extrapolate)
        if x0 is None and own[0] != 0.0:
            begin = f"{self.clock.start:g}"
            raise ArgumentError(f"times: expected to begin at {begin} without x0, got {list(times)}")
        given = {**self._numbers(solver, steps, rtol, atol, grid), "condition": condition}
        return self._solve(self._starts(x0, n, seed, condition), own, progress, given)

    def tilt(
        self,
        *,
        reward: Callable[[Any], Any] | None = None,
        observation: Observation | None = None,
        energy: Callable[[Any], Any] | None = None,
        temperature: float = 1.0,
        condition: Array | None = None,
        solver: str = "dopri5",
        steps: int = 100,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        grid: str | Sequence[float] | None = None,
    ) -> Tilted:
        """The teacher's distribution tilted by a reward, an observation or an energy.

        See :meth:`koopflow.KoopmanDistiller.tilt`. The map from noise to data is the solution of the ODE by
        ``solver``, ``steps``, ``rtol``, ``atol`` and ``grid``, as in :meth:`sample`. Derivatives come from
        the adjoint equation, and densities from :meth:`log_prob`.
        """
        return tilted_model(
            self.field,
            reward=reward,
            observation=observation,
            energy=energy,
            temperature=temperature,
            condition=self._checked(condition),
            solving=self._numbers(solver, steps, rtol, atol, grid),
        )

    def log_prob(
        self,
        x: Array,
        *,
        divergence: str = "auto",
        probes: int = 1,
        seed: int | None = 0,
        solver: str = "dopri5",
        steps: int = 100,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        grid: str | Sequence[float] | None = None,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Array:
        """Log-densities ``[B]`` in nats, of the kind of ``x``, from d log p / dt = -div v along the flow.

        Parameters
        ----------
        x : array, ``[B, *event]``
            Data.
        divergence : {"auto", "exact", "hutchinson"}, default "auto"
            Method for the divergence of the velocity: exact, or an unbiased estimate with random probes.
            ``"auto"`` is exact up to 32 dimensions.
        probes : int, default 1
            Number of random probes of the estimate.
        seed : int or None, default 0
            Random seed of the probes.
        solver, steps, rtol, atol, grid, condition, progress
            As in :meth:`sample`, except that ``"dpm2m"`` is not available.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.gaussian([0.0, 0.0], np.eye(2))
        >>> teacher.log_prob(np.zeros((1, 2), dtype=np.float32)).round(3)   # -log(2 pi)
        array([-1.838], dtype=float32)
        """
        with ProgressMeter(progress=progress) as meter:
            return self.field.log_prob(
                as_states(x),
                divergence=str(divergence),
                probes=as_integer(probes, "probes"),
                seed=as_seed(seed),
                **self._numbers(solver, steps, rtol, atol, grid),
                condition=self._checked(condition),
                monitor=meter.monitor,
            )

    def score(self, data: Array, y: Array | None = None) -> float:
        """Mean of :meth:`log_prob` over data ``[N, *event]``, in nats, as for densities in scikit-learn.

        Higher is better. ``y`` is the condition of each row. It is ignored for an unconditional teacher.
        """
        condition = Conditioning.of(self.field).of_rows(y, None)
        return float(to_numpy(self.log_prob(data, condition=condition)).mean(dtype=float))

    @property
    def _twin(self) -> Callable[[], TeacherModule]:
        """A function that makes the PyTorch module of the current field."""
        return self._attached or partial(_stored_twin, self.field, self._facts())

    def _facts(self) -> dict[str, Any]:
        """The facts that a file of this teacher holds besides the field."""
        return {}

    def _numbers(
        self, solver: str, steps: int, rtol: float, atol: float, grid: str | Sequence[float] | None
    ) -> dict[str, Any]:
        """Options of a solver, converted to types and times of the core, which checks their ranges."""
        tolerances = {"rtol": as_number(rtol, "rtol"), "atol": as_number(atol, "atol")}
        times = as_grid(grid)
        if isinstance(times, list):
            times = [self.clock.own(t) for t in times]
        return {
            "solver": str(solver),
            "steps": as_integer(steps, "steps", least=1),
            "grid": times,
            **tolerances,
        }

    def _starts(
        self, x0: Array | None, n: int | None, seed: int | None, condition: Array | None = None
    ) -> Array:
        """The given states, or ``n`` fresh draws of the source."""
        return starts_or(x0, n, self.field, seed, condition)

    def _fresh(self, n: int, seed: int | None, condition: Array | None) -> Array:
        """Fresh draws of the source."""
        return self._starts(None, n, seed, condition)

    def _solve(self, x0: Array, times: list[float], progress: Any, given: dict[str, Any]) -> Array:
        given["condition"] = self._checked(given["condition"])
        with ProgressMeter(progress=progress) as meter:
            return self.field.solve(x0, times, monitor=meter.monitor, **given)

    def _checked(self, condition: Array | None) -> Array | None:
        """The condition, after a warning about classes that training did not see."""
        return Conditioning.of(self.field).known(condition, self._history.get("classes"))


def _stored_twin(field: _core.VelocityField, facts: dict[str, Any]) -> TeacherModule:
    stored = Stored.from_bytes(field.to_bytes())
    stored.header["facts"] = facts
    return field_of(stored).to(field.device)


def checked_teacher(teacher: Any, argument: str = "teacher") -> Flow:
    """The teacher. Raises ``TypeError`` for anything else."""
    if isinstance(teacher, Flow):
        return teacher
    hint = "; a function has no event shape: FlowTeacher.from_torch(function, event_shape=(2,))"
    got = f"{type(teacher).__name__}{hint if callable(teacher) else ''}"
    raise TypeError(f"{argument}: expected a FlowTeacher, got {got}")
