"""Checks of common arguments: arrays of NumPy or torch, numbers of samples, seeds, shapes and paths."""

from __future__ import annotations

import math
import operator
import os
import secrets
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from . import _core
from ._batches import Array as Array
from ._batches import as_batch as as_batch
from ._batches import as_condition as as_condition
from ._batches import kept as kept
from ._batches import to_numpy as to_numpy
from .exceptions import ArgumentError, ShapeError

StrOrBytesPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def checked_count(n: object, argument: str = "n") -> int:
    """A count, as an int. Raises ``ArgumentError`` for anything but an integer from 1 to 2**63 - 1."""
    return as_integer(n, argument, least=1)


def as_integer(value: object, argument: str, *, least: int | None = None, most: int | None = None) -> int:
    """An integer of Python, NumPy or torch, within a range if one is given. Raises ``ArgumentError`` for
    anything else."""
    low, high = -(2**63) if least is None else least, 2**63 - 1 if most is None else most
    if (number := _index(value)) is None or not low <= number <= high:
        within = "" if least is None else f" of at least {least}"
        within = f" from {low} to {high}" if most is not None or (number or 0) > high else within
        raise ArgumentError(f"{argument}: expected an integer{within}, got {value!r}")
    return number


def as_flag(value: object, argument: str) -> bool:
    """A boolean of Python or NumPy. Raises ``ArgumentError`` for anything else."""
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"{argument}: expected True or False, got {value!r}")
    return bool(value)


def as_seed(seed: object, argument: str = "seed") -> int:
    """A random seed; None draws one from the system's entropy. Raises ``ArgumentError`` for anything but None
    and integers from 0 to 2**64 - 1."""
    if seed is None:
        return secrets.randbits(62)
    if (value := _index(seed)) is None or not 0 <= value < 2**64:
        raise ArgumentError(f"{argument}: expected an integer from 0 to 2**64 - 1 or None, got {seed!r}")
    return value


def _index(value: Any) -> int | None:
    """An integer of Python, NumPy or torch; None for anything else, booleans too."""
    try:
        return None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        return None


def as_states(array: Array, argument: str = "x") -> Array:
    """A batch of states. Warns of tensors that require gradients, since results here never have any."""
    array = as_batch(array, argument)
    if isinstance(array, torch.Tensor) and array.requires_grad and torch.is_grad_enabled():
        text = "expected a tensor without gradients, since results have none: use the module that to_torch() "
        text += "makes for gradients, or detach() to silence this warning"
        warnings.warn(f"{argument}: {text}", UserWarning, stacklevel=3)
    return array


def starts_or(
    x0: Array | None,
    n: int | None,
    model: _core.VelocityField | _core.Student | _core.Segments,
    seed: int | None,
    condition: Array | None = None,
) -> Array:
    """The given states, or ``n`` new draws from the source of a flow.

    Raises ``ArgumentError`` for both or neither.
    """
    if (x0 is None) == (n is None):
        raise ArgumentError(f"expected one of n and x0, got {'neither' if n is None else 'both'}")
    if x0 is not None:
        return as_states(x0, "x0")
    source = model.source
    # Only sources of other kinds depend on the condition.
    given = None if source.kind in ("normal", "rows") else as_condition(condition)
    return source.draw(checked_count(n), as_seed(seed), condition=given)


def as_samples(array: Array, argument: str) -> Array:
    """A batch ``[N, *event]``. Raises ``ShapeError`` for an array without a batch axis."""
    batch = as_batch(array, argument)
    if batch.ndim < 2:
        raise ShapeError(f"{argument}: expected (N, *event), got {tuple(batch.shape)}")
    return batch


def as_number(
    value: Any,
    argument: str,
    expected: str = "a finite number",
    fits: Callable[[float], bool] = math.isfinite,
) -> float:
    """A number of Python, NumPy or torch, as a float.

    Raises ``ArgumentError`` for anything else, and for a number for which ``fits`` is false.
    """
    try:
        array = to_numpy(value)
    except (TypeError, ValueError, RuntimeError):
        array = np.empty(0)
    number = float(array) if array.ndim == 0 and array.dtype.kind in "iuf" else math.nan
    if not fits(number):
        raise ArgumentError(f"{argument}: expected {expected}, got {value!r}")
    return number


def as_numbers(values: Array, argument: str, example: str) -> list[float]:
    """An array or sequence ``[T]`` as numbers. Raises ``ArgumentError`` for anything else."""
    try:
        numbers = to_numpy(values)
    except (TypeError, ValueError, RuntimeError):
        numbers = np.empty((0, 0))
    if numbers.ndim != 1 or numbers.size == 0 or numbers.dtype.kind not in "iuf":
        raise ArgumentError(f"{argument}: expected a sequence of numbers such as {example}, got {values!r}")
    return [float(number) for number in numbers]


def as_times(times: Array, argument: str = "times", *, extrapolate: bool = False) -> list[float]:
    """The times of a path, an array or sequence ``[T]``, as numbers.

    Raises ``ArgumentError`` for anything else, and for times outside [0, 1] unless ``extrapolate`` is set.
    """
    numbers = as_numbers(times, argument, "[0, 0.5, 1]")
    _check_range(np.asarray(numbers), argument, extrapolate=extrapolate)
    return numbers


def as_grid(grid: Any, argument: str = "grid") -> str | list[float] | None:
    """The grid of fixed steps: a name that the core knows, or rising times.

    Raises ``ArgumentError`` for anything else.
    """
    if grid is None or isinstance(grid, str):
        return grid
    return as_numbers(grid, argument, "[0, 0.5, 1], or 'uniform', 'tau' or 'log_snr'")


def times_for(t: Array | float, x: Array, argument: str = "t", *, extrapolate: bool = False) -> Array:
    """The time of each sample ``[B]`` as an array. A number, or an array of no axes, is used for all samples.

    Raises ``ArgumentError`` for anything else, and for times outside [0, 1] unless ``extrapolate`` is set.
    """
    try:
        array = t if isinstance(t, torch.Tensor) else np.asarray(t)
    except ValueError:
        array = np.empty((0, 0))
    numeric = isinstance(array, torch.Tensor) or array.dtype.kind in "iuf"
    if not numeric or array.ndim > 1:
        raise ArgumentError(f"{argument}: expected a number or one time for each sample, got {t!r}")
    _check_range(array, argument, extrapolate=extrapolate)
    return array if array.ndim else np.full(x.shape[:1], float(array))


def _check_range(times: Array, argument: str, *, extrapolate: bool) -> None:
    # Rounded sums of steps may end slightly beyond 1.
    outside = times[~(abs(times - 0.5) <= 0.5 + 1e-6)]
    if len(outside) and not extrapolate:
        raise ArgumentError(f"{argument}: expected times in [0, 1], got {float(outside[0]):g}")


def checked_event_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of one sample as a tuple. Raises ``ShapeError`` for anything but positive integers."""
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if not sizes or not all(isinstance(s, int | np.integer) and s >= 1 for s in sizes):
        raise ShapeError(
            f"event_shape: expected positive integers such as (2,) or (1, 28, 28), got {shape!r}"
        )
    plain = tuple(int(s) for s in sizes)
    # The same object if nothing changes, as scikit-learn's clone requires.
    return shape if isinstance(shape, tuple) and plain == shape else plain


def as_path(path: StrOrBytesPath, argument: str = "path") -> str:
    """A path as text. Raises ``ArgumentError`` for anything that is not a path."""
    try:
        text = os.fsdecode(path)
    except TypeError:
        text = "\0"
    if not text or "\0" in text:
        raise ArgumentError(f"{argument}: expected a path, got {path!r}")
    return text


def method_of(name: str, model: Any, method: str) -> Any:
    """A method of a model that was passed as the argument ``name``. Raises ``TypeError`` without one."""
    found = getattr(model, method, None)
    if not callable(found):
        raise TypeError(f"{name}: expected a model with a method {method}, got {type(model).__name__}")
    return found
