"""The teacher itself as a baseline: a few steps of a solver, or the straight line to its endpoints."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .._arrays import Array, as_grid, checked_count
from ..distributed import World
from ..exceptions import ArgumentError
from ..teachers.flow import Flow
from ..teachers.teacher import FlowTeacher
from ._baseline import PathBaseline

SOLVERS = ("euler", "midpoint", "heun", "rk4", "ab2", "ab3", "dpm2m", "dopri5")


class TeachersOwn(PathBaseline):
    """A baseline that keeps its teacher. Its file is that of the teacher, with the baseline's parameters."""

    def _fit(
        self, teacher: Flow, *, data: Any, condition: Any, progress: Any, ranks: World, **file: Any
    ) -> None:
        self._solver()
        nothing = {"steps": 0, "seconds": 0.0, "stopped": "completed", "loss": []}
        self._adopt(teacher, teacher.event_shape_, nothing)

    def _solver(self) -> dict[str, Any]:
        """The checked options of the teacher's solver."""
        return {}

    def _grid(self, times: list[float]) -> list[float]:
        """Rising times from 0 to 1. The path is straight between the states at these times."""
        return [0.0, 1.0]

    def _ends(self, x0: Array, steps: int | None, condition: Array | None) -> Array:
        if steps is not None:
            raise ArgumentError(f"steps: expected None for {type(self).__name__}, got {steps!r}")
        return self._model.sample(x0=x0, condition=condition, **self._solver())

    def _path(self, x0: Array, times: list[float], condition: Array | None) -> Array:
        grid = self._grid(times)
        own = [self._model.clock.read(time) for time in grid]
        states = self._model.trajectory(x0, times=own, condition=condition, **self._solver())
        path = []
        for t in times:
            right = max(1, bisect_left(grid, t))
            weight = (t - grid[right - 1]) / (grid[right] - grid[right - 1])
            path.append(states[right - 1] + weight * (states[right] - states[right - 1]))
        return torch.stack(path) if isinstance(states, torch.Tensor) else np.stack(path)

    def _facts(self) -> dict[str, Any]:
        teacher, header = self._model, super()._facts()
        if isinstance(teacher, FlowTeacher):
            header |= {"params": teacher._facts()["params"], "history": teacher.history_}
        return header

    def _restore(self, path: str, device: str) -> None:
        self.fit(FlowTeacher.load(path, device=device))


@dataclass(kw_only=True, eq=False, repr=False)
class OdeSolver(TeachersOwn):
    """The teacher's flow by a few steps of an ODE solver. A student of the same cost should be better.

    Between steps :meth:`sample_path` is straight, as in Euler's method. dopri5 has its own dense output.

    Parameters
    ----------
    solver : {"euler", "midpoint", "heun", "rk4", "ab2", "ab3", "dpm2m", "dopri5"}, default "euler"
        ODE solver. The fixed-step solvers take 1, 2, 2, 4, 1, 1 and 1 evaluations per step. ``"dopri5"`` is
        adaptive, with tolerances of 1e-5.
    steps : int, default 4
        Number of steps of a fixed-step solver, at least 1.
    grid : {"uniform", "tau", "log_snr"} or sequence of float, optional
        Times of these steps, as in :meth:`koopflow.FlowTeacher.sample`.

    Examples
    --------
    >>> from koopflow import FlowTeacher, baselines
    >>> solver = baselines.OdeSolver(steps=2).fit(FlowTeacher.gaussian([1.0, 2.0], [[1, 0], [0, 1]]))
    >>> solver.sample(x0=[[0.0, 0.0]]).round(3)
    array([[1., 2.]], dtype=float32)
    >>> solver.evaluations
    2
    """

    solver: str = "euler"
    steps: int = 4
    grid: str | Sequence[float] | None = None

    def _solver(self) -> dict[str, Any]:
        if self.solver not in SOLVERS:
            raise ArgumentError(f"solver: expected one of {', '.join(SOLVERS)}, got {self.solver!r}")
        checked_count(self.steps, "steps")
        return {"solver": self.solver, "steps": self.steps, "grid": as_grid(self.grid)}

    def _grid(self, times: list[float]) -> list[float]:
        if self.solver == "dopri5":
            return sorted({0.0, 1.0, *times})
        ends: list[float] = self._model.field.step_times(**self._solver())
        return ends


@dataclass(kw_only=True, eq=False, repr=False)
class StraightLine(TeachersOwn):
    """The straight line from noise to the teacher's endpoints, solved by dopri5. A baseline for paths.

    Examples
    --------
    >>> from koopflow import FlowTeacher, baselines
    >>> line = baselines.StraightLine().fit(FlowTeacher.gaussian([1.0, 2.0], [[1, 0], [0, 1]]))
    >>> line.sample_path([[0.0, 0.0]], times=[0.5]).round(3)
    array([[[0.5, 1. ]]], dtype=float32)
    """
