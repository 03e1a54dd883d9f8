"""Arguments that all rooms take: arrays of NumPy or torch, numbers of samples, seeds and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from . import _core
from .exceptions import ArgumentError, ShapeError

# Outputs follow the kind of the input, which the type system cannot say without overloading every method.
Array: TypeAlias = Any


def to_numpy(array: Array) -> NDArray[Any]:
    """A NumPy view or copy of an array of either kind."""
    if isinstance(array, torch.Tensor):
        return array.detach().cpu().numpy()
    return np.asarray(array)


def as_batch(array: Array) -> Array:
    """Torch tensors as they are, anything else as a NumPy array; bare Python numbers become float32.

    Lists come in as float64, which nobody meant by writing ``[[0, 1]]``. Raises ``ShapeError`` for rows of
    different lengths.
    """
    if isinstance(array, torch.Tensor | np.ndarray):
        return array
    try:
        converted = np.asarray(array)
    except ValueError as error:
        raise ShapeError(f"expected an array, got rows of different lengths ({error})") from error
    return converted.astype(np.float32) if converted.dtype.kind in "fiub" else converted


def as_condition(condition: Array | None) -> Array | None:
    """Labels and vectors as an array; torch tensors and None as they are."""
    return condition if condition is None or isinstance(condition, torch.Tensor) else np.asarray(condition)


def kept(array: Array | None) -> Array | None:
    """A copy that later changes of the array do not reach; files that are mapped read-only as they are."""
    if isinstance(array, torch.Tensor):
        return array.detach().clone()
    if array is None or (isinstance(array, np.memmap) and array.mode == "r"):
        return array
    return np.array(array)


def checked_count(n: object) -> int:
    """A number of samples. Raises ``ArgumentError`` for anything but a positive integer."""
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
        raise ArgumentError(f"n: expected an integer of at least 1, got {n!r}")
    return int(n)


def checked_seed(seed: object) -> int:
    """A random seed. Raises ``ArgumentError`` for anything but an integer from 0 to 2**64 - 1."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ArgumentError(f"seed: expected an integer from 0 to 2**64 - 1, got {seed!r}")
    return int(seed)


def noise_or(x0: Array | None, n: int | None, event_shape: Sequence[int], seed: int) -> Array:
    """The given states, or ``n`` fresh draws of noise. Raises ``ArgumentError`` for both or neither."""
    if (x0 is None) == (n is None):
        raise ArgumentError(f"expected one of n and x0, got {'neither' if n is None else 'both'}")
    if x0 is not None:
        return as_batch(x0)
    return _core.normal((checked_count(n), *event_shape), checked_seed(seed))


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


def method_of(name: str, model: Any, method: str) -> Any:
    """A method of a model that was passed as the argument ``name``. Raises ``TypeError`` without one."""
    found = getattr(model, method, None)
    if not callable(found):
        raise TypeError(f"{name}: expected a model with a method {method}, got {type(model).__name__}")
    return found
