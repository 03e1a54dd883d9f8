"""The distribution of training times: conversion of the user's argument to the core's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..exceptions import ArgumentError

#: Distributions with parameters.
LAWS = ("logit_normal", "power")


def as_time_sampler(given: Any) -> str | dict[str, Any]:
    """``"uniform"``, or a distribution with its parameters. The core has defaults for those left out.

    Raises ``ArgumentError`` for anything else.

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
