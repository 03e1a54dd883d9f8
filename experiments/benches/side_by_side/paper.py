"""The paper's objective (arXiv 2506.22304) in PyTorch, in a usual and in an optimised form.

The terms are consistency at points of the flow, J g (1, v) = g L, and, for pairs of noise and data, the
target in x and the phase in all of g. Rows are those of koopflow's step with the same terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from koopflow.twins import StudentModule

from .models import RATE

# Terms of koopflow's own step.
WEIGHTS: Mapping[str, float] = {
    "consistency": 1.0,
    "target": 1.0,
    "phase": 1.0,
    "endpoint": 0.0,
    "path": 0.0,
    "inverse": 0.0,
    "round_trip": 0.0,
}


class PaperStep(nn.Module):
    """One training step of a dense generator; ``batch`` is koopflow's ``batch_size``.

    ``best`` uses ``torch.func.jvp``, a Taylor series of exp(L) that acts on the rows and is truncated at
    single precision, and the fused Adam. Otherwise ``torch.autograd.functional.jvp``, ``torch.matrix_exp``
    and the plain Adam are used.
    """

    def __init__(self, student: StudentModule, teacher: nn.Module, paths: Tensor, batch: int, *, best: bool):
        super().__init__()
        self.coordinates, self.lift = student.coordinates, student.forward_lift
        self.teacher, self.paths, self.half, self.best = [teacher], paths, batch // 2, best
        self.dimension = paths.shape[2]
        size = 2 + student.generator.columns.shape[1]
        free = size - 2 if best else size
        self.generator = nn.Parameter(1e-3 * torch.randn(size, free))
        known = torch.zeros(size, 2)
        known[0, 1] = 1.0
        self.register_buffer("known", known)
        self.terms = self._count() if best else 0
        self.optimiser = torch.optim.Adam(self.parameters(), lr=RATE, fused=best)
        self.loss: Callable[..., Tensor] = self.objective

    def matrix(self) -> Tensor:
        return torch.cat([self.known, self.generator], 1) if self.best else self.generator

    def observe(self, t: Tensor, x: Tensor) -> Tensor:
        """The observables g(t, x), ``[B, m]``."""
        phi = self.lift(self.coordinates(t, x))
        return torch.cat([torch.ones_like(t)[:, None], t[:, None], x, phi], 1)

    def objective(self, t: Tensor, x: Tensor, v: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        matrix, ones = self.matrix(), torch.ones_like(t)
        if self.best:
            g, rate = torch.func.jvp(self.observe, (t, x), (ones, v))
        else:
            g, rate = torch.autograd.functional.jvp(self.observe, (t, x), (ones, v), create_graph=True)
        half, both = self.half, torch.cat([x0, x1])
        times = torch.cat([torch.zeros(len(x0)), torch.ones(len(x1))])
        start, end = self.observe(times, both).split(len(x0))
        moved = self.carried(start, matrix)
        target = (moved[:half, 2 : 2 + self.dimension] - x1[:half]).square().sum(1).mean()
        phase = (moved - end).square().sum(1).mean()
        return (rate - g @ matrix).square().sum(1).mean() + target + phase

    def carried(self, g: Tensor, matrix: Tensor) -> Tensor:
        """The propagated observables g exp(L)."""
        if not self.best:
            return g @ torch.matrix_exp(matrix)
        term = total = g
        for order in range(1, self.terms + 1):
            term = term @ matrix * (1.0 / order)
            total = total + term
        return total

    def forward(self) -> None:
        half, last = self.half, self.paths.shape[1] - 1
        row, at = torch.randint(len(self.paths), (half,)), torch.randint(last, (half,))
        t, x = at / last, self.paths[row, at]
        with torch.no_grad():
            v = self.teacher[0](t, x)
        pairs = self.paths[torch.randint(len(self.paths), (2 * half,))]
        loss = self.loss(t, x, v, pairs[:, 0], pairs[:, -1])
        finish(loss, self, self.optimiser)

    def _count(self) -> int:
        """Number of terms after which the rest of the series is below single precision."""
        with torch.no_grad():
            g = self.observe(torch.zeros(64), self.paths[:64, 0])
            term, total = g, g
            for order in range(1, 60):
                term = term @ self.matrix() / order
                total = total + term
                if term.abs().max() < 1e-8 * total.abs().max():
                    return order
        return 60


def finish(loss: Tensor, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Compute gradients, clip them and make a step."""
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
