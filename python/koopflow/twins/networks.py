"""The networks of the core other than U-Nets, as PyTorch modules ``[B, inputs] -> [B, outputs]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Perceptron(nn.Sequential):
    """``depth`` hidden layers of ``width`` SiLU units. With ``skip``, a linear map of the input is added."""

    def __init__(self, inputs: int, outputs: int, *, width: int, depth: int, skip: bool) -> None:
        sizes = [inputs, *[width] * depth, outputs]
        super().__init__(*[nn.Linear(below, above) for below, above in pairwise(sizes)])
        self.skip: nn.Parameter | None
        self.register_parameter("skip", nn.Parameter(torch.zeros(outputs, inputs)) if skip else None)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self
        y: Tensor = first(x)
        for layer in rest:
            y = layer(F.silu(y))
        return y if self.skip is None else y + F.linear(x, self.skip)


class FourierFeatures(nn.Module):
    """Random Fourier features (Rahimi & Recht, 2007): cos(w · x + b)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.zeros(outputs, inputs))
        self.phases = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cos(F.linear(x, self.frequencies, self.phases))


class Monomials(nn.Module):
    """All monomials of total degree 2 to ``degree`` in some columns of the input.

    The columns are ``variables``. The output begins with the last ``linear`` of them. The monomials follow in
    order of their degree.
    """

    def __init__(self, variables: Sequence[int], *, linear: int, degree: int) -> None:
        super().__init__()
        self.register_buffer("variables", torch.tensor(variables, device="cpu"), persistent=False)
        self.linear, self.degree = linear, degree
        # A monomial of the next degree is one of this degree times its last variable or a later one. Each is
        # formed exactly once.
        last = list(range(len(variables)))
        for order in range(2, degree + 1):
            pairs = [(below, factor) for below, v in enumerate(last) for factor in range(v, len(variables))]
            last = [factor for _, factor in pairs]
            columns = torch.tensor(pairs, device="cpu").T.contiguous()
            self.register_buffer(f"degree_{order}", columns, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        variables = x[:, self.get_buffer("variables")]
        parts, below = [variables[:, variables.shape[1] - self.linear :]], variables
        for order in range(2, self.degree + 1):
            lower, factors = self.get_buffer(f"degree_{order}")
            below = below[:, lower] * variables[:, factors]
            parts.append(below)
        return torch.cat(parts, dim=1)


class TimeEmbedding(nn.Module):
    """[t, sin(pi 2^j t), cos(pi 2^j t)] for j = 0, 1, ...: ``[B] -> [B, 1 + 2 frequencies]``."""

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        powers = torch.arange(frequencies, dtype=torch.float64, device="cpu").exp2()
        self.register_buffer("frequencies", powers * math.pi, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        t = t[:, None]
        phase = t * self.get_buffer("frequencies").to(t.dtype)
        return torch.cat([t, phase.sin(), phase.cos()], dim=1)
