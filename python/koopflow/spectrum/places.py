"""Selection of modes: positions, conditions and numbers of the first modes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .._arrays import as_number, as_numbers, checked_count, to_numpy
from ..exceptions import ArgumentError, ShapeError


class Rated(Protocol):
    """Modes with the values by which they are selected."""

    @property
    def energy(self) -> NDArray[np.float64]: ...
    @property
    def frequency(self) -> NDArray[np.float64]: ...
    @property
    def growth(self) -> NDArray[np.float64]: ...
    @property
    def residuals(self) -> NDArray[np.float64] | None: ...
    def paired(self, places: NDArray[np.int64]) -> NDArray[np.bool_]: ...


def chosen_places(
    key: int | slice | Sequence[int] | NDArray[Any], count: int, argument: str = "modes"
) -> NDArray[np.int64]:
    """Positions among ``count`` modes, chosen by an integer, a slice, a list of integers or a mask.

    Raises ``IndexError``, ``ShapeError`` or ``ArgumentError`` for an invalid key.
    """
    every = np.arange(count)
    if isinstance(key, slice):
        return every[key]
    try:
        index = np.asarray(to_numpy(key))
    except (TypeError, ValueError, RuntimeError):
        index = np.empty(0, dtype=object)
    if index.dtype == bool and index.shape != (count,):
        raise ShapeError(f"{argument}: expected a mask of shape ({count},), got {index.shape}")
    if isinstance(key, list | tuple) and not key:
        index = index.astype(np.int64)
    if index.dtype.kind not in "iub" or index.ndim > 1:
        raise ArgumentError(
            f"{argument}: expected an integer, a slice, a list of integers or a mask, got {key!r}"
        )
    if index.dtype != bool and not np.all((-count <= index) & (index < count)):
        error = ArgumentError if index.ndim else IndexError
        raise error(f"{argument}: expected places from {-count} to {count - 1}, got {key!r}")
    return np.atleast_1d(every[index])


def named_places(
    key: int | str | slice | Sequence[int | str] | NDArray[Any], names: Sequence[str], argument: str
) -> NDArray[np.int64]:
    """As :func:`chosen_places`, for objects that can also be chosen by name.

    Raises ``ArgumentError`` for a position or a name that does not exist.
    """
    if isinstance(key, str):
        key = [key]
    if isinstance(key, list | tuple):
        if unknown := [name for name in key if isinstance(name, str) and name not in names]:
            raise ArgumentError(f"{argument}: expected some of {list(names)}, got {unknown[0]!r}")
        key = [names.index(name) if isinstance(name, str) else name for name in key]
    try:
        return chosen_places(key, len(names), argument)  # type: ignore[arg-type]
    except IndexError as error:
        raise ArgumentError(str(error)) from None


def kept_by(
    modes: Rated,
    *,
    count: int | None,
    energy: float | None,
    frequency: tuple[float, float] | None,
    growth: tuple[float, float] | None,
    residual: float | None,
) -> NDArray[np.bool_]:
    """A mask of the modes that meet all given conditions: see :meth:`koopflow.Spectrum.select`."""
    size = len(modes.energy)
    keep = np.ones(size, dtype=bool)
    by_energy = np.argsort(-modes.energy, kind="stable")
    ranges = {"frequency": (np.abs(modes.frequency), frequency), "growth": (modes.growth, growth)}
    for name, (values, limits) in ranges.items():
        if limits is not None:
            low, *high = as_numbers(limits, name, "(0, 2)")
            if len(high) != 1 or not low <= high[0]:
                raise ArgumentError(f"{name}: expected two numbers, low and high, got {limits!r}")
            keep &= (values >= low) & (values < high[0])
    if residual is not None:
        if modes.residuals is None:
            raise ArgumentError(
                "residual: expected a spectrum made with a teacher, spectrum(teacher), got one without"
            )
        keep &= modes.residuals <= as_number(residual, "residual")
    if energy is not None:
        energy = as_number(energy, "energy", "a share in (0, 1]", lambda share: 0.0 < share <= 1.0)
        shares = np.cumsum(modes.energy[by_energy]) / max(modes.energy.sum(), 1e-300)
        keep &= modes.paired(by_energy[: int(np.searchsorted(shares, energy - 1e-12)) + 1])
    if count is not None:
        if (number := checked_count(count, "count")) > size:
            raise ArgumentError(f"count: expected at most {size}, got {count}")
        keep &= modes.paired(by_energy[:number])
    return keep


def truncation_counts(counts: Sequence[int] | None, most: int) -> list[int]:
    """Numbers of modes up to ``most``; by default 0 and about 24 more, geometrically spaced.

    Raises ``ArgumentError`` for anything but integers from 0 to ``most``.
    """
    if counts is None:
        grid = np.geomspace(1, most, min(24, most)) if most else np.empty(0)
        counts = [0, *np.unique(grid.round().astype(int)).tolist()]
    numbers = as_numbers(counts, "counts", "[0, 2, 8]")
    if not all(number in range(most + 1) for number in numbers):
        raise ArgumentError(f"counts: expected integers from 0 to {most}, got {counts!r}")
    return [int(number) for number in numbers]


def curve_of(
    samples: Callable[[int], NDArray[Any]], whole: NDArray[Any], counts: Sequence[int] | None, most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers of modes, ``[C]``, and the RMS difference of their ``samples`` from the ``whole``, ``[C]``.

    The difference is divided by its value without any mode.
    """

    def rms(difference: NDArray[Any]) -> float:
        return float(np.sqrt((difference.astype(np.float64) ** 2).mean()))

    numbers = truncation_counts(counts, most)
    scale = max(rms(samples(0) - whole), 1e-300)
    return np.asarray(numbers), np.asarray([rms(samples(number) - whole) / scale for number in numbers])
