"""The source of a teacher's flow: conversion of the user's argument to the core's object."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .. import _core
from .._arrays import as_batch, as_number
from ..exceptions import ArgumentError
from .flow import Flow

#: Name of a source that a file holds with its teacher.
KEPT = "kept"

#: Parameters of a teacher that a file holds with the field itself.
OF_THE_FIELD = ("event_shape", "source", "source_noise")


def as_source(
    source: Any,
    event_shape: Sequence[int],
    *,
    noise: Any = 0.0,
    known: _core.VelocityField | None = None,
    argument: str = "source_noise",
) -> _core.Source | None:
    """The source in the core; None for standard normal noise.

    ``source`` is ``"normal"``, rows ``[N, *event]``, a fitted teacher, or a function ``draw(n, seed)`` that
    returns samples and may have its log-density as an attribute ``log_prob(x)``. ``"kept"`` is the source of
    the field ``known``. ``noise``, which messages call ``argument``, is the standard deviation of normal
    noise that is added to rows. Raises ``ArgumentError`` or ``ShapeError`` for anything else, and for noise
    without rows.
    """
    added = as_number(noise, argument, "a finite number >= 0", lambda n: 0.0 <= n < np.inf)
    found = _without_noise(source, list(event_shape), known)
    kind = "normal" if found is None else found.kind
    if found is not None and kind == "rows":
        return found.with_noise(added)
    if added:
        raise ArgumentError(
            f"{argument}: expected 0 for a source that is not an array of rows, got {added:g} with one of "
            f"kind {kind!r}"
        )
    return found


def started(
    field: _core.VelocityField, source: Any, noise: Any, *, argument: str = "source_noise"
) -> _core.VelocityField:
    """A field whose flow starts from ``source``. Raises the errors of :func:`as_source`."""
    shape = list(field.event_shape)
    start = as_source(source, shape, noise=noise, known=field, argument=argument)
    if start is None:
        return field if field.source.kind == "normal" else field.starting_from(_core.Source.normal(shape))
    return field.starting_from(start)


def _without_noise(source: Any, shape: list[int], known: _core.VelocityField | None) -> _core.Source | None:
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
    if isinstance(source, torch.nn.Module):
        raise ArgumentError(
            "source: expected a function draw(n, seed) of a number and a seed, got the torch.nn.Module "
            f"{type(source).__name__}, which takes tensors; give a function that calls it"
        )
    if callable(source):
        _check_takes(source, ("n", "seed"), "source: expected a function draw(n, seed) of samples")
        log_prob = getattr(source, "log_prob", None)
        if callable(log_prob):
            _check_takes(log_prob, ("x",), "source: expected log_prob(x) of states as its log-density")
        return _core.Source.sampler(_drawing(source), _density(log_prob), event_shape=shape)
    if source is None or np.ndim(source) == 0:
        raise ArgumentError(f"source: expected 'normal', rows, a teacher or a function, got {source!r}")
    return _core.Source.rows(as_batch(source, "source"), shape)


def _check_takes(function: Callable[..., Any], names: tuple[str, ...], expected: str) -> None:
    """Raise ``ArgumentError`` for a function whose signature does not take these arguments. The function is
    not called, so that its own errors are not mistaken for a wrong signature."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Functions in C may have no signature.
        return
    try:
        signature.bind(*names)
    except TypeError as error:
        name = getattr(function, "__name__", type(function).__name__)
        raise ArgumentError(f"{expected}, got {name}{signature} ({error})") from None


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
