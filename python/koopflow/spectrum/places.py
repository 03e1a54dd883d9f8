"""Places of modes in a selection, as they are indexed with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import to_numpy
from ..exceptions import ArgumentError, ShapeError


def chosen_places(key: int | slice | Sequence[int] | NDArray[Any], count: int) -> NDArray[np.int64]:
    """Places among ``count`` modes that an integer, a slice, a list of integers or a mask chooses.

    Raises ``IndexError``, ``ShapeError`` or ``ArgumentError`` for others.
    """
    every = np.arange(count)
    if isinstance(key, slice):
        return every[key]
    try:
        index = np.asarray(to_numpy(key))
    except (TypeError, ValueError, RuntimeError):
        index = np.empty(0, dtype=object)
    if index.dtype == bool and index.shape != (count,):
        raise ShapeError(f"modes: expected a mask of shape ({count},), got {index.shape}")
    if isinstance(key, list | tuple) and not key:
        index = index.astype(np.int64)
    if index.dtype.kind not in "iub" or index.ndim > 1:
        raise ArgumentError(f"modes: expected an integer, a slice, a list of integers or a mask, got {key!r}")
    if index.dtype != bool and not np.all((-count <= index) & (index < count)):
        error = ArgumentError if index.ndim else IndexError
        raise error(f"modes: expected places from {-count} to {count - 1}, got {key!r}")
    return np.atleast_1d(every[index])
