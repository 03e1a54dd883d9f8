"""What users give to a twin: states, times and conditions, checked by shape so that messages name them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from ..exceptions import ArgumentError, DtypeError, ShapeError


def flat_states(
    argument: str, x: Tensor, event_shape: Sequence[int], dtype: torch.dtype | None = None
) -> Tensor:
    """States ``[B, *event]`` as ``[B, d]``, of their own dtype if no other is said."""
    if not isinstance(x, Tensor):
        raise DtypeError(f"{argument}: expected a torch tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise DtypeError(f"{argument}: expected floating point numbers, got {x.dtype}")
    if tuple(x.shape[1:]) != tuple(event_shape) or x.ndim == 0:
        expected = ", ".join(["B", *map(str, event_shape)])
        raise ShapeError(f"{argument}: expected shape ({expected}), got {tuple(x.shape)}")
    return x.flatten(1).to(dtype or x.dtype)


def as_numbers(
    argument: str, values: Tensor | float | Sequence[float], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Times as a tensor."""
    try:
        return torch.as_tensor(values, dtype=dtype, device=device)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{argument}: expected numbers, got {values!r}") from error


def times_of(argument: str, t: Tensor | float, x: Tensor) -> Tensor:
    """One time, or one for each row of ``x``, as ``[B]`` of its dtype."""
    t = as_numbers(argument, t, x.dtype, x.device)
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != x.shape[0]):
        raise ShapeError(f"{argument}: expected a number or shape ({x.shape[0]},), got {tuple(t.shape)}")
    return t.expand(x.shape[0])


class Conditions:
    """What a model is conditioned on, as a file says it: ``"none"``, ``{"labels": {"classes": C}}`` or
    ``{"vector": {"dim": D}}``."""

    def __init__(self, plain: str | dict[str, dict[str, int]]) -> None:
        given = {} if isinstance(plain, str) else plain
        self.classes = given.get("labels", {}).get("classes")
        self.dim = given.get("vector", {}).get("dim")
        # Columns of the network's input.
        self.size: int = self.classes or self.dim or 0

    def encoded(self, condition: Tensor | None, x: Tensor) -> Tensor | None:
        """:meth:`checked`, as :meth:`numbers` of the dtype of ``x``."""
        return self.numbers(self.checked(condition, x), x.dtype)

    def checked(self, condition: Tensor | None, x: Tensor) -> Tensor | None:
        """Labels ``[B]`` or vectors ``[B, D]`` for the rows of ``x``, of which one may stand for all; None
        without any. Raises ``ArgumentError`` for what does not fit."""
        if not self.size and condition is None:
            return None
        one = () if self.classes else (self.size,)
        rows = (x.shape[0], *one)
        if condition is None or not self.size or not self._fits(condition, rows, one):
            kind = f"integer labels below {self.classes}" if self.classes else "vectors"
            expected = f"{kind} of shape {rows}" if self.size else "none, for this model is unconditional"
            got = "none" if condition is None else f"a {type(condition).__name__} that is no tensor"
            if isinstance(condition, Tensor):
                got = f"{condition.dtype} of shape {tuple(condition.shape)}"
            raise ArgumentError(f"condition: expected {expected}, got {got}")
        condition = condition.to(x.device).expand(rows)
        return condition.long() if self.classes else condition

    def numbers(self, condition: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Labels as one-hot rows, the label ``classes``, which stands for none, as zeros, and vectors as they
        are: ``[B, size]``."""
        if condition is not None and self.classes:
            condition = condition[:, None] == torch.arange(self.classes, device=condition.device)
        return None if condition is None else condition.to(dtype)

    def _fits(self, condition: Tensor, rows: tuple[int, ...], one: tuple[int, ...]) -> bool:
        fits = isinstance(condition, Tensor) and tuple(condition.shape) in (rows, one, (1, *one))
        if self.classes and (not fits or condition.is_floating_point()):
            return False
        if self.classes and not torch.compiler.is_compiling():
            with suppress(RuntimeError):  # the transforms of torch.func cannot look at values
                return bool(((condition >= 0) & (condition < self.classes)).all())
        return fits
