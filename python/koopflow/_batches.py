"""Conversion of users' data: arrays of any library, frames, data sets, loaders and other batches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .exceptions import ArgumentError, DtypeError, ShapeError

# Outputs have the kind of the input. The type system could express that only by overloads of every method.
Array: TypeAlias = Any

# Reading of a portion of a stream ends at the first of these limits.
MOST_ROWS, MOST_BYTES = 65_536, 256 * 2**20
# Batch size for sources that do not come in batches.
BATCH = 1024


def to_numpy(array: Array) -> NDArray[Any]:
    """A NumPy view or copy of an array of either kind."""
    if isinstance(array, torch.Tensor):
        plain = array.float() if array.dtype == torch.bfloat16 else array
        return plain.numpy(force=True)
    return np.asarray(array)


def as_batch(array: Array, argument: str = "") -> Array:
    """Data as an array.

    Torch tensors and NumPy arrays are returned unchanged, numeric frames as arrays, and of a stream its first
    portion. Plain Python numbers become float32. Raises ``ShapeError`` for rows of different lengths.
    Raises ``DtypeError`` for anything that is not a dense array of numbers (masked and sparse arrays, text,
    objects, mappings, paths); the message suggests what to pass instead.
    """
    said = f"{argument}: " if argument else ""
    if isinstance(array, torch.Tensor | np.ndarray):
        if remedy := _remedy(array):
            raise DtypeError(f"{said}expected a dense array of numbers, got {remedy}")
        return array
    if _is_frame(array):
        return _of_frame(array, said)
    stream = Stream.of(array, argument)
    if stream is not None:
        return stream.sample()[0]
    if remedy := _remedy(array):
        raise DtypeError(f"{said}expected an array of numbers, got {remedy}")
    if isinstance(array, Sequence):
        array = [to_numpy(row) if isinstance(row, torch.Tensor) else row for row in array]
    try:
        converted = np.asarray(array)
    except ValueError as error:
        raise ShapeError(f"{said}expected an array, got rows of different lengths ({error})") from error
    if converted.dtype.kind not in "fiub":
        got = type(array).__name__ if converted.ndim == 0 else f"{type(array).__name__} of {converted.dtype}"
        raise DtypeError(f"{said}expected an array of numbers, got {got}")
    return converted.astype(np.float32)


def as_condition(condition: Array | None) -> Array | None:
    """Labels or vectors as an array; torch tensors and None unchanged. Raises as :func:`as_batch` does."""
    if condition is None:
        return None
    if _is_frame(condition):
        return _of_frame(condition, "condition: ")
    try:
        array = condition if isinstance(condition, torch.Tensor) else np.asanyarray(condition)
    except ValueError as error:
        raise ShapeError(f"condition: expected an array, got rows of different lengths ({error})") from error
    if remedy := _remedy(condition) or _remedy(array):
        raise DtypeError(f"condition: expected labels or vectors, got {remedy}")
    return array


def with_condition(
    data: Array, condition: Array | None, event_shape: Sequence[int], *, conditional: bool
) -> tuple[Array, Array | None]:
    """Data (of a stream, its first portion) and the given condition, or else the stream's own."""
    stream = Stream.of(data, "data", event_shape)
    if stream is None:
        return as_batch(data, "data"), as_condition(condition)
    samples, brought = stream.sample()
    return samples, as_condition(condition) if condition is not None or not conditional else brought


def kept(array: Array | None) -> Array | None:
    """A copy that is independent of the array. Files mapped read-only are not copied."""
    if isinstance(array, torch.Tensor):
        return array.detach().clone()
    if array is None or (isinstance(array, np.memmap) and array.mode == "r"):
        return array
    return np.array(array)


def _remedy(given: Any) -> str | None:
    """A description of what must not be read as an array of numbers, with what to pass instead; else None."""
    kind = type(given).__name__
    if isinstance(given, np.ma.MaskedArray):
        return "a masked array: .filled(value), or rows without a mask, would do"
    if isinstance(given, torch.Tensor):
        return None if given.layout == torch.strided else "a sparse tensor: .to_dense() would do"
    if isinstance(given, np.ndarray) and given.dtype.kind == "O":
        return "an array of Python objects: numpy.stack, or .astype(float), would do"
    if isinstance(given, np.ndarray) and given.dtype.kind not in "fiub":
        return f"an array of {given.dtype}"
    if hasattr(given, "toarray"):
        return f"a sparse {kind}: .toarray() would do"
    if isinstance(given, Mapping):
        return (
            f"a {kind} with {', '.join(map(repr, list(given)[:4])) or 'nothing'}: one of its arrays would do"
        )
    if isinstance(given, str | bytes | PathLike):
        return f"{given!r}: koopflow.datasets.images(path), or numpy.load(path), reads files"
    return None


def _is_frame(given: Any) -> bool:
    """Whether something is a table or column of pandas or polars; neither needs to be installed."""
    return type(given).__module__.partition(".")[0] in ("pandas", "polars") and hasattr(given, "to_numpy")


def _of_frame(frame: Any, said: str) -> NDArray[Any]:
    """The numbers of a table or column; missing values become NaN."""
    dtypes = (
        dict(zip(frame.columns, frame.dtypes, strict=True))
        if hasattr(frame, "columns")
        else {"": frame.dtype}
    )
    for name, dtype in dtypes.items():
        if hasattr(dtype, "is_numeric"):
            numeric = dtype.is_numeric() or str(dtype) == "Boolean"
        else:
            numeric = dtype.kind in "fiub"
        if not numeric:
            got = f"a column of {dtype}" if name == "" else f"column {name!r} of {dtype}"
            raise DtypeError(f"{said}expected numbers, got {got}: integer codes or one-hot columns would do")
    values = frame.to_numpy()
    if values.dtype.kind == "O":
        # The frame has nullable columns, or booleans next to numbers.
        polars = hasattr(frame, "cast")
        values = frame.cast(float).to_numpy() if polars else frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.asarray(values)


class Stream:
    """Samples in batches, with or without conditions, that are read in portions of bounded size.

    ``batches`` are arrays ``[B, *event]``, or pairs of such an array and the conditions of its rows.
    """

    def __init__(self, batches: Iterable[Any], argument: str) -> None:
        self._batches, self._said = batches, f"{argument}: " if argument else ""
        self._rest: Iterator[Any] = iter(batches)
        # The next batch; None at the end.
        self._next = next(self._rest, None)
        self.ended = self._next is None
        # Whether conditions are used. Many loaders yield labels that an unconditional model does not need.
        self.conditional = True
        # Labels read so far.
        self.labels: set[int] = set()

    @classmethod
    def of(cls, given: Any, argument: str, event_shape: Sequence[int] | None = None) -> Stream | None:
        """A stream for data that come in batches; None for anything else.

        A sequence is a stream if its first item is a batch of samples of ``event_shape``.
        """
        if isinstance(given, IterableDataset):
            given = DataLoader(given, BATCH)
        elif isinstance(given, Dataset):
            if not hasattr(given, "__len__"):
                raise ArgumentError(
                    f"{argument or 'data'}: expected a data set with a length, got one without"
                )
            given = DataLoader(given, BATCH, shuffle=True, generator=torch.Generator().manual_seed(0))
        if isinstance(given, Sequence):
            first = given[0] if len(given) else None
            samples = first[0] if isinstance(first, list | tuple) and first else first
            shape = tuple(getattr(samples, "shape", ()))
            if event_shape is None or len(shape) < 2 or shape[1:] != tuple(event_shape):
                return None
        elif not isinstance(given, Iterable) or isinstance(given, Mapping) or _is_array(given):
            return None
        return cls(given, argument)

    def __call__(self) -> tuple[Array, Array | None]:
        """The next portion, which ends at the end of a pass at the latest; then another pass begins."""
        if self.ended:
            self._rest = iter(self._batches)
            self._next = next(self._rest, None)
        samples: list[Array] = []
        conditions: list[Array] = []
        rows, size = 0, 0
        while self._next is not None and rows < MOST_ROWS and size < MOST_BYTES:
            x, condition = self._parts(self._next)
            samples.append(x)
            if condition is not None:
                conditions.append(condition)
            rows, size = rows + len(x), size + x.nbytes
            self._next = next(self._rest, None)
        self.ended = self._next is None
        if rows == 0:
            raise ArgumentError(f"{self._said}expected batches of samples, got none")
        if conditions and len(conditions) < len(samples):
            raise ArgumentError(
                f"{self._said}expected conditions with all batches or with none, got only some"
            )
        if not conditions:
            return self._joined(samples), None
        condition = self._joined(conditions)
        if len(condition.shape) == 1:
            self.labels |= set(np.unique(to_numpy(condition)).tolist())
        return self._joined(samples), condition

    def sample(self) -> tuple[Array, Array | None]:
        """The first portion, with a warning if there are more."""
        found = self()
        if not self.ended:
            words = f"{self._said}only the first {len(found[0]):,} samples of the stream are used"
            warnings.warn(words, UserWarning, stacklevel=4)
        return found

    def rest(self) -> Stream | None:
        """The stream itself, or None if the first portion was all of it."""
        if self.ended:
            return None
        if isinstance(self._batches, Iterator):
            raise ArgumentError(
                f"{self._said}expected batches that can be read again, such as those of a DataLoader, "
                f"for more than {MOST_ROWS:,} samples or {MOST_BYTES >> 20} MiB, got a "
                f"{type(self._batches).__name__}"
            )
        return self

    def _parts(self, batch: Any) -> tuple[Array, Array | None]:
        parts = batch if isinstance(batch, list | tuple) and all(map(_is_array, batch)) else [batch]
        if len(parts) not in (1, 2):
            raise ArgumentError(f"{self._said}expected batches x or (x, condition), got {len(parts)} parts")
        if isinstance(parts[0], Mapping):
            keys = ", ".join(map(repr, parts[0]))
            raise DtypeError(f"{self._said}expected batches x or (x, condition), got a mapping of {keys}")
        x = as_batch(parts[0], self._said.removesuffix(": "))
        if len(x.shape) < 2:
            raise ShapeError(f"{self._said}expected arrays (B, *event) as batches, got {tuple(x.shape)}")
        condition = as_condition(parts[1]) if len(parts) == 2 and self.conditional else None
        if condition is not None and len(condition) != len(x):
            raise ShapeError(
                f"{self._said}expected {len(x)} conditions with {len(x)} samples, got {len(condition)}"
            )
        return x, condition

    def _joined(self, parts: list[Array]) -> Array:
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise ShapeError(f"{self._said}expected batches of one event shape, got {sorted(shapes)}")
        if all(isinstance(part, torch.Tensor) for part in parts):
            return torch.cat([part.detach() for part in parts])
        return np.concatenate([to_numpy(part) for part in parts])


def _is_array(given: Any) -> bool:
    return hasattr(given, "shape") or hasattr(given, "__array__")


class Rows:
    """Batches of a mapped file, with the condition of its rows, in a new order in every pass."""

    def __init__(self, data: Array, condition: Array | None) -> None:
        self._arrays = [data] if condition is None else [data, as_condition(condition)]
        if len(self._arrays[-1]) != len(data):
            got = f"got {len(self._arrays[-1])}"
            raise ShapeError(f"condition: expected a row for each of {len(data)} samples, {got}")
        self._random = np.random.default_rng(0)

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        order = self._random.permutation(len(self._arrays[0]))
        for start in range(0, len(order), BATCH):
            # Rows in the order of the file are faster to read.
            rows = np.sort(order[start : start + BATCH])
            yield tuple(array[rows] for array in self._arrays)
