"""The inverse of a student, or of consecutive segments, with its refinement steps."""

from __future__ import annotations

from typing import Any

from .. import _core
from .._arrays import Array, as_integer, as_number, as_states
from ..exceptions import ArgumentError
from ..progress import ProgressFunction, ProgressMeter


def inverted(
    model: _core.Student | _core.Segments,
    x: Array,
    *,
    polish: int,
    method: str,
    damping: float,
    residuals: bool,
    condition: Array | None,
    progress: bool | ProgressFunction,
) -> Any:
    """See :meth:`koopflow.KoopmanDistiller.invert`; ``condition`` has been checked."""
    x, polish, damping = as_states(x), as_integer(polish, "polish"), as_number(damping, "damping")
    if str(method) not in ("newton", "fixed_point", "anderson"):
        raise ArgumentError(f"method: expected 'newton', 'fixed_point' or 'anderson', got {method!r}")
    if polish == 0 and not residuals:
        return model.invert(x, condition=condition)
    with ProgressMeter(progress=progress) as meter:
        noise, errors = model.invert_polished(
            x,
            method=str(method),
            polish=polish,
            damping=damping,
            condition=condition,
            monitor=meter.monitor,
        )
    return (noise, errors) if residuals else noise
