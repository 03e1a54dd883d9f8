"""What every velocity field can do: evaluate it, follow its flow, measure densities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array, as_batch, as_condition, checked_count
from ..exceptions import ArgumentError, NotFittedError, ShapeError
from ..progress import ProgressFunction, ProgressMeter


class Flow:
    """A velocity field in the core and its flow; :class:`koopflow.FlowTeacher` says where it comes from."""

    event_shape: tuple[int, ...]
    _field: _core.VelocityField | None = None
    _history: dict[str, Any] = {}  # noqa: RUF012 (replaced, never changed)
    # The data that the field comes from and the condition of each row, where they are known. Not saved.
    _training: tuple[Array, Array | None] | None = None
    # The noise of each row, where pairs were given.
    _training_noise: Array | None = None

    def _pairing(self) -> dict[str, Any]:
        """How noise and data were paired, as far as it is known, and whether data were mirrored."""
        return {"coupling": "independent", "path": "linear"}

    @property
    def field(self) -> _core.VelocityField:
        """The velocity field in the core. Raises ``NotFittedError`` before :meth:`fit`."""
        if self._field is None:
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit(data) first")
        return self._field

    @property
    def event_shape_(self) -> tuple[int, ...]:
        """The shape of one sample. Raises ``NotFittedError`` before :meth:`fit`."""
        return tuple(self.field.event_shape)

    @property
    def evaluations(self) -> int:
        """The number of batched evaluations of the field so far (NFE)."""
        return self.field.evaluations

    def velocity(self, t: Array | float, x: Array, condition: Array | None = None) -> Array:
        """v(t, x).

        Parameters
        ----------
        t : float or array, ``[B]``
            Times in [0, 1].
        x : array, ``[B, *event]``
            States.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, condition_dim]``.

        Returns
        -------
        array, ``[B, *event]``
            Of the kind of ``x``.
        """
        x = as_batch(x)
        return self.field.velocity(times_for(t, x), x, as_condition(condition))

    def sample(
        self,
        n: int | None = None,
        *,
        x0: Array | None = None,
        solver: str = "dopri5",
        steps: int = 100,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        seed: int = 0,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Array:
        """Data by solving dx/dt = v from time 0 to 1.

        Parameters
        ----------
        n : int, optional
            How many fresh samples; or give ``x0``.
        x0 : array, ``[B, *event]``, optional
            Noise to start from.
        solver : {"dopri5", "euler", "midpoint", "heun", "rk4"}, default "dopri5"
            Adaptive Dormand-Prince 5(4), or fixed steps.
        steps : int, default 100
            Of the fixed-step solvers.
        rtol, atol : float, default 1e-5
            Tolerances of dopri5.
        seed : int, default 0
            Fixes the fresh noise.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, condition_dim]``.
        progress : bool or callable, default False
            See :mod:`koopflow.progress`.

        Returns
        -------
        array, ``[B, *event]``
            Of the kind of ``x0``; NumPy for fresh samples.

        Raises
        ------
        DivergenceError
            When dopri5 cannot reach its tolerance or the state stops being finite.
        """
        ends = self._solve(
            n,
            x0,
            [0.0, 1.0],
            seed,
            condition,
            progress=progress,
            solver=solver,
            steps=steps,
            rtol=rtol,
            atol=atol,
        )
        return ends[-1]

    def trajectory(
        self,
        x0: Array | None = None,
        *,
        n: int | None = None,
        times: Sequence[float],
        solver: str = "dopri5",
        steps: int = 100,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        seed: int = 0,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Array:
        """States at requested times along the flow, forwards or backwards.

        Parameters
        ----------
        x0 : array, ``[B, *event]``, optional
            The states at ``times[0]``: noise where that is 0, data where it is 1 and the times fall.
        n : int, optional
            Fresh noise instead; then ``times`` must begin at 0.
        times : sequence of float
            Rising or falling, within [0, 1].
        solver, steps, rtol, atol, seed, condition, progress
            As in :meth:`sample`; fixed steps are shared out over the whole span.

        Returns
        -------
        array, ``[len(times), B, *event]``
            The first entry is ``x0``.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.gaussian([0.0, 0.0], np.eye(2))
        >>> data = teacher.sample(3)
        >>> path = teacher.trajectory(data, times=[1.0, 0.5, 0.0])
        >>> path.shape
        (3, 3, 2)
        """
        times = [float(t) for t in times]
        if x0 is None and (not times or times[0] != 0.0):
            raise ArgumentError(f"times: expected to begin at 0 without x0, got {times}")
        return self._solve(
            n, x0, times, seed, condition, progress=progress, solver=solver, steps=steps, rtol=rtol, atol=atol
        )

    def log_prob(
        self,
        x: Array,
        *,
        divergence: str = "auto",
        probes: int = 1,
        seed: int = 0,
        solver: str = "dopri5",
        steps: int = 100,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Array:
        """Log-density in nats, from d log p / dt = -div v along the flow.

        Parameters
        ----------
        x : array, ``[B, *event]``
            Data.
        divergence : {"auto", "exact", "hutchinson"}, default "auto"
            ``"auto"`` is exact up to 32 dimensions and an unbiased estimate with random probes beyond.
        probes : int, default 1
            Of the estimate.
        seed : int, default 0
            Of the probes.
        solver, steps, rtol, atol, condition, progress
            As in :meth:`sample`.

        Returns
        -------
        array, ``[B]``
            Of the kind of ``x``.

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
                as_batch(x),
                divergence=divergence,
                probes=probes,
                seed=seed,
                solver=solver,
                steps=steps,
                rtol=rtol,
                atol=atol,
                condition=as_condition(condition),
                monitor=meter.monitor,
            )

    def _solve(
        self,
        n: int | None,
        x0: Array | None,
        times: list[float],
        seed: int,
        condition: Array | None,
        *,
        progress: bool | ProgressFunction,
        solver: str,
        steps: int,
        rtol: float,
        atol: float,
    ) -> Array:
        field = self.field
        x0 = noise_or(x0, n, field.event_shape, seed)
        with ProgressMeter(progress=progress) as meter:
            return field.solve(
                x0,
                times,
                solver=solver,
                steps=steps,
                rtol=rtol,
                atol=atol,
                condition=as_condition(condition),
                monitor=meter.monitor,
            )


def checked_teacher(teacher: Any) -> Flow:
    """The teacher. Raises ``TypeError`` for anything that is none."""
    if isinstance(teacher, Flow):
        return teacher
    hint = (
        "; a bare function does not say its event shape: FlowTeacher.from_torch(function, event_shape=(2,))"
        if callable(teacher)
        else ""
    )
    raise TypeError(f"teacher: expected a FlowTeacher, got {type(teacher).__name__}{hint}")


def noise_or(x0: Array | None, n: int | None, event_shape: tuple[int, ...], seed: int) -> Array:
    """The given states, or ``n`` fresh draws of noise. Raises ``ArgumentError`` for both or neither."""
    if (x0 is None) == (n is None):
        raise ArgumentError(f"expected one of n and x0, got {'neither' if n is None else 'both'}")
    if x0 is not None:
        return as_batch(x0)
    return _core.normal((checked_count(n), *event_shape), seed)


def times_for(t: Array | float, x: Array) -> Array:
    """Times as an array: a bare number counts for every sample."""
    return np.full(len(x), float(t)) if isinstance(t, int | float) else t


def checked_event_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one sample as a tuple. Raises ``ShapeError`` for anything but positive integers."""
    sizes = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    if not sizes or not all(isinstance(s, int | np.integer) and s >= 1 for s in sizes):
        raise ShapeError(
            f"event_shape: expected positive integers such as (2,) or (1, 28, 28), got {shape!r}"
        )
    plain = tuple(int(s) for s in sizes)
    # The same object if nothing changes: scikit-learn's clone asks for it.
    return shape if isinstance(shape, tuple) and plain == shape else plain


def check_checkpointing(file: object, every: int | None, minutes: float | None) -> None:
    """When training is to write its state. Raises ``ArgumentError`` for times without a file, or none."""
    if file is None and not (every is None and minutes is None):
        raise ArgumentError("checkpoint: expected a file, since it is to be written regularly, got None")
    if not (every is None or every >= 1):
        raise ArgumentError(f"checkpoint_every: expected at least 1, got {every}")
    if not (minutes is None or minutes > 0):
        raise ArgumentError(f"checkpoint_minutes: expected a positive number, got {minutes}")
