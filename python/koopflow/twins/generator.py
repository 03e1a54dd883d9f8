"""Linear evolution of the observables, dg/dt = g L, in each parametrisation of L.

A generator has the methods ``state(g, tau)``, which returns x(t + tau), and ``forward(g, tau)``, which
returns all of g exp(tau L). For observables ``[B, ...]`` and times ``[T]`` in float64 the results are
``[T, B, ...]``. Quantities that depend only on the weights are computed in float64, as in the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Bound on growth rates, by construction.
GROWTH_BOUND = 8.0
# Eigenvalues below this size are integrated by a series.
SERIES_BELOW = 1e-3


class Observables(NamedTuple):
    """The parts of g = [1, t, x, phi]: ``t``, ``[B]``, ``x``, ``[B, d]``, and ``phi``, ``[B, k]``."""

    t: Tensor
    x: Tensor
    phi: Tensor

    def joined(self) -> Tensor:
        """All of g, ``[B, m]``."""
        t = self.t[..., None]
        return torch.cat([torch.ones_like(t), t, self.x, self.phi], dim=-1)


class Factors(NamedTuple):
    """A complex factor for each pair of features, and a real one for each of the remaining features."""

    real: Tensor
    imaginary: Tensor

    def times(self, features: Tensor) -> Tensor:
        """Features [real parts, imaginary parts, others] times their factors."""
        pairs, all_ = self.imaginary.shape[-1], self.real.shape[-1]
        a, c = torch.split(self.real.to(features.dtype), [pairs, all_ - pairs], dim=-1)
        b = self.imaginary.to(features.dtype)
        re, im, others = torch.split(features, [pairs, pairs, all_ - pairs], dim=-1)
        return torch.cat([re * a - im * b, re * b + im * a, others * c], dim=-1)


class Blocks(nn.Module):
    """Λ in real arithmetic: blocks [[a, b], [-b, a]] of pairs a ± ib, then real eigenvalues a."""

    def __init__(self, features: int, pairs: int | None = None) -> None:
        super().__init__()
        pairs = max(features * 3 // 8, int(features >= 2)) if pairs is None else pairs
        # Growth before the bound is applied: of the pairs, then of the real eigenvalues.
        self.growth = nn.Parameter(torch.zeros(features - pairs))
        self.frequency = nn.Parameter(torch.zeros(pairs))

    def eigenvalues(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Real parts, ``[p + r]``, and the imaginary parts of the pairs, ``[p]``."""
        growth = torch.tanh(self.growth.to(dtype) * (1.0 / GROWTH_BOUND)) * GROWTH_BOUND
        return growth, self.frequency.to(dtype)

    def exponentials(self, tau: Tensor) -> Factors:
        """e^{λ tau} for tau ``[..., 1]``, in its dtype."""
        growth, frequency = self.eigenvalues(tau.dtype)
        size, angle = (tau * growth).exp(), tau * frequency
        pairs = size[..., : frequency.shape[0]]
        real = torch.cat([pairs * angle.cos(), size[..., frequency.shape[0] :]], dim=-1)
        return Factors(real, pairs * angle.sin())

    def integrals(self, tau: Tensor) -> Factors:
        """(e^{λ tau} - 1)/λ for tau ``[..., 1]``, without cancellation. Near λ = 0 its series is used."""
        a, b = self.eigenvalues(tau.dtype)
        # Real eigenvalues as pairs without an imaginary part.
        b = torch.cat([b, torch.zeros_like(a[b.shape[0] :])])
        square = a.square() + b.square()
        small = square.detach() < SERIES_BELOW**2
        divisor = torch.where(small, 1.0, square)
        x, y = tau * a, tau * b
        rise = x.expm1()
        # e^z - 1 = expm1(x) cos(y) - 2 sin²(y / 2) + i e^x sin(y), z = x + iy
        re, im = rise * y.cos() - 2.0 * (y * 0.5).sin().square(), (rise + 1.0) * y.sin()
        re, im = (re * a + im * b) / divisor, (im * a - re * b) / divisor
        # tau (1 + z/2 + z²/6 + z³/24 + z⁴/120), by Horner's scheme
        near_re, near_im = x / 120.0 + 1.0 / 24.0, y / 120.0
        for coefficient in (1.0 / 6.0, 0.5, 1.0):
            near_re, near_im = x * near_re - y * near_im + coefficient, x * near_im + y * near_re
        re, im = torch.where(small, near_re * tau, re), torch.where(small, near_im * tau, im)
        return Factors(re, im[..., : self.frequency.shape[0]])

    def carry(self, phi: Tensor, tau: Tensor) -> Tensor:
        """phi e^{tau Λ}, with one time per row or broadcast times."""
        return self.exponentials(tau[..., None]).times(phi)


class SpectralGenerator(Blocks):
    """The spectral generator: phi' = phi Λ and x' = b0 + t b1 + phi B.

    Only elementwise functions and products are needed: x(t + tau) = x + b0 tau + b1 (t tau + tau²/2) +
    phi K(tau) B with K(tau) = Λ^{-1} (e^{tau Λ} - I).
    """

    def __init__(self, dimension: int, features: int, pairs: int | None) -> None:
        super().__init__(features, pairs)
        self.readout = nn.Parameter(torch.zeros(features, dimension))
        self.drift = nn.Parameter(torch.zeros(2, dimension))

    def state(self, g: Observables, tau: Tensor) -> Tensor:
        tau = tau[:, None, None]
        b0, b1 = self.drift.double()
        constant, slope = (tau * b0 + tau.square() * 0.5 * b1).to(g.x.dtype), (tau * b1).to(g.x.dtype)
        moved: Tensor = g.x + constant + g.t[:, None] * slope
        return moved + self.integrals(tau).times(g.phi) @ self.readout

    def forward(self, g: Observables, tau: Tensor) -> Observables:
        t = g.t + tau[:, None].to(g.t.dtype)
        return Observables(t, self.state(g, tau), self.carry(g.phi, tau[:, None]))


class DenseGenerator(nn.Module):
    """A full matrix. Only its columns of the constant and of time are known: d1/dt = 0 and dt/dt = 1.

    The block from [x, phi] to [x, phi] is free, or S - S^T - R R^T (``"dissipative"``), or S - S^T + M with
    M symmetric of bounded norm (``"bounded"``).
    """

    def __init__(self, dimension: int, features: int, stability: str) -> None:
        super().__init__()
        self.dimension, self.stability = dimension, stability
        free = dimension + features
        rows = {"columns": 2 + free} if stability == "free" else {"affine": 2, "skew": free}
        rows |= {"dissipative": {"damping": free}, "bounded": {"symmetric": free}}.get(stability, {})
        for name, count in rows.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(count, free)))

    def matrix(self) -> Tensor:
        """L, ``[m, m]`` in float64."""
        columns = self._learnt()
        known = torch.zeros(columns.shape[0], 2, dtype=columns.dtype, device=columns.device)
        known[0, 1] = 1.0
        return torch.cat([known, columns], dim=1)

    def _learnt(self) -> Tensor:
        """The columns of x and phi, ``[2 + n, n]`` in float64."""
        part = {name: weight.double() for name, weight in self.named_parameters()}
        if self.stability == "free":
            return part["columns"]
        skew = part["skew"]
        if self.stability == "dissipative":
            symmetric = -part["damping"] @ part["damping"].T
        else:
            symmetric = (part["symmetric"] + part["symmetric"].T) * 0.5
            largest = symmetric.square().sum().clamp(min=GROWTH_BOUND**2)
            symmetric = symmetric * (largest.rsqrt() * GROWTH_BOUND)
        return torch.cat([part["affine"], skew - skew.T + symmetric])

    def exponential(self, tau: Tensor) -> Tensor:
        """exp(tau L), ``[T, m, m]``, for times ``[T]`` in float64."""
        return torch.matrix_exp(tau[:, None, None] * self.matrix())

    def _moved(self, g: Observables, tau: Tensor, columns: slice) -> Tensor:
        start = g.joined()
        return start @ self.exponential(tau)[..., columns].to(start.dtype)

    def state(self, g: Observables, tau: Tensor) -> Tensor:
        return self._moved(g, tau, slice(2, 2 + self.dimension))

    def forward(self, g: Observables, tau: Tensor) -> Observables:
        moved = self._moved(g, tau, slice(None))
        return Observables(
            moved[..., 1], moved[..., 2 : 2 + self.dimension], moved[..., 2 + self.dimension :]
        )


class LevelGenerator(nn.ModuleList):
    """Λ of every feature map of a U-Net, per channel or per pixel. The state is not among the observables."""

    def __init__(self, maps: Sequence[tuple[int, int]], *, per_pixel: bool) -> None:
        """``maps`` has the number of channels and of pixels of each feature map."""
        self.shared = [1 if per_pixel else pixels for _, pixels in maps]
        self.sizes = [channels * pixels for channels, pixels in maps]
        super().__init__(Blocks(size // shared) for size, shared in zip(self.sizes, self.shared, strict=True))

    def carry(self, phi: Tensor, tau: Tensor) -> Tensor:
        """phi e^{tau Λ}, with one time per row or broadcast times."""
        moved = []
        for part, shared, blocks in zip(torch.split(phi, self.sizes, -1), self.shared, self, strict=True):
            channels_last = torch.unflatten(part, -1, (-1, shared)).transpose(-1, -2)
            moved.append(blocks.carry(channels_last, tau[..., None]).transpose(-1, -2).flatten(-2))  # type: ignore[operator]
        return torch.cat(moved, dim=-1)

    def forward(self, g: Observables, tau: Tensor) -> Observables:
        t = g.t + tau[:, None].to(g.t.dtype)
        return Observables(t, g.x.expand(*t.shape, -1), self.carry(g.phi, tau[:, None]))


def generator_of(config: dict[str, Any], dimension: int, maps: Sequence[tuple[int, int]]) -> nn.Module:
    """The generator of a configuration. ``maps`` has channels and pixels of a hierarchy's feature maps."""
    if config["generator"] == "levels":
        return LevelGenerator(maps, per_pixel=config["per_pixel"])
    if config["generator"] == "dense":
        return DenseGenerator(dimension, config["observables"], config["stability"])
    return SpectralGenerator(dimension, config["observables"], config["pairs"])
