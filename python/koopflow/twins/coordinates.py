"""Inputs of the basis of the observables, computed from (t, x)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Coordinates(nn.Module):
    """Time, x in the data's principal axes, and the same standardised by the mean and deviation of x_t.

    It maps ``t``, ``[B]``, and ``x``, ``[B, d]``, to ``[B, 1 + 2 d]``. Images are only standardised, by
    :meth:`standardised`.
    """

    center: Tensor
    scale: Tensor
    means: Tensor
    deviations: Tensor

    def __init__(self, dimension: int, times: int, *, axes: bool) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(dimension))
        if axes:
            self.register_buffer("axes", torch.eye(dimension))
        self.register_buffer("scale", torch.ones(()))
        # Tables over uniform times from 0 to 1.
        self.register_buffer("means", torch.zeros(times, dimension))
        self.register_buffer("deviations", torch.ones(times, dimension))

    def standardised(self, t: Tensor, x: Tensor) -> Tensor:
        """(x - mean) / deviation, both interpolated at the times of the rows."""
        intervals = self.means.shape[0] - 1
        place = t.clamp(0.0, 1.0) * intervals
        # Clamped as integers, since NaN is not a valid row. The result is NaN all the same, by its weight.
        row = place.detach().long().clamp(0, intervals - 1)
        weight = (place - row)[:, None]
        mean, deviation = (torch.lerp(y[row], y[row + 1], weight) for y in (self.means, self.deviations))
        return (x - mean) / deviation

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        along = (x - self.center) @ self.get_buffer("axes")
        return torch.cat([t[:, None], along * self.scale, self.standardised(t, along)], dim=1)
