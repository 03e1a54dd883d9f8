"""Functions of samples that users give, with checks of their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..exceptions import SteeringError

Real = NDArray[np.float64]


class SampleFunction:
    """A function of samples, a torch tensor ``[B, *event]``, with one or several numbers for each sample.

    Its gradient is used if it consists of differentiable torch operations; values of NumPy and detached ones
    have no gradient. An exception that it raises becomes a :class:`koopflow.SteeringError`.
    """

    def __init__(self, function: Callable[[Any], Any], name: str, device: torch.device) -> None:
        if not callable(function):
            raise TypeError(f"{name}: expected a function of samples, got {type(function).__name__}")
        self.function, self.name, self.device = function, name, device

    def answer(self, x: NDArray[Any] | torch.Tensor, *, gradients: bool = False, many: bool = False) -> Any:
        """The samples as a tensor, and the function's values: ``[B]``, or ``[B, k]`` if ``many``."""
        # The function gets a copy that is not a leaf, so that it may write to it.
        given = torch.as_tensor(x).to(self.device).detach().clone().requires_grad_(gradients)
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            try:
                found = self.function(given.clone())
            except Exception as error:
                raised = f"{type(error).__name__}: {error}".splitlines()[0]
                raise SteeringError(
                    f"{self.name}: expected a number for each sample, got {raised}"
                ) from error
        try:
            value = found if isinstance(found, torch.Tensor) else torch.as_tensor(np.asarray(found))
            real = not (value.is_complex() or value.dtype == torch.bool)
        except (TypeError, ValueError, RuntimeError):
            value, real = torch.empty(0), False
        count, shape = len(given), tuple(value.shape)
        fits = len(shape) == 2 and shape[0] == count and shape[1] > 0 if many else shape == (count,)
        if not real or not fits:
            wanted = f"({count}, k)" if many else f"({count},)"
            kind = "booleans" if value.dtype == torch.bool else type(found).__name__
            got = f"shape {shape}" if real else kind
            raise SteeringError(f"{self.name}: expected numbers of shape {wanted}, got {got}")
        return given, value

    def is_differentiable(self, x: NDArray[Any], *, many: bool = False) -> bool:
        """Whether the values have a gradient, found by calling the function once."""
        try:
            given, value = self.answer(x, gradients=True, many=many)
            return bool(value.requires_grad) and self.slope(given, value) is not None
        except SteeringError as error:
            if isinstance(error.__cause__, RuntimeError) and "numpy()" in str(error.__cause__):
                return False  # The function calls NumPy on the tensor.
            raise

    @staticmethod
    def slope(
        given: torch.Tensor, value: torch.Tensor, by: torch.Tensor | None = None, *, again: bool = False
    ) -> torch.Tensor | None:
        """Gradient of the sum of the values times ``by``; None if they do not depend on the samples."""
        with torch.inference_mode(False), torch.enable_grad():
            weights = torch.ones_like(value) if by is None else by
            return torch.autograd.grad(value, given, weights, retain_graph=again, allow_unused=True)[0]

    def values(self, x: NDArray[Any], *, sign: float = 1.0) -> Real:
        """The values times ``sign``, in float64, ``[B]``. Minus infinity is a weight of zero."""
        value = self.answer(x)[1].detach().to("cpu", torch.float64).numpy()
        return self.checked(sign * value, sign)

    def checked(self, values: Real, sign: float) -> Real:
        """Return the values. Raises ``SteeringError`` for NaN and for infinite weights."""
        wrong = np.isnan(values) | (values == np.inf)
        if wrong.any():
            limit = "finite values or -inf" if sign > 0 else "finite values or inf"
            place = int(np.flatnonzero(wrong)[0])
            raise SteeringError(
                f"{self.name}: expected {limit}, got {sign * values[place]:g} for {int(wrong.sum())} of "
                f"{len(values)} samples"
            )
        return values

    def gradients(self, x: NDArray[Any], *, sign: float = 1.0) -> tuple[Real, NDArray[Any]]:
        """As :meth:`values`, with the gradients by the samples, ``[B, *event]``; 0 if not finite."""
        given, value = self.answer(x, gradients=True)
        slope = self.slope(given, value) if value.requires_grad else None
        found = torch.zeros_like(given) if slope is None else slope
        values = self.checked(sign * value.detach().to("cpu", torch.float64).numpy(), sign)
        return values, sign * np.nan_to_num(found.detach().cpu().numpy(), nan=0.0, posinf=0.0, neginf=0.0)
