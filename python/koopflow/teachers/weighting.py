"""Weighted data: each row as often as its weight says."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array, to_numpy
from ..exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError

MORE, ENOUGH = 4, 65_536  # Times as many rows, up to so many, lest rounding decide how often each is seen.


def weighted_rows(weights: Array, seed: int, data: Array, *others: Array | None) -> list[Any]:
    """Rows of data ``[N, ...]`` and of what goes with them, by weights ``[N]`` that need not add up to 1.

    Systematic draws, in the order of the rows. Raises ``ShapeError``, ``NonFiniteError`` or ``ArgumentError``
    naming ``weights``.
    """
    given, count = np.asarray(to_numpy(weights)), len(data)
    if given.dtype.kind not in "fiub":
        raise DtypeError(f"weights: expected real numbers, got {given.dtype}")
    values = given.astype(np.float64)
    if values.shape != (count,):
        raise ShapeError(f"weights: expected shape ({count},), got {values.shape}")
    if not np.isfinite(values).all():
        raise NonFiniteError("weights: expected finite numbers")
    if (values < 0.0).any() or not values.any():
        got = f"a least of {values.min():g}" if (values < 0.0).any() else "zeros alone"
        raise ArgumentError(f"weights: expected numbers from 0 on, not all of them 0, got {got}")
    with np.errstate(divide="ignore"):
        logs = np.log(values)
    drawn = max(count, min(MORE * count, ENOUGH))
    places = np.asarray(_core.systematic_resample(logs, drawn, seed), dtype=np.int64)
    # What has another number of rows is refused where it is looked at.
    return [part if part is None or len(part) != count else part[places] for part in (data, *others)]
