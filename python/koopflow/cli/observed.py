"""Observed sequences in files: arrays of NumPy, or a table of one path."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.arrays import contents
from ..exceptions import KoopflowError
from ..forecasting import KoopmanForecaster
from .options import UsageError

# Arrays of an .npz file. The first is required.
ARRAYS = ("paths", "times", "mask", "inputs", "condition")
CLOCKS = ("time", "t")
NOTHING = ("", "na", "nan", "null")
# Largest number of rows that a forecast from noisy observations filters.
FILTERED = 64
# One part in this number is held out, of the paths, or of the rows of a single path.
FIFTH = 5


@dataclass(frozen=True)
class Observed:
    """Paths ``[N, T, *event]`` with NaN for missing values, and the arrays that belong to them.

    ``times`` are ``[N, T]``. ``inputs``, ``[N, R, u]``, may extend beyond the paths. ``names`` are those of
    the coordinates of a row, if they have names.
    """

    rows: NDArray[Any]
    times: NDArray[np.float64]
    inputs: NDArray[Any] | None = None
    condition: NDArray[Any] | None = None
    names: list[str] | None = None

    @classmethod
    def of(cls, path: Path, ahead: int) -> Observed:
        """The paths of a file. Raises ``UsageError`` for a file that is not valid."""
        if path.suffix not in (".npy", ".npz", ".csv"):
            raise UsageError(f"paths: expected a file that ends in .npy, .npz, .csv, got {str(path)!r}")
        try:
            found = _of_table(path) if path.suffix == ".csv" else _of_arrays(path, contents(path))
        except (KoopflowError, OSError) as error:
            raise UsageError(f"paths: cannot read {path}: {error}") from error
        if not np.isfinite(found._flat).any(axis=(1, 2)).all():
            raise UsageError(f"paths: expected every path in {path} to have finite values, got one with none")
        length, known = found.rows.shape[1], found.inputs
        if known is not None and ahead and known.shape[1] < (wanted := int(found.ends.max()) + ahead):
            raise UsageError(
                f"paths: expected inputs of {wanted} rows or more in {path}, for {ahead} steps beyond the "
                f"{length} of the paths, got {known.shape[1]} (--ahead 0 forecasts nothing)"
            )
        return found

    @property
    def paths(self) -> Any:
        """The paths in the form that ``fit`` and ``evaluate`` take."""
        return list(self.rows) if self.rows.ndim == 2 else self.rows

    @property
    def size(self) -> int:
        """Number of coordinates of a row."""
        return math.prod(self.rows.shape[2:])

    @property
    def _flat(self) -> NDArray[Any]:
        return self.rows.reshape(*self.rows.shape[:2], -1)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Index of the last row of each path that has an observed value."""
        seen = np.isfinite(self._flat).any(axis=2)
        return np.asarray(seen.shape[1] - 1 - np.argmax(seen[:, ::-1], axis=1), dtype=np.int64)

    def longest_run(self) -> int:
        """The largest number of consecutive rows without missing values."""
        longest = 0
        for whole in np.isfinite(self._flat).all(axis=2):
            edges = np.flatnonzero(np.diff(np.concatenate([[False], whole, [False]])))
            longest = max([longest, *(edges[1::2] - edges[::2]).tolist()])
        return longest

    def end_time(self, path: int) -> float:
        return float(self.times[path, self.ends[path]])

    def name_of(self, place: int) -> str:
        """The name of a coordinate of the first path."""
        name = "the series" if self.rows.ndim == 2 else f"coordinate {place}"
        name = self.names[place] if self.names is not None else name
        return name if len(self.rows) == 1 else f"{name} of the first of {len(self.rows)} paths"

    def beside(self) -> dict[str, Any]:
        """The other keywords of ``fit`` and ``evaluate``."""
        inputs = None if self.inputs is None else self.inputs[:, : self.rows.shape[1]]
        return {"inputs": inputs, "condition": self.condition}

    def split(self) -> tuple[Observed, Observed]:
        """All but the last fifth of the paths, and that fifth. A single path is split by rows."""
        count, length = self.rows.shape[:2]
        if count > 1:
            kept = count - max(1, count // FIFTH)
            return self._part(slice(kept), slice(None)), self._part(slice(kept, None), slice(None))
        kept = length - max(1, length // FIFTH)
        return self._part(slice(None), slice(kept)), self._part(slice(None), slice(kept, None))

    def _part(self, paths: slice, rows: slice) -> Observed:
        inputs = None if self.inputs is None else self.inputs[paths, rows]
        condition = None if self.condition is None else self.condition[paths]
        return Observed(self.rows[paths, rows], self.times[paths, rows], inputs, condition, self.names)

    def beginnings(self, model: KoopmanForecaster) -> NDArray[Any]:
        """The last rows of each path, ``[N, H, *event]``, one step apart.

        If rows are noisy or incomplete, there are more of them than the model's history, and the model
        filters them.
        """
        history, step = model.history, model.step_
        back = [(self.times[i, end] - self.times[i, : end + 1]) / step for i, end in enumerate(self.ends)]
        on_grid = all(bool((np.abs(steps - np.rint(steps)) < 1e-2).all()) for steps in back)
        if not on_grid:
            return np.stack([self.rows[i, : end + 1][-history:] for i, end in enumerate(self.ends)])
        count = history
        if self.inputs is None and (model.noise_ > 0 or self._gaps(back, history)):
            count = max(history, min(FILTERED, 1 + max(int(np.rint(steps[0])) for steps in back)))
        found = np.full((len(self.rows), count, *self.rows.shape[2:]), np.nan)
        for i, steps in enumerate(back):
            places = np.rint(steps).astype(int)
            near = places < count
            found[i, count - 1 - places[near]] = self.rows[i, : len(steps)][near]
        return found

    def _gaps(self, back: list[NDArray[Any]], history: int) -> bool:
        """Whether the last rows have missing values."""
        for i, steps in enumerate(back):
            near = np.rint(steps) < history
            if near.sum() < history or not np.isfinite(self._flat[i, : len(steps)][near]).all():
                return True
        return False

    def inputs_ahead(self, ahead: int) -> NDArray[Any] | None:
        """The inputs in each step of a forecast, ``[N, ahead, u]``."""
        if self.inputs is None:
            return None
        return np.stack([rows[end : end + ahead] for rows, end in zip(self.inputs, self.ends, strict=True)])


def _of_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> Observed:
    """Paths of an .npy or .npz file."""
    if path.suffix == ".npz":
        unknown = [name for name in arrays if name not in ARRAYS]
        if "paths" not in arrays or unknown:
            wanted, got = f"arrays named paths and optionally {', '.join(ARRAYS[1:])}", ", ".join(arrays)
            raise UsageError(f"paths: {path}: expected {wanted}, got {got or 'none'}")
        for name, array in arrays.items():
            if array.dtype.kind not in "fiub":
                raise UsageError(f"paths: {path}: expected numbers as {name}, got {array.dtype}")
    given = np.asarray(arrays.get("paths", next(iter(arrays.values()))))
    if given.dtype.kind not in "fiub" or given.ndim == 0 or given.size == 0:
        expected = "numbers [N, T, *event], [T, d] or [T]"
        raise UsageError(f"paths: {path}: expected {expected}, got {given.dtype} of shape {given.shape}")
    rows = given if given.dtype.kind == "f" else given.astype(np.float64)
    rows = rows if rows.ndim > 2 else rows[None]
    shape = rows.shape[:2]

    def lifted(name: str, *shapes: tuple[int, ...]) -> NDArray[Any] | None:
        """An array in one of these shapes. For a single path the axis of paths is added if it is missing."""
        array = arrays.get(name)
        if array is not None and given.ndim <= 2 and (1, *array.shape) in shapes:
            array = array[None]
        if array is not None and array.shape not in shapes:
            raise UsageError(f"paths: {path}: expected {name} of shape {shapes[0]}, got {array.shape}")
        return array

    mask = lifted("mask", rows.shape, shape)
    if mask is not None:
        if not np.isin(mask, (0, 1)).all():
            raise UsageError(f"paths: {path}: expected a mask of True where something was seen")
        seen = mask.reshape(*mask.shape, *[1] * (rows.ndim - mask.ndim)).astype(bool)
        rows = np.where(seen, rows, np.nan)
    times = lifted("times", shape, shape[1:])
    inputs = arrays.get("inputs")
    if inputs is not None:
        inputs = inputs[None] if given.ndim <= 2 and inputs.ndim == 2 else inputs
        if inputs.ndim != 3 or len(inputs) != shape[0] or inputs.shape[1] < shape[1]:
            wanted = f"({shape[0]}, {shape[1]} or more, u)"
            raise UsageError(f"paths: {path}: expected inputs of shape {wanted}, got {inputs.shape}")
    return Observed(rows, _times(times, shape, path), inputs, arrays.get("condition"))


def _times(times: NDArray[Any] | None, shape: tuple[int, ...], path: Path) -> NDArray[np.float64]:
    """Times of all rows, by default 0, 1, 2, ... They must be finite and increasing."""
    if times is None:
        times = np.arange(shape[1])
    found: NDArray[np.float64] = np.array(np.broadcast_to(times, shape), dtype=np.float64)
    if not (np.isfinite(found).all() and (np.diff(found, axis=1) > 0).all()):
        raise UsageError(f"paths: {path}: expected times that are finite and increase")
    return found


def _of_table(path: Path) -> Observed:
    """One path from a table with a header: a column for each coordinate, and optionally one of times."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines)
            names = [name.strip() for name in next(reader, [])]
            body = [(reader.line_num, cells) for cells in reader if cells]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"paths: {path} is not a table of comma-separated values: {error}") from error
    if not body or any(_number(name) is not None for name in names):
        raise UsageError(f"paths: {path}: expected a header of names and rows of numbers below it")
    values = np.empty((len(body), len(names)))
    for row, (line, cells) in zip(values, body, strict=True):
        if len(cells) != len(names):
            raise UsageError(f"paths: {path}, line {line}: expected {len(names)} cells, got {len(cells)}")
        for place, cell in enumerate(cells):
            number = _number(cell)
            if number is None:
                column = f"line {line}, column {names[place]!r}"
                raise UsageError(f"paths: {path}, {column}: expected a number, got {cell!r}")
            row[place] = number
    clock = next((place for place, name in enumerate(names) if name.lower() in CLOCKS), None)
    own = [place for place in range(len(names)) if place != clock]
    if not own:
        raise UsageError(f"paths: {path}: expected a column besides that of times, got none")
    rows = values[None, :, own] if len(own) > 1 else values[None, :, own[0]]
    times = _times(None if clock is None else values[:, clock], rows.shape[:2], path)
    return Observed(rows, times, names=[names[place] for place in own])


def _number(cell: str) -> float | None:
    """The number in a cell, NaN for an empty one, or None for text."""
    if cell.strip().lower() in NOTHING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return None
