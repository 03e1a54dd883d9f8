"""Splitting of data into a training and a held-out part."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import as_number, as_seed
from ..exceptions import ArgumentError


def split(
    data: NDArray[Any], *others: NDArray[Any], held_out: int | float = 0.2, seed: int | None = 0
) -> list[NDArray[Any]]:
    """Shuffle and split arrays of equal length into a training and a held-out part.

    Returns ``[train, held_out]`` for one array, ``[train_a, held_out_a, train_b, held_out_b]`` for two, and
    so on. All arrays are shuffled alike, so labels stay with their samples. ``held_out`` is a number of
    samples, or a fraction below one. Raises ``ArgumentError`` if lengths differ or a part would be empty.

    Examples
    --------
    >>> from koopflow.datasets import moons
    >>> train, test = split(moons(100), held_out=25)
    >>> len(train), len(test)
    (75, 25)
    """
    n = len(data)
    for other in others:
        if len(other) != n:
            raise ArgumentError(f"split: expected arrays of equal length, got {n} and {len(other)}")
    count = int(held_out) if isinstance(held_out, Integral) else round(as_number(held_out, "held_out") * n)
    if not 0 < count < n:
        raise ArgumentError(f"held_out: expected between 1 and {n - 1} of {n} samples, got {held_out}")
    # scikit-learn's train_test_split would give other partitions than those of the published numbers.
    order = np.random.default_rng(as_seed(seed)).permutation(n)
    parts = [(array[order[count:]], array[order[:count]]) for array in (data, *others)]
    return [part for pair in parts for part in pair]
