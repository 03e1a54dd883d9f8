"""What a teacher's flow starts from, as people say it and as the core takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .. import _core
from .._arrays import as_batch
from ..exceptions import ArgumentError
from .flow import Flow

#: What stands for a source that a file holds with its teacher.
KEPT = "kept"


def as_source(
    source: Any, event_shape: Sequence[int], *, known: _core.VelocityField | None = None
) -> _core.Source | None:
    """The source in the core; None for standard normal noise.

    ``source`` is ``"normal"``, rows ``[N, *event]``, a fitted teacher, or a function ``draw(n, seed)`` of
    samples, whose attribute ``log_prob(x)``, if it has one, is its log-density. ``"kept"`` is that of the
    field ``known``. Raises ``ArgumentError`` or ``ShapeError`` for anything else.
    """
    shape = list(event_shape)
    if isinstance(source, _core.Source):
        return source
    if isinstance(source, str):
        if source == "normal":
            return None
        if source == KEPT and known is not None:
            return known.source
        got = f"{source!r}" + (" without a fitted teacher" if source == KEPT else "")
        raise ArgumentError(f"source: expected 'normal', rows, a teacher or a function, got {got}")
    if isinstance(source, Flow):
        return source.field.as_source(shape)
    if callable(source):
        log_prob = getattr(source, "log_prob", None)
        return _core.Source.sampler(_drawing(source), _density(log_prob), event_shape=shape)
    if source is None or np.ndim(source) == 0:
        raise ArgumentError(f"source: expected 'normal', rows, a teacher or a function, got {source!r}")
    return _core.Source.rows(as_batch(source, "source"), shape)


def _drawing(draw: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
    def drawn(count: int, seed: int) -> Any:
        return as_batch(draw(count, seed), "source")

    return drawn


def _density(log_prob: Any) -> Callable[[Any], Any] | None:
    if not callable(log_prob):
        return None

    def density(x: Any) -> Any:
        found = log_prob(x)
        return found.detach() if isinstance(found, torch.Tensor) else np.asarray(found)

    return density
