"""How well a student follows its teacher, and how close both are to data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_batch, as_condition, to_numpy
from .._tables import text_table, to_frame
from ..exceptions import ArgumentError, ShapeError
from ..metrics.errors import PATH_TIMES
from ..metrics.estimate import bootstrapped
from ..teachers.flow import Flow

if TYPE_CHECKING:
    from .student import FittedStudent

# Numbers of steps that `sample(steps=k)` is tried with.
RE_ENCODINGS = (2, 4, 8)
# The assignment behind the exact Wasserstein distance costs the cube of the number of samples.
EXACT_LIMIT = 2_000


@dataclass(frozen=True)
class Distances:
    """Distances between two sets of samples.

    Attributes
    ----------
    sliced_wasserstein, energy, wasserstein2 : float
        Sliced Wasserstein-2 distance, energy distance and exact Wasserstein-2 distance: see
        :mod:`koopflow.metrics`.
    samples : int
        Number of samples on each side of the exact distance.
    """

    sliced_wasserstein: float
    energy: float
    wasserstein2: float
    samples: int


@dataclass(frozen=True)
class EvaluationReport:
    """The result of :meth:`koopflow.KoopmanDistiller.evaluate`; ``str`` is a table of it.

    Attributes
    ----------
    endpoint_error : float
        RMS of ``||student(x0) - teacher(x0)||`` over fresh noise, divided by the total standard deviation of
        the data.
    path_error : float
        The same error along the path, averaged over 17 times in [0.1, 0.9].
    straight_line_path_error : float
        Path error of the straight line between the teacher's own endpoints: the bar for claims about paths.
    inversion_error : float
        RMS of ``||invert(teacher(x0)) - x0||``, divided by the RMS norm of the noise.
    round_trip_error : float
        RMS of ``||student(invert(x1)) - x1||`` at the teacher's endpoints x1, divided by the total standard
        deviation of the data.
    phase_error : float
        RMS of ``phi(0, x0) exp(L) - phi(1, x1)`` at the teacher's own x0 and x1, divided by the total
        standard deviation of ``phi(1, x1)``: small where the features phi follow the flow, near 1 where they
        are unrelated to it. NaN where the features do not vary.
    consistency_residual : float
        RMS of ``J phi (1, v) - (g L)_phi`` along the teacher's paths, divided by the RMS of ``J phi (1, v)``
        and averaged over 19 times in [0, 1].
    re_encoding_errors : dict of int to float
        Endpoint error of ``sample(steps=k)`` for k = 2, 4, 8.
    student, teacher, floor : Distances
        Distances of the student's and the teacher's samples from the given data; the floor is the distance
        between two halves of the data, of ``floor.samples`` each.
    student_evaluations, teacher_evaluations : int
        Number of batched network evaluations for one batch of samples (NFE); the teacher is solved by dopri5.
    student_seconds, teacher_seconds : float
        Wall-clock time of the same.
    n : int
        Number of noise samples.
    seed : int
        Random seed of the noise.
    intervals : dict of str to (float, float)
        95% bootstrap intervals of the endpoint, path, inversion and round-trip error. Intervals of distances
        take many more assignments: see :func:`koopflow.metrics.measured`.
    """

    endpoint_error: float
    path_error: float
    straight_line_path_error: float
    inversion_error: float
    round_trip_error: float
    phase_error: float
    consistency_residual: float
    re_encoding_errors: dict[int, float]
    student: Distances
    teacher: Distances
    floor: Distances
    student_evaluations: int
    teacher_evaluations: int
    student_seconds: float
    teacher_seconds: float
    n: int
    seed: int
    intervals: dict[str, tuple[float, float]]

    @property
    def evaluation_ratio(self) -> float:
        """Number of the teacher's evaluations for each one of the student's."""
        return self.teacher_evaluations / max(1, self.student_evaluations)

    @property
    def speedup(self) -> float:
        """Wall-clock time of the teacher's dopri5 divided by the student's."""
        return self.teacher_seconds / max(1e-9, self.student_seconds)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, ready for JSON."""
        return {**asdict(self), "evaluation_ratio": self.evaluation_ratio, "speedup": self.speedup}

    def to_frame(self) -> Any:
        """The table as a ``pandas.DataFrame`` with the columns student, low, high, teacher and floor.

        Raises
        ------
        ArgumentError
            When pandas is not installed.
        """
        columns = ("measure", "student", "low", "high", "teacher", "floor")
        rows = [{name: row.get(name) for name in columns} for row in self._rows()]
        return to_frame(rows, index="measure")

    def _rows(self) -> list[dict[str, Any]]:
        def error(name: str, unit: str) -> dict[str, Any]:
            low, high = self.intervals[name]
            measure = name.replace("round_trip", "round-trip").replace("_", " ")
            row = {"measure": measure, "student": getattr(self, name), "unit": unit}
            return {**row, "low": low, "high": high, "interval": f"{low:.4f} to {high:.4f}"}

        def distance(measure: str, field: str) -> dict[str, Any]:
            values = {name: getattr(getattr(self, name), field) for name in ("student", "teacher", "floor")}
            return {"measure": measure, **values, "unit": "data's own units"}

        deviation = "data's total deviation"
        return [
            error("endpoint_error", deviation),
            error("path_error", deviation),
            {
                "measure": "path error of a straight line",
                "teacher": self.straight_line_path_error,
                "unit": deviation,
            },
            error("inversion_error", "norm of the noise"),
            error("round_trip_error", deviation),
            {"measure": "phase error", "student": self.phase_error, "unit": "features' total deviation"},
            {
                "measure": "consistency residual",
                "student": self.consistency_residual,
                "unit": "features' rate",
            },
            *(
                {"measure": f"endpoint error, {k} steps", "student": value, "unit": deviation}
                for k, value in self.re_encoding_errors.items()
            ),
            distance("sliced Wasserstein-2", "sliced_wasserstein"),
            distance("energy distance", "energy"),
            distance("Wasserstein-2", "wasserstein2"),
            {
                "measure": "evaluations",
                "student": self.student_evaluations,
                "teacher": self.teacher_evaluations,
                "unit": f"batches of {self.n}",
            },
            {
                "measure": "wall-clock time",
                "student": self.student_seconds,
                "teacher": self.teacher_seconds,
                "unit": "seconds",
            },
        ]

    def __str__(self) -> str:
        columns = {
            "measure": "",
            "student": "student",
            "interval": "95% interval",
            "teacher": "teacher",
            "floor": "data vs data",
            "unit": "in units of",
        }
        heading = f"EvaluationReport: {self.n} samples of fresh noise, seed {self.seed}; teacher by dopri5"
        return f"{heading}\n{text_table(self._rows(), columns)}"

    __repr__ = __str__


def evaluate(
    student: FittedStudent,
    teacher: Flow,
    data: Array,
    *,
    n: int = 2000,
    seed: int = 987_654_321,
    condition: Array | None = None,
) -> EvaluationReport:
    """Measure a student: see :meth:`koopflow.KoopmanDistiller.evaluate`."""
    held_out = to_numpy(as_batch(data))
    shape = teacher.event_shape_
    if held_out.shape[1:] != shape or len(held_out) < 4:
        raise ShapeError(f"data: expected at least 4 samples of shape {shape}, got an array {held_out.shape}")
    scale = _core.total_std(held_out)
    if scale == 0.0:
        raise ArgumentError("data: expected finite samples that are not all equal")
    noise = _core.normal((n, *shape), seed)
    times = [0.0, *PATH_TIMES, 1.0]

    path = to_numpy(teacher.trajectory(noise, times=times, condition=condition))
    before = teacher.evaluations
    ends, teacher_seconds = timed(lambda: teacher.sample(x0=noise, condition=condition))
    teacher_evaluations = teacher.evaluations - before

    student.sample(x0=noise, condition=condition)  # the first use prepares the propagator
    before = student.evaluations
    student_ends, student_seconds = timed(lambda: student.sample(x0=noise, condition=condition))
    student_evaluations = student.evaluations - before

    student_path = to_numpy(student.sample_path(noise, times=times, condition=condition))
    recovered = to_numpy(student.invert(ends, condition=condition))
    again = to_numpy(student.sample(x0=recovered, condition=condition))
    re_encoded = {k: student.sample(x0=noise, steps=k, condition=condition) for k in RE_ENCODINGS}
    line = np.stack([noise + np.float32(t) * (ends - noise) for t in PATH_TIMES])
    errors = {
        "endpoint_error": _core.endpoint_error(student_ends, ends, scale),
        "path_error": _core.path_error(student_path[1:-1], path[1:-1], scale),
        "inversion_error": _core.inversion_error(recovered, noise),
        "round_trip_error": _core.round_trip_error(again, ends, scale),
    }
    estimates = {name: bootstrapped(error) for name, error in errors.items()}

    return EvaluationReport(
        **{name: estimate.value for name, estimate in estimates.items()},
        straight_line_path_error=_core.path_error(line, path[1:-1], scale).value,
        phase_error=student._fitted().phase_error(noise, ends, condition=as_condition(condition)),
        consistency_residual=_consistency_residual(student, teacher, times, path, condition),
        re_encoding_errors={k: _core.endpoint_error(x, ends, scale).value for k, x in re_encoded.items()},
        student=distances(student_ends, held_out),
        teacher=distances(ends, held_out),
        floor=floor(held_out, n),
        student_evaluations=student_evaluations,
        teacher_evaluations=teacher_evaluations,
        student_seconds=student_seconds,
        teacher_seconds=teacher_seconds,
        n=n,
        seed=seed,
        intervals={name: (estimate.low, estimate.high) for name, estimate in estimates.items()},
    )


def distances(samples: NDArray[Any], data: NDArray[Any]) -> Distances:
    """All distances between samples and data; the exact one of equal numbers of both, at most 2,000."""
    exact = min(len(samples), len(data), EXACT_LIMIT)
    return Distances(
        sliced_wasserstein=_core.sliced_wasserstein(samples, data),
        energy=_core.energy_distance(samples, data),
        wasserstein2=_core.wasserstein2(samples[:exact], data[:exact]),
        samples=exact,
    )


def floor(data: NDArray[Any], n: int) -> Distances:
    """The distances between two halves of the data, of at most ``n`` samples each."""
    half = min(n, len(data) // 2)
    return distances(data[:half], data[half : 2 * half])


def timed(function: Callable[[], Array]) -> tuple[NDArray[Any], float]:
    """A function's array and its wall-clock time in seconds."""
    started = time.perf_counter()
    answer = to_numpy(function())
    return answer, time.perf_counter() - started


def _consistency_residual(
    student: FittedStudent,
    teacher: Flow,
    times: Sequence[float],
    path: NDArray[Any],
    condition: Array | None,
) -> float:
    """The core's residual at each time, averaged; velocities are asked for one time after another."""
    core, given = student._fitted(), as_condition(condition)
    residuals = [
        core.consistency_residual(t, x, teacher.velocity(t, x, condition), condition=given)
        for t, x in zip(times, path, strict=True)
    ]
    return float(np.mean(residuals))
