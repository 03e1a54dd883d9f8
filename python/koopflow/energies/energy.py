"""The base class of targets: an energy, its normalising constant and reference samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import Array, as_batch, as_seed, checked_count
from ..exceptions import ShapeError

Samples: TypeAlias = NDArray[np.float32]
# A function from points [B, *event] to energies [B].
Potential: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class Energy(ABC):
    """A target density ``exp(-E(x)) / Z``. E is known; Z is not needed.

    A subclass defines E, log Z and how reference samples are drawn.

    Attributes
    ----------
    name : str
        Name of the target in tables.
    event_shape : tuple of int
        The shape of one x.
    """

    def __init__(self, name: str, event_shape: tuple[int, ...]) -> None:
        self.name = name
        self.event_shape = event_shape

    def __repr__(self) -> str:
        return f"<energy {self.name}, event_shape {self.event_shape}>"

    def __call__(self, x: Array) -> Array:
        """The energies ``[B]`` of points ``[B, *event]``, with the points' kind of array, dtype and device.

        Energies of a tensor can be differentiated. Integers are converted to float32. Raises ``ShapeError``
        for points of another shape.
        """
        tensor = self._tensor(x)
        return _like(self._energy(tensor), x)

    def gradient(self, x: Array) -> Array:
        """The gradients ``[B, *event]`` of the energies at points ``[B, *event]``; forces are minus these.

        They have the points' kind of array, dtype and device. Gradients of a tensor have no graph.
        """
        return _like(gradient_of(self._energy, self._tensor(x))[1], x)

    def sample(self, n: int, *, seed: int | None = 0) -> Samples:
        """Draw reference samples ``[n, *event]``, float32; a ``seed`` of None draws one.

        They are exact and independent if the target's documentation says so. Otherwise they come from long
        parallel chains. The same seed gives different samples for a different ``n``.
        """
        n, rng = checked_count(n), np.random.default_rng(as_seed(seed))
        return self._draw(n, rng).astype(np.float32)

    @property
    @abstractmethod
    def log_z(self) -> float:
        """The logarithm of Z, the integral of ``exp(-E)`` over the whole space; NaN if it is not known."""

    @property
    def log_z_error(self) -> float:
        """The standard error of ``log_z``: 0 if it is exact or from a converged quadrature."""
        return 0.0

    @abstractmethod
    def _energy(self, x: torch.Tensor) -> torch.Tensor:
        """The energies ``[B]`` of floating-point points ``[B, *event]``."""

    @abstractmethod
    def _draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Reference samples ``[n, *event]``."""

    def _tensor(self, x: Array) -> torch.Tensor:
        """Points as a floating-point tensor. Arrays are copied."""
        batch = as_batch(x, "x")
        if tuple(batch.shape[1:]) != self.event_shape:
            expected = ", ".join(["B", *map(str, self.event_shape)])
            raise ShapeError(f"x: expected ({expected}), got {tuple(batch.shape)}")
        if isinstance(batch, torch.Tensor):
            return batch if batch.is_floating_point() else batch.to(torch.float32)
        kept = batch.dtype if batch.dtype.kind == "f" and batch.dtype.itemsize <= 8 else np.dtype(np.float32)
        # torch accepts only the native byte order.
        return torch.from_numpy(np.array(batch, dtype=kept.newbyteorder("="), order="C"))


def gradient_of(function: Potential, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The energies ``[B]`` of points ``[B, *event]`` and their gradients ``[B, *event]``, without a graph."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        values = function(point)
        (gradient,) = torch.autograd.grad(values.sum(), point)
    return values.detach(), gradient


def _like(values: torch.Tensor, x: Array) -> Array:
    return values if isinstance(x, torch.Tensor) else values.numpy(force=True)
