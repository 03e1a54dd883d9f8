"""Noisy observations of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import to_numpy
from ..exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError, SteeringError
from .function import SampleFunction

Real = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Observation:
    """An observation y = A(x) + noise, with independent Gaussian noise.

    Parameters
    ----------
    operator : array or callable
        The operator A: a matrix ``[k, d]`` that multiplies flattened samples; a boolean mask of the event
        shape that marks the observed values; an array of integer positions of the observed values in the
        flattened sample; or a function of samples, a torch tensor ``[B, *event]``, that returns ``[B, k]``.
    y : array, ``[k]`` (any shape of k values)
        Observed values. For a mask it may be a whole sample, of which only the values under the mask are
        used.
    noise : float or array, ``[k]``
        Standard deviation of the noise, above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import Observation
    >>> Observation(np.array([[1.0, 1.0]]), y=[2.0], noise=0.1).size
    1
    """

    operator: Any
    y: Any
    noise: Any = 0.1

    def __post_init__(self) -> None:
        values = _numbers(self.y, "y").astype(np.float64)
        noise = _numbers(self.noise, "noise").astype(np.float64)
        if not callable(self.operator):
            operator = _numbers(self.operator, "operator").copy()
            if operator.dtype == bool and values.shape == operator.shape:
                values = values[operator]
            object.__setattr__(self, "operator", operator)
        values = values.reshape(-1).copy()
        if values.size == 0 or not np.isfinite(values).all():
            raise NonFiniteError("y: expected one or more finite values, got none, NaN or infinite ones")
        if noise.size not in (1, values.size) or not (np.isfinite(noise).all() and (noise > 0.0).all()):
            raise ArgumentError(
                f"noise: expected a deviation above 0, or {values.size} of them, got {self.noise!r}"
            )
        object.__setattr__(self, "y", values)
        object.__setattr__(self, "noise", np.broadcast_to(noise.reshape(-1), values.shape).copy())

    @property
    def size(self) -> int:
        """The number k of observed values."""
        return len(self.y)

    @property
    def linear(self) -> bool:
        """Whether A is a matrix, a mask or positions."""
        return not callable(self.operator)

    def matrix(self, event_shape: Sequence[int]) -> Real | None:
        """A as a matrix ``[k, d]``; None for a function. Raises ``ShapeError`` for a wrong shape."""
        if callable(self.operator):
            return None
        d, operator = math.prod(event_shape), self.operator
        if operator.dtype == bool:
            if operator.size != d:
                raise ShapeError(
                    f"operator: expected a mask of shape {tuple(event_shape)}, got {operator.shape}"
                )
            rows = np.eye(d)[operator.reshape(-1)]
        elif operator.dtype.kind in "iu" and operator.ndim == 1:
            outside = operator[(operator < 0) | (operator >= d)]
            if outside.size:
                raise ArgumentError(f"operator: expected places from 0 to {d - 1}, got {outside[0]}")
            rows = np.eye(d)[operator]
        else:
            rows = np.asarray(operator, dtype=np.float64)
        if rows.shape != (self.size, d):
            raise ShapeError(f"operator: expected {self.size} rows of {d} columns, got {rows.shape}")
        if not np.isfinite(rows).all():
            raise NonFiniteError("operator: expected finite values, got NaN or infinite ones")
        return np.asarray(rows)


def _numbers(value: Any, name: str) -> NDArray[Any]:
    """An array in its own precision; lists are not rounded to float32. Raises ``DtypeError``."""
    try:
        array = to_numpy(value) if isinstance(value, torch.Tensor) else np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{name}: expected an array of numbers, got rows of different lengths") from error
    if array.dtype.kind not in "fiub":
        raise DtypeError(f"{name}: expected numbers, got {type(value).__name__} of {array.dtype}")
    return array


class Residuals:
    """r(x) = (A(x) - y) / noise of one observation, and its derivative, for samples of a given shape."""

    def __init__(self, observation: Observation, event_shape: Sequence[int], device: torch.device) -> None:
        self.observation = observation
        self.matrix = observation.matrix(event_shape)
        self.function = (
            None if self.matrix is not None else SampleFunction(observation.operator, "operator", device)
        )
        self.log_scale = -float(np.log(observation.noise).sum()) - 0.5 * observation.size * math.log(
            2 * math.pi
        )

    def __call__(self, x: NDArray[Any]) -> Real:
        """The residuals ``[B, k]`` of samples."""
        if self.matrix is not None:
            seen = x.reshape(len(x), -1).astype(np.float64) @ self.matrix.T
        else:
            assert self.function is not None
            seen = self._seen(self.function.answer(x, many=True)[1].detach())
        return np.asarray((seen - self.observation.y) / self.observation.noise)

    def jacobian(self, x: NDArray[Any]) -> Real:
        """The derivative dr/dx, ``[B, k, *event]``."""
        if self.matrix is not None:
            rows = self.matrix / self.observation.noise[:, None]
            return np.asarray(
                np.broadcast_to(rows.reshape(1, -1, *x.shape[1:]), (len(x), len(rows), *x.shape[1:]))
            )
        assert self.function is not None
        given, seen = self.function.answer(x, gradients=True, many=True)
        self._seen(seen.detach())
        columns = []
        for place, row in enumerate(torch.eye(seen.shape[1], dtype=seen.dtype, device=seen.device)):
            by = row.expand_as(seen)
            slope = self.function.slope(given, seen, by, again=place + 1 < seen.shape[1])
            columns.append(torch.zeros_like(given) if slope is None else slope)
        found = torch.stack(columns, dim=1).to("cpu", torch.float64).numpy()
        scale = self.observation.noise.reshape(1, -1, *([1] * (found.ndim - 2)))
        return np.asarray(found / scale)

    def is_differentiable(self, x: NDArray[Any]) -> bool:
        """Whether the residuals have a derivative."""
        return self.function is None or self.function.is_differentiable(x, many=True)

    def slopes(self, x: NDArray[Any], residuals: Real) -> NDArray[Any]:
        """Gradient of -|r|^2 / 2 by x, ``[B, *event]``, from one product instead of the whole derivative."""
        weights = -residuals / self.observation.noise
        if self.matrix is not None:
            return np.asarray((weights @ self.matrix).reshape(x.shape))
        assert self.function is not None
        given, seen = self.function.answer(x, gradients=True, many=True)
        by = torch.as_tensor(weights, dtype=seen.dtype, device=seen.device)
        slope = self.function.slope(given, seen, by)
        return np.asarray((torch.zeros_like(given) if slope is None else slope).cpu().numpy())

    def _seen(self, seen: torch.Tensor) -> Real:
        found = seen.to("cpu", torch.float64).numpy()
        if found.shape[1] != self.observation.size:
            raise SteeringError(
                f"operator: expected {self.observation.size} values for each sample, got {found.shape[1]}"
            )
        if not np.isfinite(found).all():
            raise SteeringError("operator: expected finite values, got NaN or infinite ones")
        return np.asarray(found)
