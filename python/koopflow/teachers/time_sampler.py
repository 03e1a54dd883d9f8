"""The law of the times that a teacher is trained at, as people say it and as the core takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..exceptions import ArgumentError

#: Laws with numbers of their own.
LAWS = ("logit_normal", "power")


def as_time_sampler(given: Any) -> str | dict[str, Any]:
    """``"uniform"``, or a law with its numbers, those left out being the core's; ``ArgumentError`` otherwise.

    >>> as_time_sampler("logit_normal"), as_time_sampler({"power": {"exponent": 2.0}})
    ({'logit_normal': {}}, {'power': {'exponent': 2.0}})
    """
    if isinstance(given, str) and given == "uniform":
        return given
    if isinstance(given, str) and given in LAWS:
        return {given: {}}
    if isinstance(given, Mapping) and len(given) == 1 and next(iter(given)) in LAWS:
        [(law, numbers)] = given.items()
        if isinstance(numbers, Mapping):
            return {law: dict(numbers)}
    expected = "'uniform', 'logit_normal', 'power' or, say, {'logit_normal': {'mean': 0.0, 'deviation': 1.0}}"
    raise ArgumentError(f"time_sampler: expected {expected}, got {given!r}")
