"""Weighted data: rows resampled in proportion to their weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array, to_numpy
from ..exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError

# Factor by which rows are oversampled, and the number up to which they are. With few rows, rounding would
# otherwise dominate how often each is drawn.
MORE, ENOUGH = 4, 65_536


def weighted_rows(weights: Array, seed: int, data: Array, *others: Array | None) -> list[Any]:
    """Rows of data ``[N, ...]`` and of the arrays that belong to them, drawn by weights ``[N]``.

    The weights need not sum to 1. Rows are drawn by systematic resampling, and keep their order. Raises
    ``ShapeError``, ``DtypeError``, ``NonFiniteError`` or ``ArgumentError`` naming ``weights``.
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
        got = f"a minimum of {values.min():g}" if (values < 0.0).any() else "only zeros"
        raise ArgumentError(f"weights: expected numbers of at least 0 that are not all 0, got {got}")
    with np.errstate(divide="ignore"):
        logs = np.log(values)
    drawn = max(count, min(MORE * count, ENOUGH))
    places = np.asarray(_core.systematic_resample(logs, drawn, seed), dtype=np.int64)
    # Arrays with another number of rows raise their error where they are checked.
    return [part if part is None or len(part) != count else part[places] for part in (data, *others)]
