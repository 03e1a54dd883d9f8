"""Probability paths, and the change of units between data and standardised data along them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Coefficients(NamedTuple):
    """The coefficients of x_t = a x1 + s x0, with noise x0 and data x1, and their derivatives, with the shape
    of t."""

    a: Tensor
    s: Tensor
    a_rate: Tensor
    s_rate: Tensor


def coefficients(path: str, t: Tensor) -> Coefficients:
    """The coefficients of the path ``"linear"`` or ``"vp"`` (variance preserving)."""
    if path == "linear":
        return Coefficients(t, 1.0 - t, torch.ones_like(t), -torch.ones_like(t))
    angle = math.pi / 2 * t
    a, s = angle.sin(), angle.cos()
    return Coefficients(a, s, math.pi / 2 * s, -math.pi / 2 * a)


class Units(nn.Module):
    """The change of units between data and standardised data z1, where data are m + s z1.

    x_t = a_t m + d z_u, where z_u lies on a path of the same kind from the same noise, at another time u. On
    the linear path d = (1 - t) + t s and u = t s / d. On the variance-preserving path tan(pi u / 2) =
    s tan(pi t / 2). The inverse is the same map with (-m / s, 1 / s).

    Times are ``[..., 1]``, states ``[..., d]``.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, path: str, dimension: int) -> None:
        super().__init__()
        self.path = path
        self.register_buffer("shift", torch.zeros(dimension))
        self.register_buffer("scale", torch.ones(()))

    def time(self, t: Tensor) -> Tensor:
        """The standardised times u of times t."""
        return self._clock(t, self.scale)[1]

    def standard(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The standardised (u, z) of times and states (t, x)."""
        return self._map(t, x, self.shift, self.scale)

    def own(self, u: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The times and states (t, x) of standardised (u, z)."""
        return self._map(u, z, -self.shift / self.scale, 1.0 / self.scale)

    def velocity(self, t: Tensor, z: Tensor, rate: Tensor) -> Tensor:
        """The velocity dx/dt at time t, from z and dz/du."""
        c, _, d, d_rate = self._clock(t, self.scale)
        return c.a_rate * self.shift + d_rate * z + self.scale / d * rate

    def _map(self, t: Tensor, x: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        c, u, d, _ = self._clock(t, scale)
        return u, (x - c.a * shift) / d

    def _clock(self, t: Tensor, scale: Tensor) -> tuple[Coefficients, Tensor, Tensor, Tensor]:
        """The path's coefficients, u, d and dd/dt. Times outside [0, 1] are used at the nearest end, and u is
        shifted by their distance from it."""
        inside = t.clamp(0.0, 1.0)
        c = coefficients(self.path, inside)
        data = c.a * scale
        if self.path == "linear":
            d, d_rate, u = c.s + data, c.s_rate + c.a_rate * scale, data / (c.s + data)
        else:
            d = torch.sqrt(c.s.square() + data.square())
            d_rate = (c.s * c.s_rate + data * c.a_rate * scale) / d
            u = torch.atan2(data, c.s) / (math.pi / 2)
        return c, u + (t - inside), d, d_rate
