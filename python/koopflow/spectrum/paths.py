"""Paths of the core's models, from noise to data and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array

CHUNK_VALUES = 1 << 24  # Number of values of states in memory at once.
#: Default options of the solver.
SOLVING: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}


@dataclass(frozen=True)
class Paths:
    """The paths of a velocity field or a student of the core."""

    model: _core.VelocityField | _core.Student
    #: Options of the solver of a field: ``solver``, ``steps``, ``rtol`` and ``atol`` of the core.
    solving: Mapping[str, Any] = field(default_factory=dict)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.model.event_shape)

    @property
    def conditioning(self) -> Any:
        """The model's conditioning, as the core writes it."""
        return json.loads(self.model.conditioning)

    def states(
        self, x0: Array, times: Sequence[float], condition: Array | None, monitor: Any = None
    ) -> Array:
        """States at rising times, ``[T, B, *event]``; those at 0 are ``x0``."""
        if isinstance(self.model, _core.VelocityField):
            how = {**SOLVING, **self.solving}
            return self.model.solve(x0, times, condition=condition, monitor=monitor, **how)
        path = self.model.sample_path(x0, times, condition=condition)
        # A student's state at time 0 equals the given noise only approximately.
        path[0] = x0
        return path

    def carried(self, x: Array, begin: float, end: float, condition: Array | None) -> Array:
        """States ``[B, *event]`` at time ``end`` of the paths through states at time ``begin``."""
        if begin == end:
            return x
        if isinstance(self.model, _core.VelocityField):
            return self.model.solve(x, [begin, end], condition=condition, **{**SOLVING, **self.solving})[1]
        if begin == 0.0:
            return self.model.sample_path(x, [end], condition=condition)[0]
        # At intermediate times the forward observables give better results, also backwards in time, than the
        # backward ones, which are trained at data alone.
        g = self.model.encode(begin, x, condition=condition)
        return self.model.readout(
            self.model.propagate(g, self.model.own_time(end) - self.model.own_time(begin))
        )

    def noise(self, x: Array, condition: Array | None) -> Array:
        """The noise that data ``[B, *event]`` came from."""
        if isinstance(self.model, _core.VelocityField):
            return self.carried(x, 1.0, 0.0, condition)
        return self.model.invert(x, condition=condition)


def core_of(model: Any) -> _core.VelocityField | _core.Student:
    """The core's model of a teacher or of a student. Raises ``TypeError`` for anything else."""
    if isinstance(model, _core.VelocityField | _core.Student):
        return model
    found = getattr(model, "field", None)
    if isinstance(found, _core.VelocityField):
        return found
    fitted: Callable[[], Any] | None = getattr(model, "_fitted", None)
    if callable(fitted) and isinstance(student := fitted(), _core.Student):
        return student
    raise TypeError(f"source: expected a teacher or a student, got {type(model).__name__}")


def chunks(count: int, values: int) -> Iterator[slice]:
    """Slices of ``count`` rows with ``values`` numbers each, of bounded memory."""
    rows = max(CHUNK_VALUES // max(values, 1), 16)
    return (slice(begin, min(begin + rows, count)) for begin in range(0, count, rows))


def like(x: Array, values: NDArray[Any]) -> Array:
    """The values as an array of the same kind and dtype as ``x``."""
    if isinstance(x, torch.Tensor):
        return torch.as_tensor(values, dtype=x.dtype, device=x.device)
    return values.astype(x.dtype if x.dtype.kind == "f" else np.float64)
