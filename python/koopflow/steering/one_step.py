"""A model of the core as a map S from noise to samples, with its density and derivatives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, to_numpy
from .._conditioning import Conditioning
from ..exceptions import ArgumentError

Real = NDArray[np.float64]
#: Default options of the solver of a teacher's flow.
SOLVING: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


class OneStep:
    """The map S of a student, or of a teacher, for which it is the solution of the ODE.

    Noise is flat here, ``[B, d]`` in float64; samples are NumPy arrays ``[B, *event]`` of the model's dtype.
    ``condition`` is one label or vector for all samples.
    """

    def __init__(
        self,
        model: _core.Student | _core.VelocityField,
        condition: Array | None,
        solving: Mapping[str, Any] | None = None,
    ) -> None:
        if model.source.kind != "normal":
            raise ArgumentError(f"source: expected 'normal' for tilting, got {model.source.kind!r}")
        self.model = model
        self.event_shape = tuple(model.event_shape)
        self.dimension = math.prod(self.event_shape)
        self.condition = _single(condition, Conditioning.from_plain(json.loads(model.conditioning)))
        self.solving = {**SOLVING, **(solving or {})}
        #: Number of network evaluations so far, each of one sample. A product with dS/dz counts as one.
        self.evaluations = 0

    @property
    def is_student(self) -> bool:
        """Whether S is one evaluation of a student."""
        return isinstance(self.model, _core.Student)

    @property
    def device(self) -> torch.device:
        """Device of the samples that functions get."""
        return torch.device(self.model.device)

    def sample(self, noise: Real) -> NDArray[Any]:
        """The samples S(z)."""
        x0, condition = self._given(noise)
        if isinstance(self.model, _core.Student):
            self.evaluations += len(x0)
            return to_numpy(self.model.sample(x0, condition=condition))
        before = self.model.evaluations
        x = self.model.solve(x0, [0.0, 1.0], condition=condition, **self.solving)[1]
        self.evaluations += len(x0) * (self.model.evaluations - before)
        return to_numpy(x)

    def density(self, noise: Real) -> tuple[NDArray[Any], Real]:
        """The samples S(z), and log p(S(z)) = log N(z) - log |det dS/dz|."""
        x0, condition = self._given(noise)
        if isinstance(self.model, _core.Student):
            self.evaluations += 2 * len(x0)
            x, log_prob, _, _ = self.model.sample_with_density(x0, condition=condition)
            return to_numpy(x), np.asarray(log_prob, dtype=np.float64)
        x, before = self.sample(noise), self.model.evaluations
        log_prob = self.model.log_prob(x, condition=condition, **self.solving)
        self.evaluations += len(x0) * (self.model.evaluations - before)
        return x, np.asarray(log_prob, dtype=np.float64)

    def log_prob(self, x: NDArray[Any]) -> Real:
        """Log density log p of data ``[B, *event]``, which are first mapped back to noise."""
        condition = None if self.condition is None else np.repeat(self.condition[None], len(x), axis=0)
        if isinstance(self.model, _core.Student):
            return np.asarray(self.model.density(x, condition=condition)[0][0], dtype=np.float64)
        return np.asarray(self.model.log_prob(x, condition=condition, **self.solving), dtype=np.float64)

    def pull_back(self, noise: Real, x: NDArray[Any], covectors: Array) -> Real:
        """Products of covectors ``[B, K, *event]`` at the samples ``x`` with dS/dz, ``[B, K, d]``."""
        x0, condition = self._given(noise)
        if isinstance(self.model, _core.Student):
            self.evaluations += len(x0)
            pulled = self.model.pull_back(x0, covectors, condition=condition)
        else:
            before = self.model.evaluations
            pulled = self.model.pull_back(x, covectors, condition=condition, **self.solving)
            self.evaluations += len(x0) * (self.model.evaluations - before)
        return np.asarray(pulled, dtype=np.float64).reshape(*pulled.shape[:2], self.dimension)

    def inverses(self, x: NDArray[Any], start: Real, steps: int) -> tuple[Real, Real]:
        """Noise that leads to ``x``, by Newton steps from ``start`` ``[B, d]``, and the remaining error."""
        if not isinstance(self.model, _core.Student):
            raise ArgumentError("model: expected a student, got a teacher")
        begin, condition = self._given(start)
        noise, residuals = self.model.invert_polished(
            x, polish=steps, damping=1e-3, start=begin, condition=condition
        )
        return (
            np.asarray(noise, dtype=np.float64).reshape(len(x), -1),
            np.asarray(residuals, dtype=np.float64),
        )

    def _given(self, noise: Real) -> tuple[NDArray[Any], NDArray[Any] | None]:
        x0 = noise.reshape(-1, *self.event_shape).astype(self.model.dtype)
        if self.condition is None:
            return x0, None
        return x0, np.repeat(self.condition[None], len(x0), axis=0)


def _single(condition: Array | None, conditioning: Conditioning) -> NDArray[Any] | None:
    """The condition as one label ``[]`` or one vector ``[dim]``.

    Raises ``ArgumentError`` for several, for a missing condition, and for one that the model does not take.
    """
    if condition is None or not conditioning:
        if condition is not None or conditioning:
            wanted = "one label or vector" if conditioning else "None"
            got = "None" if condition is None else "a condition"
            raise ArgumentError(f"condition: expected {wanted} for this model, got {got}")
        return None
    array, axes = to_numpy(condition), 0 if conditioning.dim is None else 1
    if array.ndim == axes + 1 and len(array) == 1:
        array = array[0]
    if array.ndim != axes:
        raise ArgumentError(f"condition: expected one for all samples, got shape {tuple(array.shape)}")
    classes = conditioning.classes
    if classes is not None and not (array.dtype.kind in "iu" and 0 <= array < classes):
        raise ArgumentError(f"condition: expected a label from 0 to {classes - 1}, got {condition!r}")
    if conditioning.dim is not None and array.shape != (conditioning.dim,):
        raise ArgumentError(f"condition: expected a vector of shape ({conditioning.dim},), got {array.shape}")
    return array
