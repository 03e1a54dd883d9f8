"""The kind of condition that a velocity field takes, as one value instead of the core's JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _core
from ._arrays import Array, as_condition, checked_count, to_numpy
from .exceptions import ArgumentError


@dataclass(frozen=True)
class Conditioning:
    """Labels ``[B]`` of a number of classes, vectors ``[B, dim]``, or nothing.

    Raises ``ArgumentError`` for both at once, or anything but integers of at least 1.

    Examples
    --------
    >>> Conditioning(classes=10).to_json()
    '{"labels": {"classes": 10}}'
    """

    classes: int | None = None
    dim: int | None = None

    def __post_init__(self) -> None:
        if self.classes is not None and self.dim is not None:
            raise ArgumentError("expected at most one of num_classes and condition_dim, got both")
        for field, argument in (("classes", "num_classes"), ("dim", "condition_dim")):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, checked_count(getattr(self, field), argument))

    @classmethod
    def of(cls, field: _core.VelocityField) -> Conditioning:
        """The conditioning of a velocity field."""
        return cls.from_plain(json.loads(field.conditioning))

    @classmethod
    def from_plain(cls, written: Any) -> Conditioning:
        """The conditioning from parsed JSON of the core."""
        kind = {} if written == "none" else written
        return cls(kind.get("labels", {}).get("classes"), kind.get("vector", {}).get("dim"))

    def plain(self) -> Any:
        """The conditioning as plain data, as the core writes it."""
        if self.classes is not None:
            return {"labels": {"classes": self.classes}}
        return "none" if self.dim is None else {"vector": {"dim": self.dim}}

    def to_json(self) -> str:
        """The conditioning as JSON for the core."""
        return json.dumps(self.plain())

    def __bool__(self) -> bool:
        return self != Conditioning()

    def of_rows(self, y: Array | None, condition: Array | None) -> Array | None:
        """The condition of rows of data: ``condition``, or ``y`` as scikit-learn passes it.

        An unconditional field ignores ``y``. Raises ``ArgumentError`` for both.
        """
        if y is None or not self:
            return condition
        if condition is not None:
            raise ArgumentError("condition: expected None with y, which is the condition, got an array")
        return y

    def pool(self, condition: Array | None, known: Array | None = None) -> Array | None:
        """Rows to draw conditions from: the given ones, or else every class once, or else ``known`` vectors.

        Raises ``ArgumentError`` for a condition of an unconditional field, for an empty condition, and if
        there are no vectors to draw from.
        """
        if not self:
            if condition is not None:
                raise ArgumentError("condition: expected None for an unconditional teacher, got an array")
            return None
        if condition is None:
            condition = known if self.classes is None else np.arange(self.classes)
        if condition is None:
            raise ArgumentError(
                "condition: expected the vectors to draw from, for a conditional teacher, got None"
            )
        pool = to_numpy(as_condition(condition))
        if pool.ndim == (0 if self.dim is None else 1):
            pool = pool[None]
        if pool.size == 0:
            raise ArgumentError("condition: expected at least one row, got an empty array")
        return pool

    def known(self, condition: Array | None, seen: Collection[int] | None) -> Array | None:
        """The condition as an array. Warns of labels that no training sample had."""
        condition = as_condition(condition)
        if condition is not None and seen is not None and self.classes is not None:
            asked = to_numpy(condition)
            unseen = np.setdiff1d(np.arange(self.classes), list(seen))
            unseen = np.intersect1d(asked, unseen) if asked.dtype.kind in "iu" else unseen[:0]
            if len(unseen):
                warnings.warn(
                    f"condition: no sample of training had class {', '.join(map(str, unseen))}, only "
                    f"{', '.join(map(str, seen))}; results for it were not learnt",
                    UserWarning,
                    stacklevel=4,
                )
        return condition
