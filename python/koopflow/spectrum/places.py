"""Which modes: places in a selection, and numbers of the first ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import as_numbers, to_numpy
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


def truncation_counts(counts: Sequence[int] | None, most: int) -> list[int]:
    """Numbers of modes up to ``most``, by default about 24, geometrically spaced, after none. Raises
    ``ArgumentError`` for anything but integers from 0 to ``most``."""
    if counts is None:
        grid = np.geomspace(1, most, min(24, most)) if most else np.empty(0)
        counts = [0, *np.unique(grid.round().astype(int)).tolist()]
    numbers = as_numbers(counts, "counts", "[0, 2, 8]")
    if not all(number in range(most + 1) for number in numbers):
        raise ArgumentError(f"counts: expected integers from 0 to {most}, got {counts!r}")
    return [int(number) for number in numbers]
