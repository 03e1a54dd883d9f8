"""How well a student follows its teacher, and how close both are to data."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_batch, to_numpy
from .._conditioning import Conditioning
from .._tables import text_table, to_frame
from ..exceptions import ArgumentError, ShapeError
from ..metrics.errors import PATH_TIMES, recovery
from ..metrics.estimate import bootstrapped
from ..teachers.flow import Flow

if TYPE_CHECKING:
    from .student import FittedStudent

# Values of k with which `sample(steps=k)` is measured.
RE_ENCODINGS = (2, 4, 8)
# Largest number of samples for the exact Wasserstein distance, whose cost is cubic in it.
EXACT_LIMIT = 2_000
# Default number of fresh noise samples, and their default random seed.
SAMPLES, SEED = 2_000, 987_654_321


@dataclass(frozen=True)
class Distances:
    """Distances between two sets of samples: see :mod:`koopflow.metrics`.

    They are the sliced Wasserstein-2, the energy and the exact Wasserstein-2 distance. The last one is
    computed from ``samples`` samples of each set.
    """

    sliced_wasserstein: float
    energy: float
    wasserstein2: float
    samples: int


@dataclass(frozen=True)
class EvaluationReport:
    """The result of :meth:`koopflow.KoopmanDistiller.evaluate`. ``str`` gives a table.

    Errors are in units of the data's total standard deviation unless they say otherwise.

    Attributes
    ----------
    endpoint_error : float
        RMS of ``||student(x0) - teacher(x0)||`` over fresh noise.
    path_error : float
        The same error along the path, averaged over 17 times in [0.1, 0.9].
    straight_line_path_error : float
        Path error of the straight line between the teacher's own endpoints, a baseline for ``path_error``.
    inversion_error : float
        RMS of ``||invert(teacher(x0)) - x0||``, divided by the RMS norm of the noise, or by the total
        standard deviation of another source.
    round_trip_error : float
        RMS of ``||student(invert(x1)) - x1||`` at the teacher's endpoints x1.
    phase_error : float
        RMS of ``phi(0, x0) exp(L) - phi(1, x1)`` at the teacher's own x0 and x1, divided by the total
        standard deviation of ``phi(1, x1)``. It is small if the features phi follow the flow, near 1 if they
        are unrelated to it, and NaN if they do not vary.
    consistency_residual : float
        RMS of ``J phi (1, v) - (g L)_phi`` along the teacher's paths, divided by the RMS of ``J phi (1, v)``
        and averaged over 19 times in [0, 1].
    re_encoding_errors : dict of int to float
        Endpoint error of ``sample(steps=k)`` for k = 2, 4, 8.
    student, teacher, floor : Distances
        Distances from the given data of the student's and of the teacher's samples, and the distance between
        two halves of the data, of at most ``n`` samples each. NaN without data.
    student_evaluations, teacher_evaluations, student_seconds, teacher_seconds : int, float
        Batched network evaluations (NFE) and wall-clock time of one batch; the teacher's by dopri5.
    n, seed : int
        Number of noise samples and their random seed.
    source : str
        Kind of the teacher's source: ``"normal"``, ``"rows"``, ``"flow"`` or ``"sampler"``.
    intervals : dict of str to (float, float)
        95% bootstrap intervals of the endpoint, path, inversion and round-trip error. Intervals of distances
        need many more assignments: see :func:`koopflow.metrics.measured`.
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
    source: str = "normal"

    @property
    def evaluation_ratio(self) -> float:
        """Number of the teacher's evaluations divided by the student's."""
        return self.teacher_evaluations / max(1, self.student_evaluations)

    @property
    def speedup(self) -> float:
        """Wall-clock time of the teacher's dopri5 divided by the student's."""
        return self.teacher_seconds / max(1e-9, self.student_seconds)

    def to_dict(self) -> dict[str, Any]:
        """All entries as plain values, ready for JSON."""
        return {**asdict(self), "evaluation_ratio": self.evaluation_ratio, "speedup": self.speedup}

    def to_frame(self) -> Any:
        """The table as a ``pandas.DataFrame`` with the columns student, low, high, teacher and floor.

        Raises ``ArgumentError`` when pandas is not installed.
        """
        columns = ("measure", "student", "low", "high", "teacher", "floor")
        return to_frame([{name: row.get(name) for name in columns} for row in self._rows()], index="measure")

    def _rows(self) -> list[dict[str, Any]]:
        deviation = "data's total deviation"

        def row(measure: str, unit: str, **sides: float) -> dict[str, Any]:
            name = re.sub("[ -]", "_", measure)
            low, high = self.intervals.get(name, (None, None))
            interval = "" if low is None else f"{low:.4f} to {high:.4f}"
            return {"measure": measure, "unit": unit, "low": low, "high": high, "interval": interval, **sides}

        def distance(measure: str, field: str) -> dict[str, Any]:
            values = {name: getattr(getattr(self, name), field) for name in ("student", "teacher", "floor")}
            return row(measure, "data's own units", **values)

        batches, calls = f"batches of {self.n}", (self.student_evaluations, self.teacher_evaluations)
        return [
            row("endpoint error", deviation, student=self.endpoint_error),
            row("path error", deviation, student=self.path_error),
            row("path error of a straight line", deviation, teacher=self.straight_line_path_error),
            row(
                "inversion error",
                ("norm of the noise" if self.source == "normal" else "source's total deviation"),
                student=self.inversion_error,
            ),
            row("round-trip error", deviation, student=self.round_trip_error),
            row("phase error", "features' total deviation", student=self.phase_error),
            row("consistency residual", "features' rate", student=self.consistency_residual),
            *(
                row(f"endpoint error, {k} steps", deviation, student=value)
                for k, value in self.re_encoding_errors.items()
            ),
            distance("sliced Wasserstein-2", "sliced_wasserstein"),
            distance("energy distance", "energy"),
            distance("Wasserstein-2", "wasserstein2"),
            row("evaluations", batches, student=calls[0], teacher=calls[1]),
            row("wall-clock time", "seconds", student=self.student_seconds, teacher=self.teacher_seconds),
        ]

    def to_markdown(self) -> str:
        """The table in Markdown, with a heading that says what was measured."""
        return self._written("github")

    def _written(self, style: str) -> str:
        columns = {"measure": "", "student": "student", "interval": "95% interval", "teacher": "teacher"}
        columns |= {"floor": "data vs data", "unit": "in units of"}
        heading = f"{self.n} samples of fresh noise, seed {self.seed}; teacher by dopri5"
        gap = "\n\n" if style == "github" else "\n"
        return f"{heading}{gap}{text_table(self._rows(), columns, style=style)}"

    def __str__(self) -> str:
        return f"EvaluationReport: {self._written('plain')}"

    __repr__ = __str__


def evaluate(
    student: FittedStudent,
    teacher: Flow,
    data: Array | None,
    *,
    n: int,
    seed: int,
    condition: Array | None,
) -> EvaluationReport:
    """Measure a student: see :meth:`koopflow.KoopmanDistiller.evaluate`."""
    core = student._fitted()
    held_out, noise, condition = _asked(student, teacher, data, n=n, seed=seed, condition=condition)
    times = [0.0, *PATH_TIMES, 1.0]

    def drawn(model: Any) -> tuple[NDArray[Any], int, float]:
        before = model.evaluations
        samples, seconds = timed(lambda: model.sample(x0=noise, condition=condition))
        return samples, model.evaluations - before, seconds

    path = to_numpy(teacher._solve(noise, times, False, {"condition": condition}))
    ends, teacher_evaluations, teacher_seconds = drawn(teacher)
    scale = _unit(ends, held_out)
    drawn(student)  # the first use prepares the propagator
    student_ends, student_evaluations, student_seconds = drawn(student)
    student_path = to_numpy(core.sample_path(noise, times, condition=condition))
    recovered = to_numpy(student.invert(ends, condition=condition))
    again = to_numpy(student.sample(x0=recovered, condition=condition))
    re_encoded = {k: student.sample(x0=noise, steps=k, condition=condition) for k in RE_ENCODINGS}
    line = np.stack([noise + np.float32(t) * (ends - noise) for t in PATH_TIMES])
    errors = {
        "endpoint_error": _core.endpoint_error(student_ends, ends, scale),
        "path_error": _core.path_error(student_path[1:-1], path[1:-1], scale),
        "inversion_error": recovery(recovered, noise, teacher),
        "round_trip_error": _core.round_trip_error(again, ends, scale),
    }
    # One time after another, which bounds the memory for velocities.
    residuals = [
        core.consistency_residual(t, x, teacher.field.velocity(t, x, condition), condition=condition)
        for t, x in zip(times, path, strict=True)
    ]
    estimates = {name: bootstrapped(error) for name, error in errors.items()}

    sets = [Distances(np.nan, np.nan, np.nan, samples=0)] * 3
    if held_out is not None:
        half = min(n, len(held_out) // 2)
        pairs = ((student_ends, held_out), (ends, held_out), (held_out[:half], held_out[half : 2 * half]))
        sets = [distances(samples, of) for samples, of in pairs]
    return EvaluationReport(
        **{name: estimate.value for name, estimate in estimates.items()},
        straight_line_path_error=_core.path_error(line, path[1:-1], scale).value,
        phase_error=core.phase_error(noise, ends, condition=condition),
        consistency_residual=float(np.mean(residuals)),
        re_encoding_errors={k: _core.endpoint_error(x, ends, scale).value for k, x in re_encoded.items()},
        student=sets[0],
        teacher=sets[1],
        floor=sets[2],
        student_evaluations=student_evaluations,
        teacher_evaluations=teacher_evaluations,
        student_seconds=student_seconds,
        teacher_seconds=teacher_seconds,
        n=n,
        seed=seed,
        source=teacher.field.source.kind,
        intervals={name: (estimate.low, estimate.high) for name, estimate in estimates.items()},
    )


def endpoint_error(
    student: FittedStudent, teacher: Flow, data: Array | None, *, condition: Array | None
) -> float:
    """The endpoint error of :func:`evaluate`, alone: see :meth:`koopflow.KoopmanDistiller.score`."""
    data = None if data is None else as_batch(data, "data")
    n = SAMPLES if data is None else len(data)
    held_out, noise, condition = _asked(student, teacher, data, n=n, seed=SEED, condition=condition)
    ends = to_numpy(teacher.sample(x0=noise, condition=condition))
    samples = to_numpy(student.sample(x0=noise, condition=condition))
    return float(_core.endpoint_error(samples, ends, _unit(ends, held_out)).value)


def _asked(
    student: FittedStudent, teacher: Flow, data: Array | None, *, n: int, seed: int, condition: Array | None
) -> tuple[NDArray[Any] | None, NDArray[Any], Array | None]:
    """Held-out data, fresh noise, and the condition of each of its rows."""
    shape = teacher.event_shape_
    held_out = None if data is None else to_numpy(as_batch(data, "data"))
    if held_out is not None and (held_out.shape[1:] != shape or len(held_out) < 4):
        raise ShapeError(f"data: expected at least 4 samples of shape {shape}, got an array {held_out.shape}")
    known = None if teacher.training_data_ is None else teacher.training_data_.condition
    condition = student.teacher_.get("classes") if condition is None else condition
    pool = Conditioning.of(teacher.field).pool(condition, known)
    if pool is not None:
        # All conditions are used equally often, whether they belong to samples or to data.
        rows = np.random.default_rng(seed).permutation(len(pool)) if len(pool) > n else np.arange(len(pool))
        condition = pool[np.resize(rows, n)]
    return held_out, teacher.field.source.draw(n, seed, condition=condition), condition


def _unit(ends: NDArray[Any], held_out: NDArray[Any] | None) -> float:
    """The unit of errors: the total standard deviation of the data, or else of the teacher's samples."""
    scale = _core.total_std(ends if held_out is None else held_out)
    if scale == 0.0:
        argument = "n: expected at least 2 samples" if held_out is None else "data: expected finite samples"
        raise ArgumentError(f"{argument} that are not all equal")
    return scale


def distances(samples: NDArray[Any], data: NDArray[Any]) -> Distances:
    """All distances between samples and data. The exact one uses equally many of both, at most 2,000."""
    exact = min(len(samples), len(data), EXACT_LIMIT)
    return Distances(
        sliced_wasserstein=_core.sliced_wasserstein(samples, data),
        energy=_core.energy_distance(samples, data),
        wasserstein2=_core.wasserstein2(samples[:exact], data[:exact]),
        samples=exact,
    )


def timed(function: Callable[[], Array]) -> tuple[NDArray[Any], float]:
    """A function's array and its wall-clock time in seconds."""
    started = time.perf_counter()
    answer = to_numpy(function())
    return answer, time.perf_counter() - started
