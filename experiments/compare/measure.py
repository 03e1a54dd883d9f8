"""Measurements of a student against its teacher and held-out data, the same for every method."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koopflow import _core, metrics
from koopflow._arrays import Array, to_numpy
from koopflow.metrics.errors import PATH_TIMES
from koopflow.teachers.flow import Flow

EVALUATION_SEED = 900_000_000
"""Random seed of the noise that every method is measured on, far from usual seeds of training."""

# An exact assignment of this many samples takes about half a second.
EXACT_SAMPLES = 1_000
# Number of timed runs, of which the best counts, after one run of warm-up.
TIMED_RUNS = 3
# Number of held-out samples whose densities are compared; each needs an ODE with divergence of the teacher.
DENSITY_SAMPLES = 500
# Largest dimension for densities: beyond it the exact Jacobian of every sample costs too much.
DENSITY_DIMENSIONS = 8


@dataclass(frozen=True)
class Reference:
    """A teacher's paths of fixed noise, and held-out data.

    Attributes
    ----------
    noise, ends : array, ``[n, *event]``
    path : array, ``[len(PATH_TIMES), n, *event]``
        The teacher's path, by dopri5.
    held_out : array, ``[N, *event]``
    scale : float
        The data's total standard deviation, by which errors are divided.
    """

    teacher: Flow
    noise: NDArray[Any]
    path: NDArray[Any]
    ends: NDArray[Any]
    held_out: NDArray[Any]
    scale: float

    @classmethod
    def of(cls, teacher: Flow, held_out: NDArray[Any], n: int, seed: int) -> Reference:
        """Solve the teacher's paths from the noise of this seed."""
        noise = np.asarray(_core.normal((n, *teacher.event_shape), EVALUATION_SEED + seed))
        path = to_numpy(teacher.trajectory(noise, times=[0.0, *PATH_TIMES, 1.0]))
        return cls(teacher, noise, path[1:-1], path[-1], held_out, _core.total_std(held_out))

    def of_teacher(self, teacher: Flow) -> Reference:
        """The same noise and data with another teacher's paths."""
        path = to_numpy(teacher.trajectory(self.noise, times=[0.0, *PATH_TIMES, 1.0]))
        return Reference(teacher, self.noise, path[1:-1], path[-1], self.held_out, self.scale)

    def path_errors(self, states: Array) -> NDArray[np.float64]:
        """RMS distance from the teacher's path at each of ``PATH_TIMES``, divided by the data's deviation."""
        pairs = zip(to_numpy(states), self.path, strict=True)
        return np.array([_core.endpoint_error(got, exact, self.scale).value for got, exact in pairs])

    def straight_line(self) -> NDArray[np.float64]:
        """:meth:`path_errors` of the straight lines between noise and the teacher's endpoints."""
        times = np.array(PATH_TIMES, dtype=self.noise.dtype).reshape(-1, *[1] * self.noise.ndim)
        return self.path_errors(self.noise + times * (self.ends - self.noise))

    @property
    def exact(self) -> int:
        """Number of samples of each set of an exact Wasserstein distance."""
        return min(len(self.noise), len(self.held_out), EXACT_SAMPLES)


def quality(samples: NDArray[Any], reference: Reference) -> dict[str, float]:
    """Distances of samples from held-out data."""
    data, exact = reference.held_out, reference.exact
    flat, rows = samples.reshape(len(samples), -1), data.reshape(len(data), -1)
    some = rows[: len(flat)]
    precision, recall = metrics.precision_recall(flat, some)
    return {
        "wasserstein2": metrics.wasserstein2(flat[:exact], rows[:exact]),
        "sliced_wasserstein": metrics.sliced_wasserstein(flat, rows),
        "energy": metrics.energy_distance(flat, rows),
        "mmd": metrics.mmd(flat, some),
        "precision": precision,
        "recall": recall,
    }


def measured(
    student: Any, reference: Reference, original: Reference, *, steps: int | None
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The values of one row, and its curve over time.

    Parameters
    ----------
    student : student
        Fitted student or solver.
    reference : Reference
        Noise, paths and endpoints of the teacher that the student was fitted to, for path and inversion
        errors.
    original : Reference
        Reference of the first teacher, whose endpoints the student should reach.
    steps : int, optional
        Number of sampling steps; None if the student has no choice.
    """
    options = {} if steps in (None, 1) else {"steps": steps}
    before = student.evaluations
    samples = to_numpy(student.sample(x0=reference.noise, **options))
    evaluations = student.evaluations - before
    numbers = {
        "evaluations": float(evaluations),
        "milliseconds": _timed(lambda: student.sample(x0=reference.noise, **options), len(samples)),
        "endpoint_error": _core.endpoint_error(samples, original.ends, original.scale).value,
        "own_endpoint_error": _core.endpoint_error(samples, reference.ends, reference.scale).value,
        **quality(samples, original),
    }
    curves: dict[str, list[float]] = {}
    if steps in (None, 1):
        numbers |= _path(student, reference, curves)
        numbers |= _inverse(student, reference)
        numbers |= _density(student, reference)
    return numbers, curves


def _path(student: Any, reference: Reference, curves: dict[str, list[float]]) -> dict[str, float]:
    if not getattr(student, "has_path", True):
        return {}
    states = to_numpy(student.sample_path(x0=reference.noise, times=[0.0, *PATH_TIMES, 1.0]))
    errors, line = reference.path_errors(states[1:-1]), reference.straight_line()
    curves |= {"path": errors.tolist(), "straight line": line.tolist()}
    return {
        "path_error": float(errors.mean()),
        "straight_line_path_error": float(line.mean()),
        "path_over_line": float(errors.mean() / line.mean()),
    }


def _inverse(student: Any, reference: Reference) -> dict[str, float]:
    if not getattr(student, "has_inverse", True):
        return {}
    noise = to_numpy(student.invert(reference.ends))
    again = to_numpy(student.sample(x0=noise))
    return {
        "inversion_error": _core.inversion_error(noise, reference.noise).value,
        "round_trip_error": _core.round_trip_error(again, reference.ends, reference.scale).value,
    }


def _density(student: Any, reference: Reference) -> dict[str, float]:
    dimension = reference.noise[0].size
    if not hasattr(student, "log_prob") or dimension > DENSITY_DIMENSIONS:
        return {}
    data = reference.held_out[:DENSITY_SAMPLES]
    own = to_numpy(student.log_prob(data)).astype(np.float64)
    teachers = to_numpy(reference.teacher.log_prob(data)).astype(np.float64)
    bits = dimension * math.log(2.0)
    return {
        "bits_per_dimension": float(-own.mean() / bits),
        "teacher_bits_per_dimension": float(-teachers.mean() / bits),
        "density_correlation": float(np.corrcoef(own, teachers)[0, 1]),
    }


def _timed(sample: Callable[[], Any], count: int) -> float:
    """Milliseconds for 1,000 samples: the best of a few runs."""
    best = math.inf
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        sample()
        best = min(best, time.perf_counter() - started)
    return 1e6 * best / count
