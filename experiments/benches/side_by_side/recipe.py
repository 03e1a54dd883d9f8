"""koopflow's default recipe in optimised PyTorch, with the same networks, terms and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from koopflow.twins import StudentModule

from .models import RATE
from .paper import finish


class Rows(NamedTuple):
    """Numbers of rows of each kind in one step (docs/distillation.md).

    The rows of ``path`` and ``ends`` are the first of ``noise``, and those of ``round_trip`` the first of
    ``inverse``.
    """

    noise: int
    path: int
    ends: int
    pairs: int
    inverse: int
    round_trip: int

    @classmethod
    def of(cls, batch: int, dimension: int) -> Rows:
        """The rows of a student with a perceptron, up to eight dimensions or up to 256."""
        if dimension <= 8:
            return cls(batch, batch, batch // 2, batch // 2, batch, batch)
        return cls(batch, batch // 4, batch // 4, batch // 8, batch - batch // 4, batch // 4)


def weights_of(dimension: int) -> dict[str, float]:
    """Weights of the terms."""
    few = dimension <= 8
    return {
        "endpoint": 1.0,
        "path": 0.5,
        "target": 0.5,
        "phase": 0.01 if few else 0.15,
        "inverse": 1.0,
        "round_trip": 0.4 if few else 0.1,
    }


class Draw(NamedTuple):
    """States and times of one step: noise and data, points of paths, pairs, and data for the inverse."""

    x0: Tensor
    x1: Tensor
    t: Tensor
    x_t: Tensor
    s: Tensor
    x_s: Tensor
    e: Tensor
    x_e: Tensor
    z0: Tensor
    z1: Tensor


class RecipeStep(nn.Module):
    """One training step of a spectral student in a moving frame."""

    def __init__(self, student: StudentModule, paths: Tensor, batch: int) -> None:
        super().__init__()
        self.coordinates, self.generator = student.coordinates, student.generator
        self.ahead, self.back = student.forward_lift, student.backward_lift
        self.paths, self.last = paths, paths.shape[1] - 1
        self.rows, self.weights = Rows.of(batch, paths.shape[2]), weights_of(paths.shape[2])
        self.register_buffer("precision", 1.0 / paths.var(0, correction=0).sum(1))
        self.optimiser = torch.optim.Adam(self.parameters(), lr=RATE, fused=True)
        self.loss: Callable[[Draw], Tensor] = self.objective

    def draw(self) -> Draw:
        paths, last, rows = self.paths, self.last, self.rows
        noise = torch.randint(len(paths), (rows.noise,))
        on_way = torch.randint(1, last + 1, (rows.path,))
        pairs, start = torch.randint(len(paths), (rows.pairs,)), torch.randint(last, (rows.pairs,))
        later = start + 1 + (torch.rand(rows.pairs) * (last - start)).long()
        end = torch.where(torch.arange(rows.pairs) % 2 == 0, last, later)
        inverse = torch.randint(len(paths), (rows.inverse,))
        return Draw(
            paths[noise, 0],
            paths[noise, last],
            on_way / last,
            paths[noise[: rows.path], on_way],
            start / last,
            paths[pairs, start],
            end / last,
            paths[pairs, end],
            paths[inverse, 0],
            paths[inverse, last],
        )

    def features(self, lift: nn.Module, t: Tensor, x: Tensor) -> Tensor:
        return self.generator.carry(lift(self.coordinates(t, x)), t)

    def decoded(self, t: Tensor, x: Tensor, phi: Tensor, tau: Tensor) -> Tensor:
        """The states x(t + tau), ``[B, d]``, with a time for each row."""
        t, tau, (b0, b1) = t[:, None], tau[:, None], self.generator.drift
        moved = x + tau * b0 + tau * (t + 0.5 * tau) * b1
        return torch.addmm(moved, self.generator.integrals(tau).times(phi), self.generator.readout)

    def error(self, x: Tensor, target: Tensor, t: Tensor) -> Tensor:
        """Squared distance in units of the variance at ``t``."""
        precision = self.precision[(t * self.last).round().long()]
        return ((x - target).square().sum(1) * precision).mean()

    def named_terms(self, draw: Draw) -> dict[str, Tensor]:
        rows = self.rows
        zeros, ones = torch.zeros(rows.noise), torch.ones(rows.noise)
        t = torch.cat([zeros, draw.s, ones[: rows.ends], draw.e])
        x = torch.cat([draw.x0, draw.x_s, draw.x1[: rows.ends], draw.x_e])
        phi = self.features(self.ahead, t, x)
        at_noise, at_s, at_ends, at_e = phi.split([rows.noise, rows.pairs, rows.ends, rows.pairs])
        tau = torch.cat([ones, draw.t, draw.e - draw.s])
        decoded = self.decoded(
            torch.cat([zeros, zeros[: rows.path], draw.s]),
            torch.cat([draw.x0, draw.x0[: rows.path], draw.x_s]),
            torch.cat([at_noise, at_noise[: rows.path], at_s]),
            tau,
        )
        end, way, target = decoded.split([rows.noise, rows.path, rows.pairs])
        carried = self.generator.carry(
            torch.cat([at_noise[: rows.ends], at_s]), torch.cat([ones[: rows.ends], draw.e - draw.s])
        )
        to_ends, to_e = carried.split([rows.ends, rows.pairs])
        terms = {
            "endpoint": self.error(end, draw.x1, ones),
            "path": self.error(way, draw.x_t, draw.t),
            "target": self.error(target, draw.x_e, draw.e),
            "phase": 0.5 * (gap(to_ends, at_ends) + gap(to_e, at_e)),
        }
        first = torch.ones(rows.inverse)
        noise = self.decoded(first, draw.z1, self.features(self.back, first, draw.z1), -first)
        terms["inverse"] = self.error(noise, draw.z0, torch.zeros(rows.inverse))
        noise, first = noise[: rows.round_trip], first[: rows.round_trip]
        again = self.decoded(0 * first, noise, self.features(self.ahead, 0 * first, noise), first)
        terms["round_trip"] = self.error(again, draw.z1[: rows.round_trip], first)
        return terms

    def objective(self, draw: Draw) -> Tensor:
        terms: Mapping[str, Tensor] = self.named_terms(draw)
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def forward(self) -> None:
        finish(self.loss(self.draw()), self, self.optimiser)


def gap(moved: Tensor, reached: Tensor) -> Tensor:
    """Squared distance of features in units of their variance, through which no gradient passes."""
    variance = reached.detach().var(0, correction=0).sum()
    return (moved - reached).square().sum(1).mean() / variance
