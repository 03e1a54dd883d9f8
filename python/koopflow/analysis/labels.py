"""Labels and scores that come with data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array, to_numpy
from ..exceptions import DtypeError, NonFiniteError, ShapeError


def one_per_sample(argument: str, values: Array, x: Array) -> NDArray[Any]:
    """Values ``[N]`` of the samples ``x``, given as ``[N]`` or as a column ``[N, 1]``.

    Raises ``ShapeError``, ``DtypeError`` or ``NonFiniteError``, which name the argument, for anything else.
    """
    try:
        given = np.asarray(to_numpy(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DtypeError(f"{argument}: expected an array, got {type(values).__name__} ({error})") from error
    if given.shape == (len(x), 1):
        given = given[:, 0]
    if given.shape != (len(x),):
        raise ShapeError(f"{argument}: expected shape ({len(x)},), got {given.shape}")
    if given.dtype.kind == "O" and len({type(value) for value in given}) > 1:
        raise DtypeError(f"{argument}: expected values of one kind, got several")
    if given.dtype.kind in "fc" and not np.isfinite(given).all():
        raise NonFiniteError(f"{argument}: expected finite numbers, got NaN or infinite ones")
    return given


def number_per_sample(argument: str, values: Array, x: Array) -> NDArray[np.float64]:
    """As :func:`one_per_sample`, for real numbers, as float64."""
    given = one_per_sample(argument, values, x)
    if given.dtype.kind not in "fiub":
        raise DtypeError(f"{argument}: expected real numbers, got {given.dtype}")
    return given.astype(np.float64)
