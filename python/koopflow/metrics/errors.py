"""Errors of models on the same noise, and the straightness of their paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array, as_condition, as_number, as_times, method_of
from .._clock import clock_of
from ..exceptions import ArgumentError
from .estimate import Estimate, bootstrapped, plain_batch

# Times inside (0, 1): at the ends a straight line through the exact endpoints would have no error.
PATH_TIMES = tuple(np.linspace(0.1, 0.9, 17).tolist())
# Enough times to approximate a smooth path by a polygon.
STRAIGHTNESS_TIMES = tuple(np.linspace(0.0, 1.0, 65).tolist())


def endpoint_error(
    student: Any,
    teacher: Any,
    noise: Array,
    *,
    condition: Array | None = None,
    scale: float | None = None,
    **interval: Any,
) -> Estimate:
    """RMS over the noise of ``||student(x0) - teacher(x0)||``, divided by a scale.

    With the default scale, a student that always returns the teacher's mean has the error 1.

    Parameters
    ----------
    student, teacher : KoopmanDistiller, FlowTeacher
        Models, or any objects with ``sample(x0=..., condition=...)``.
    noise : array, ``[N, *event]``
        Noise that neither model was trained with.
    condition : array, optional
        Labels ``[N]`` or vectors ``[N, dim]`` of conditional models.
    scale : float, optional
        Divisor of the error, above 0; by default the total standard deviation of the teacher's samples.
    **interval
        Options of the bootstrap over the noise: ``resamples`` (default 200), ``confidence`` (0.95) and
        ``seed`` (0).

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher
    >>> teacher = FlowTeacher.gaussian([0.0, 0.0], np.eye(2))
    >>> noise = np.random.default_rng(0).normal(size=(100, 2))
    >>> endpoint_error(teacher, teacher, noise).value
    0.0
    """
    noise, condition = plain_batch(noise, "noise"), as_condition(condition)
    ends = method_of("student", student, "sample")(x0=noise, condition=condition)
    wanted = method_of("teacher", teacher, "sample")(x0=noise, condition=condition)
    return bootstrapped(_core.endpoint_error(ends, wanted, _scale(scale, wanted)), **interval)


def path_error(
    student: Any,
    teacher: Any,
    noise: Array,
    *,
    times: Sequence[float] = PATH_TIMES,
    condition: Array | None = None,
    scale: float | None = None,
    **interval: Any,
) -> Estimate:
    """The error of :func:`endpoint_error` at times along the path, averaged over these times.

    The models need ``sample_path`` or ``trajectory``. ``times`` increase within (0, 1), and are fractions of
    the path in any model's units of time; by default 17 times in [0.1, 0.9].
    """
    noise, condition, times = plain_batch(noise, "noise"), as_condition(condition), as_times(times)
    if times[0] <= 0.0 or times[-1] >= 1.0:
        raise ArgumentError(f"times: expected rising times in (0, 1), got {times}")
    path = path_of("student", student, noise, [0.0, *times, 1.0], condition)
    wanted = path_of("teacher", teacher, noise, [0.0, *times, 1.0], condition)
    errors = _core.path_error(path[1:-1], wanted[1:-1], _scale(scale, wanted[-1]))
    return bootstrapped(errors, **interval)


def inversion_error(
    student: Any, teacher: Any, noise: Array, *, condition: Array | None = None, **interval: Any
) -> Estimate:
    """RMS of ``||invert(teacher(x0)) - x0||``, divided by the RMS norm of the noise.

    A student that always returns 0 has the error 1.
    For a teacher whose source is not noise, ``noise`` are samples of the source, and the divisor is their
    total standard deviation.

    The arguments are those of :func:`endpoint_error`. The student needs ``invert``.
    """
    noise, condition = plain_batch(noise, "noise"), as_condition(condition)
    ends = method_of("teacher", teacher, "sample")(x0=noise, condition=condition)
    recovered = method_of("student", student, "invert")(ends, condition=condition)
    return bootstrapped(recovery(recovered, noise, teacher), **interval)


def round_trip_error(
    student: Any, data: Array, *, condition: Array | None = None, scale: float | None = None, **interval: Any
) -> Estimate:
    """RMS of ``||student(invert(x)) - x||`` over data, divided by a scale.

    ``data``, ``[N, *event]``, are real data or a teacher's samples. The default scale is their total standard
    deviation. The other arguments are those of :func:`inversion_error`.
    """
    data, condition = plain_batch(data, "data"), as_condition(condition)
    noise = method_of("student", student, "invert")(data, condition=condition)
    again = student.sample(x0=noise, condition=condition)
    return bootstrapped(_core.round_trip_error(again, data, _scale(scale, data)), **interval)


def straightness(
    model: Any,
    noise: Array,
    *,
    times: Sequence[float] = STRAIGHTNESS_TIMES,
    condition: Array | None = None,
    **interval: Any,
) -> Estimate:
    """Relative deviation of paths from straight lines at constant speed (Liu et al., arXiv 2209.03003).

    S is the mean integral of ``||(x1 - x0) - dx/dt||^2`` over time, divided by the mean of ``||x1 - x0||^2``.
    It is 0 for straight paths, on which one Euler step is exact. Flows of an independent coupling always have
    curved paths.

    The model needs ``sample_path`` or ``trajectory``. ``times``, at least three (65 by default), increase
    from 0 to 1. Paths are taken as straight between two times; the error of this falls with the square of the
    time difference.
    """
    noise, times = plain_batch(noise, "noise"), as_times(times)
    path = path_of("model", model, noise, times, as_condition(condition))
    bend = _core.straightness(path, times)
    if np.isnan(bend.value):
        raise ArgumentError("model: expected paths that move, got none that does")
    return bootstrapped(bend, **interval)


def recovery(recovered: Array, start: Array, teacher: Any) -> _core.Statistic:
    """Errors of a student's recovered states of the source: see :func:`inversion_error`."""
    field = getattr(teacher, "field", None)
    if not isinstance(field, _core.VelocityField) or field.source.kind == "normal":
        return _core.inversion_error(recovered, start)
    return _core.endpoint_error(recovered, start, _core.total_std(start))


def path_of(name: str, model: Any, noise: Array, shares: Sequence[float], condition: Array | None) -> Array:
    """States ``[T, N, *event]`` of a model at fractions of its path, 0 to 1, for any units of time."""
    clock = clock_of(model)
    times = list(shares) if clock.is_unit else [clock.read(share) for share in shares]
    if hasattr(model, "sample_path"):
        return model.sample_path(noise, times=times, condition=condition)
    return method_of(name, model, "trajectory")(noise, times=times, condition=condition)


def _scale(scale: float | None, ends: Array) -> float:
    if scale is None and (scale := _core.total_std(ends)) == 0.0:
        raise ArgumentError("scale: expected samples that vary or a number above 0, got equal samples")
    return as_number(scale, "scale", "a finite number above 0", lambda number: 1e-150 < number < 1e150)
