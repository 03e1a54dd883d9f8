"""koopflow's teachers and students of populations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from koopflow import FlowTeacher, KoopmanDistiller

from .problems import Problem

Real = NDArray[np.float64]
# Options of teachers by their names in tables.
TEACHERS: dict[str, dict[str, Any]] = {
    "lines": {},
    "splines": {"interpolant": "spline"},
    "independent": {"coupling": "independent"},
}
GROWING: dict[str, Any] = {"coupling": "unbalanced"}
GRID = 65  # Number of times along a path for the integral of its growth.


def teach(
    problem: Problem, seed: int, steps: int | None, *, growing: bool = False, **given: Any
) -> FlowTeacher:
    options = {"growth": problem.sizes, **GROWING, **given} if growing else given
    rows = [snapshot.astype(np.float32) for snapshot in problem.snapshots]
    return FlowTeacher.snapshots(rows, problem.times, seed=seed, steps=steps, progress=False, **options)


def distil(teacher: FlowTeacher, seed: int, steps: int | None) -> KoopmanDistiller:
    return KoopmanDistiller(seed=seed, steps=steps).fit(teacher, progress=False)


def followed(model: Any, starts: Real, times: list[float]) -> Real:
    """States ``[T, B, d]`` at times, from rows of the first snapshot.

    They come from a teacher's ODE, or from one evaluation of a student.
    """
    path = model.trajectory if isinstance(model, FlowTeacher) else model.sample_path
    found = path(x0=starts.astype(np.float32), times=times)
    return np.asarray(found, float)


def weighed(teacher: FlowTeacher, model: Any, starts: Real, time: float) -> tuple[Real, Real]:
    """States at a time and their masses, along the paths of a teacher or of its student."""
    grid = np.linspace(teacher.clock.start, time, GRID).tolist()
    states = followed(model, starts, grid)
    return states[-1], np.asarray(teacher.masses(grid, states.astype(np.float32)), float)[-1]
