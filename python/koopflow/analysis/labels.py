"""Labels and scores that come with data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array, to_numpy
from ..exceptions import ShapeError


def one_per_sample(argument: str, values: Array, x: Array) -> NDArray[Any]:
    """Values ``[N]`` of the samples ``x``. Raises ``ShapeError`` naming the argument for other shapes."""
    given = np.asarray(to_numpy(values))
    if given.shape != (len(x),):
        raise ShapeError(f"{argument}: expected shape ({len(x)},), got {given.shape}")
    return given
