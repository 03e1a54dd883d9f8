"""Arguments of twins: states, times and conditions, with checks whose messages name the argument."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from ..exceptions import ArgumentError, DtypeError, ShapeError


def flat_states(
    argument: str, x: Tensor, event_shape: Sequence[int], dtype: torch.dtype | None = None
) -> Tensor:
    """States ``[B, *event]`` as ``[B, d]``, in ``dtype`` if it is given, and otherwise in their own dtype."""
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
    """One time, or one per row of ``x``, as ``[B]`` in the dtype of ``x``."""
    t = as_numbers(argument, t, x.dtype, x.device)
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] != x.shape[0]):
        raise ShapeError(f"{argument}: expected a number or shape ({x.shape[0]},), got {tuple(t.shape)}")
    return t.expand(x.shape[0])


class Conditions:
    """The conditioning of a model, in the form of its file: ``"none"``, ``{"labels": {"classes": C}}`` or
    ``{"vector": {"dim": D}}``."""

    def __init__(self, plain: str | dict[str, dict[str, int]]) -> None:
        given = {} if isinstance(plain, str) else plain
        self.classes = given.get("labels", {}).get("classes")
        self.dim = given.get("vector", {}).get("dim")
        # Number of columns of the network's input.
        self.size: int = self.classes or self.dim or 0

    def encoded(self, condition: Tensor | None, x: Tensor) -> Tensor | None:
        """The checked condition as numbers in the dtype of ``x``: see :meth:`checked` and :meth:`numbers`."""
        return self.numbers(self.checked(condition, x), x.dtype)

    def checked(self, condition: Tensor | None, x: Tensor) -> Tensor | None:
        """Labels ``[B]`` or vectors ``[B, D]`` for the rows of ``x``, or None for an unconditional model.

        One label or vector may be given for all rows. Raises ``ArgumentError`` for a condition that does not
        fit.
        """
        if not self.size and condition is None:
            return None
        one = () if self.classes else (self.size,)
        rows = (x.shape[0], *one)
        if condition is None or not self.size or not self._fits(condition, rows, one):
            kind = f"integer labels below {self.classes}" if self.classes else "vectors"
            expected = f"{kind} of shape {rows}" if self.size else "none, since this model is unconditional"
            got = "none" if condition is None else f"a {type(condition).__name__}, which is not a tensor"
            if isinstance(condition, Tensor):
                got = f"{condition.dtype} of shape {tuple(condition.shape)}"
            raise ArgumentError(f"condition: expected {expected}, got {got}")
        condition = condition.to(x.device).expand(rows)
        return condition.long() if self.classes else condition

    def numbers(self, condition: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Labels as one-hot rows and vectors as they are, ``[B, size]``. The label ``classes``, which means
        no label, is a row of zeros."""
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
