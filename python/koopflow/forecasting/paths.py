"""Observed sequences, given as an array of paths or as a list of paths of unequal lengths."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_batch, to_numpy
from ..exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError

Real = NDArray[np.float64]
EXAMPLE = "an array [N, T, *event], or a list of arrays [T, *event] of any lengths"


@dataclass(frozen=True, eq=False)
class Paths:
    """Paths whose rows are stored one path after the other.

    Attributes
    ----------
    values : array, ``[R, *event]``
        Rows of all paths; NaN where nothing was observed.
    lengths : list of int
        Number of rows of each path.
    times : array, ``[R]``
        Time of each row, increasing within a path.
    inputs : array, ``[R, u]``, optional
        Inputs from each row to the next.
    condition : array, ``[N, c]``, optional
        Numbers that describe each path.
    scalar : bool
        Whether rows were given as single numbers rather than as vectors of length one.
    """

    values: NDArray[Any]
    lengths: list[int]
    times: Real
    inputs: NDArray[Any] | None = None
    condition: NDArray[Any] | None = None
    scalar: bool = False

    @classmethod
    def of(
        cls,
        paths: Any,
        times: Any = None,
        *,
        mask: Any = None,
        inputs: Any = None,
        condition: NDArray[Any] | None = None,
        step: float = 1.0,
    ) -> Paths:
        """Checked paths, whose rows are ``step`` apart if ``times`` is None.

        Raises ``ShapeError``, ``DtypeError`` or ``ArgumentError``, naming the argument.
        """
        if isinstance(paths, Paths):
            return paths
        rows, scalar = _rows(paths)
        lengths = [len(path) for path in rows]
        # A copy, so that later changes of the user's array have no effect.
        values = np.concatenate(rows) if len(rows) > 1 else rows[0].copy()
        if scalar:
            values = values[:, None]
        if mask is not None:
            values = _hidden(values, mask, lengths)
        if inputs is not None:
            inputs = _beside(inputs, lengths, "inputs")
            inputs = inputs.reshape(len(values), -1)
        at = _times(times, lengths, step)
        return cls(values, lengths, at, inputs, _conditions(condition, lengths), scalar)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.values.shape[1:]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """First row of each path, followed by the number of rows, ``[N + 1]``."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def __iter__(self) -> Iterator[tuple[Real, NDArray[Any]]]:
        """Times ``[T]`` and rows ``[T, *event]`` of each path."""
        for first, last in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.times[first:last], self.values[first:last]

    @cached_property
    def core(self) -> _core.Observed:
        """The paths for the core, which copies them only once."""
        flat = self.values.reshape(len(self.values), math.prod(self.event_shape))
        return _core.Observed(
            flat, self.lengths, times=self.times, inputs=self.inputs, conditions=self.condition
        )


def _rows(paths: Any) -> tuple[list[NDArray[Any]], bool]:
    """Rows of every path, and whether they are single numbers."""
    if isinstance(paths, list | tuple):
        if not len(paths):
            raise ArgumentError(f"paths: expected {EXAMPLE}, got an empty list")
        rows = [_numbers(path, f"paths[{place}]") for place, path in enumerate(paths)]
        shapes = {path.shape[1:] for path in rows}
        if any(path.ndim < 1 for path in rows) or len(shapes) > 1:
            found = sorted({str(path.shape) for path in rows})[:4]
            raise ShapeError(f"paths: expected {EXAMPLE}, with events of one shape, got {', '.join(found)}")
        if any(len(path) == 0 for path in rows):
            raise ArgumentError("paths: expected at least one row in each path, got a path without rows")
        return rows, rows[0].ndim == 1
    whole = _numbers(paths, "paths")
    if whole.ndim < 3:
        remedy = {
            1: "[series] for one series",
            2: "x[None] for one path of vectors, or x[..., None] for paths of numbers",
        }
        raise ShapeError(
            f"paths: expected {EXAMPLE}, got shape {whole.shape}"
            + (f"; write {remedy[whole.ndim]}" if whole.ndim in remedy else "")
        )
    if 0 in whole.shape:
        raise ArgumentError(f"paths: expected at least one path, row and value, got shape {whole.shape}")
    count, length = whole.shape[:2]
    return [
        whole.reshape(count * length, *whole.shape[2:])[i * length : (i + 1) * length] for i in range(count)
    ], False


def _numbers(array: Array, argument: str) -> NDArray[Any]:
    if isinstance(array, np.ma.MaskedArray):
        raise DtypeError(f"{argument}: expected a plain array with mask= or NaN, got a masked array")
    if isinstance(array, torch.Tensor) and array.is_complex():
        raise DtypeError(f"{argument}: expected real numbers, got {array.dtype}")
    if isinstance(array, list | tuple):
        # Plain Python numbers become float64, like everything here.
        with contextlib.suppress(ValueError, TypeError):
            array = np.asarray(array, dtype=np.float64)
    plain = to_numpy(as_batch(array, argument))
    return plain if plain.dtype.kind == "f" else plain.astype(np.float64)


def _beside(given: Any, lengths: list[int], argument: str) -> NDArray[Any]:
    """Values for every row, ``[R, ...]``, given in the same form as paths."""
    if isinstance(given, list | tuple):
        parts = [np.asarray(to_numpy(part)) for part in given]
        if [len(part) for part in parts] != lengths:
            raise ShapeError(f"{argument}: expected one entry for each row of each path, as paths are given")
        return np.concatenate(parts)
    whole = np.asarray(to_numpy(given))
    equal = len(set(lengths)) == 1
    if not equal or whole.shape[:2] != (len(lengths), lengths[0]):
        expected = f"({len(lengths)}, {lengths[0]}, ...)" if equal else "a list, as paths are given"
        raise ShapeError(f"{argument}: expected {expected}, got shape {whole.shape}")
    return whole.reshape(sum(lengths), *whole.shape[2:])


def as_mask(mask: Any, argument: str = "mask") -> NDArray[np.bool_]:
    """A mask, True where something was observed. Raises ``DtypeError`` for anything but booleans, 0 and 1."""
    seen = np.asarray(to_numpy(mask))
    if seen.dtype.kind not in "biu" or not np.isin(seen, (0, 1)).all():
        raise DtypeError(f"{argument}: expected booleans, True for observed values, got {seen.dtype}")
    return seen.astype(bool)


def _hidden(values: NDArray[Any], mask: Any, lengths: list[int]) -> NDArray[Any]:
    """Rows with NaN where the mask is False."""
    seen = as_mask(_beside(mask, lengths, "mask"))
    if seen.ndim == 1 and values.ndim > 1:
        seen = seen.reshape(-1, *[1] * (values.ndim - 1))
    try:
        seen = np.broadcast_to(seen, values.shape)
    except ValueError as error:
        raise ShapeError(
            f"mask: expected the shape of the paths or of their rows, got {seen.shape}"
        ) from error
    return np.where(seen, values, np.nan)


def _times(times: Any, lengths: list[int], step: float) -> Real:
    if times is None:
        return step * np.concatenate([np.arange(length, dtype=np.float64) for length in lengths])
    if isinstance(times, list | tuple) and len(times) and np.ndim(times[0]) == 1:
        return _checked_times(_beside(times, lengths, "times"))
    shared = np.asarray(to_numpy(times))
    if shared.ndim == 1:
        if len(shared) < max(lengths) or (len(shared) > max(lengths)):
            raise ShapeError(
                f"times: expected the times of the longest path, ({max(lengths)},), or a list of times for "
                f"each path, got shape {shared.shape}"
            )
        return _checked_times(np.concatenate([shared[:length] for length in lengths]))
    return _checked_times(_beside(shared, lengths, "times"))


def _checked_times(times: NDArray[Any]) -> Real:
    if times.ndim != 1 or times.dtype.kind not in "iuf":
        raise ShapeError(f"times: expected numbers, [T], [N, T] or a list of [T], got {times.dtype}")
    if not np.isfinite(times).all():
        raise NonFiniteError("times: expected finite times, got NaN or infinite ones")
    return times.astype(np.float64)


def _conditions(condition: NDArray[Any] | None, lengths: list[int]) -> NDArray[Any] | None:
    if condition is None:
        return None
    if condition.ndim != 2 or len(condition) != len(lengths):
        raise ShapeError(
            f"condition: expected one row for each of {len(lengths)} paths, got {condition.shape}"
        )
    return condition


def as_lead_times(times: Sequence[float] | Array) -> Real:
    """Times ``[T]`` since the last row. Raises ``ArgumentError`` or ``ShapeError``."""
    array = np.atleast_1d(np.asarray(to_numpy(times)))
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iuf":
        raise ArgumentError(f"times: expected times since the last row such as [0.1, 0.2], got {times!r}")
    return array.astype(np.float64)
