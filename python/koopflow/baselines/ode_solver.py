"""The teacher itself, in few steps."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import torch

from .._arrays import Array
from ..exceptions import ArgumentError
from ._teacher import TeachersOwn

SOLVERS = ("euler", "midpoint", "heun", "rk4", "dopri5")


@dataclass(kw_only=True, eq=False)
class OdeSolver(TeachersOwn):
    """The teacher's flow by a solver of few steps: what no student should be worse than at its cost.

    :meth:`sample_path` joins the states between steps by straight lines, as Euler's method does; dopri5 has
    its own dense output.

    Parameters
    ----------
    solver : {"euler", "midpoint", "heun", "rk4", "dopri5"}, default "euler"
        Fixed steps of 1, 2, 2 and 4 evaluations, or adaptive ones at tolerances of 1e-5.
    steps : int, default 4
        Of the fixed-step solvers, at least 1.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher, baselines
    >>> solver = baselines.OdeSolver(steps=2).fit(FlowTeacher.gaussian([1.0, 2.0], np.eye(2)))
    >>> solver.sample(x0=np.zeros((1, 2), dtype=np.float32)).round(3)
    array([[1., 2.]], dtype=float32)
    >>> solver.evaluations
    2
    """

    solver: str = "euler"
    steps: int = 4

    def _check(self) -> None:
        if self.solver not in SOLVERS:
            raise ArgumentError(f"solver: expected one of {', '.join(SOLVERS)}, got {self.solver!r}")
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise ArgumentError(f"steps: expected an integer of at least 1, got {self.steps!r}")

    def _ends(self, x0: Array, condition: Array | None) -> Array:
        return self._kept().sample(x0=x0, solver=self.solver, steps=self.steps, condition=condition)

    def _path(self, x0: Array, times: list[float], condition: Array | None) -> Array:
        grid = [step / self.steps for step in range(self.steps + 1)]
        if self.solver == "dopri5":
            grid = sorted({0.0, 1.0, *times})
        states = self._kept().trajectory(
            x0, times=grid, solver=self.solver, steps=self.steps, condition=condition
        )
        path = []
        for t in times:
            right = max(1, bisect_left(grid, t))
            weight = (t - grid[right - 1]) / (grid[right] - grid[right - 1])
            path.append(states[right - 1] + weight * (states[right] - states[right - 1]))
        return torch.stack(path) if isinstance(states, torch.Tensor) else np.stack(path)
