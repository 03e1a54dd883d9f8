"""The little that the package needs to treat NumPy arrays and torch tensors alike."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .exceptions import ArgumentError

# Outputs follow the kind of the input, which the type system cannot say without overloading every method.
Array: TypeAlias = Any


def to_numpy(array: Array) -> NDArray[Any]:
    """A NumPy view or copy of an array of either kind."""
    if isinstance(array, torch.Tensor):
        return array.detach().cpu().numpy()
    return np.asarray(array)


def as_batch(array: Array) -> Array:
    """Torch tensors as they are, anything else as a NumPy array; bare Python numbers become float32.

    Lists come in as float64, which nobody meant by writing ``[[0, 1]]``.
    """
    if isinstance(array, torch.Tensor | np.ndarray):
        return array
    converted = np.asarray(array)
    return converted.astype(np.float32) if converted.dtype.kind in "fiub" else converted


def as_condition(condition: Array | None) -> Array | None:
    """Labels and vectors as an array; torch tensors and None as they are."""
    return condition if condition is None or isinstance(condition, torch.Tensor) else np.asarray(condition)


def checked_count(n: object) -> int:
    """A number of samples. Raises ``ArgumentError`` for anything but a positive integer."""
    if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
        raise ArgumentError(f"n: expected an integer of at least 1, got {n!r}")
    return int(n)


def method_of(name: str, model: Any, method: str) -> Any:
    """A method of a model that was passed as the argument ``name``. Raises ``TypeError`` without one."""
    found = getattr(model, method, None)
    if not callable(found):
        raise TypeError(f"{name}: expected a model with a method {method}, got {type(model).__name__}")
    return found
