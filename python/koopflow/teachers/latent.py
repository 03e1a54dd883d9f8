"""Latent coordinates of a population, and the maps between them and the measured rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array, as_batch, to_numpy
from ..exceptions import ArgumentError, ShapeError


@dataclass(frozen=True)
class Latent:
    """Two functions of rows: ``encode`` maps measured rows ``[N, *measured]`` to coordinates ``[N, *event]``,
    and ``decode`` maps coordinates back."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]

    @classmethod
    def of(cls, latent: Any) -> Latent:
        """The maps of a pair of functions, or of an object with ``transform`` and ``inverse_transform``, such
        as scikit-learn's transformers. Raises ``ArgumentError`` for anything else."""
        if isinstance(latent, Latent):
            return latent
        pair = latent
        if hasattr(latent, "transform") and hasattr(latent, "inverse_transform"):
            pair = (latent.transform, latent.inverse_transform)
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(map(callable, pair)):
            expected = "two functions (encode, decode), or an object with transform and inverse_transform"
            raise ArgumentError(f"latent: expected {expected}, got {latent!r}")
        return cls(*pair)

    def encoded(self, rows: Array) -> Any:
        """Coordinates ``[N, *event]`` of rows. Raises ``ShapeError`` if ``encode`` changes their number."""
        return _as_many("encode", as_batch(self.encode(rows), "latent"), len(rows))

    def decoded(self, states: Array, event_shape: Sequence[int]) -> Any:
        """States ``[..., *event]`` mapped to the space of the measured rows, ``[..., *measured]``."""
        states = to_numpy(states)
        shape = tuple(event_shape)
        before = states.shape[: states.ndim - len(shape)]
        if states.shape[len(before) :] != shape:
            wanted = ", ".join(map(str, ("...", *shape)))
            raise ShapeError(f"states: expected shape ({wanted}), got {states.shape}")
        rows = states.reshape(-1, *shape)
        found = _as_many("decode", to_numpy(self.decode(rows)), len(rows))
        return np.asarray(found).reshape(*before, *found.shape[1:])


def _as_many(name: str, answer: Any, rows: int) -> Any:
    if len(answer.shape) < 2 or answer.shape[0] != rows:
        raise ShapeError(f"latent: expected {name} to return ({rows}, ...), got {tuple(answer.shape)}")
    return answer
