"""How well a student follows its teacher, and how close both are to data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_batch, rms_norm, to_numpy, total_std
from ..exceptions import ArgumentError, ShapeError
from ..metrics.errors import PATH_TIMES
from ..metrics.estimate import rms_error
from ..teachers.flow import Flow

if TYPE_CHECKING:
    from .distiller import KoopmanDistiller

# What `sample(steps=k)` is tried with.
RE_ENCODINGS = (2, 4, 8)
# The assignment behind the exact Wasserstein distance costs the cube of the number of samples.
EXACT_LIMIT = 2_000


@dataclass(frozen=True)
class Distances:
    """Distances between two sets of samples; the floor is what two sets of data are apart."""

    sliced_wasserstein: float
    energy: float
    wasserstein2: float
    samples: int


@dataclass(frozen=True)
class EvaluationReport:
    """The result of :meth:`koopflow.KoopmanDistiller.evaluate`.

    Attributes
    ----------
    endpoint_error : float
        RMS of ``||student(x0) - teacher(x0)||`` over fresh noise, over the data's total standard deviation.
    path_error : float
        The same along the path, averaged over 17 times in [0.1, 0.9].
    straight_line_path_error : float
        What the straight line between the teacher's own endpoints would score: the bar for claims about
        paths.
    inversion_error : float
        RMS of ``||invert(teacher(x0)) - x0||`` over the RMS norm of the noise.
    round_trip_error : float
        RMS of ``||student(invert(x1)) - x1||`` at the teacher's endpoints x1, over the data's total
        deviation.
    phase_error : float
        RMS of ``phi(0, x0) exp(L) - phi(1, x1)`` at the teacher's own x0 and x1, over the total deviation of
        the second: whether observables follow the flow (small) or are a basis of the student's own (near 1).
    consistency_residual : float
        RMS of ``J phi (1, v) - (g L)_phi`` along the teacher's paths over that of ``J phi (1, v)``, averaged
        over 19 times in [0, 1].
    re_encoding_errors : dict of int to float
        The endpoint error of ``sample(steps=k)`` for k = 2, 4, 8.
    student, teacher, floor : Distances
        To the given data; the floor is the distance between two halves of the data, of ``floor.samples``
        each.
    student_evaluations, teacher_evaluations : int
        Batched network evaluations for one batch of samples (NFE); the teacher's by dopri5.
    student_seconds, teacher_seconds : float
        Wall-clock of the same.
    n : int
        Noise samples.
    seed : int
        Of the noise.
    intervals : dict of str to (float, float)
        For the endpoint, path, inversion and round-trip error: where 95% of them come out for other noise, by
        the bootstrap. Those of distances take many more assignments: :func:`koopflow.metrics.measured`.
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
        """How many times fewer evaluations the student needs."""
        return self.teacher_evaluations / max(1, self.student_evaluations)

    @property
    def speedup(self) -> float:
        """How many times less wall-clock the student needs than the teacher's dopri5."""
        return self.teacher_seconds / max(1e-9, self.student_seconds)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, ready for JSON."""
        return {**asdict(self), "evaluation_ratio": self.evaluation_ratio, "speedup": self.speedup}

    def __str__(self) -> str:
        def row(name: str, value: str, note: str) -> str:
            return f"  {name:<22}{value:>10}   {note}"

        def error(name: str, note: str) -> str:
            low, high = self.intervals[name]
            value = f"{getattr(self, name):.4f}"
            return row(name.replace("_", " "), value, f"{note}, 95% {low:.4f} to {high:.4f}")

        def distance(name: str, field: str) -> str:
            student, teacher, floor = (getattr(d, field) for d in (self.student, self.teacher, self.floor))
            return row(name, f"{student:.4f}", f"teacher {teacher:.4f}, data against data {floor:.4f}")

        return "\n".join(
            [
                f"EvaluationReport: {self.n} samples of fresh noise, seed {self.seed}",
                error("endpoint_error", "of the data's total deviation"),
                error("path_error", f"straight line {self.straight_line_path_error:.4f}"),
                error("inversion_error", "of the noise's norm"),
                error("round_trip_error", "of the data's total deviation"),
                row("phase error", f"{self.phase_error:.4f}", "of the observables' total deviation"),
                row("consistency residual", f"{self.consistency_residual:.4f}", "of the observables' rate"),
                row(
                    "re-encoded endpoints",
                    f"{max(self.re_encoding_errors.values()):.4f}",
                    ", ".join(f"{k} steps {e:.4f}" for k, e in self.re_encoding_errors.items()),
                ),
                distance("sliced Wasserstein", "sliced_wasserstein"),
                distance("energy distance", "energy"),
                distance("Wasserstein-2 (exact)", "wasserstein2"),
                row(
                    "evaluations",
                    str(self.student_evaluations),
                    f"teacher {self.teacher_evaluations} (dopri5)",
                ),
                row("seconds", f"{self.student_seconds:.4f}", f"teacher {self.teacher_seconds:.4f} (dopri5)"),
            ]
        )

    __repr__ = __str__


def evaluate(
    student: KoopmanDistiller,
    teacher: Flow,
    data: Array,
    *,
    n: int = 2000,
    seed: int = 987_654_321,
    condition: Array | None = None,
) -> EvaluationReport:
    """Measure a student: see :meth:`koopflow.KoopmanDistiller.evaluate`."""
    held_out = to_numpy(as_batch(data))
    shape = teacher.event_shape
    if held_out.shape[1:] != shape or len(held_out) < 4:
        raise ShapeError(f"data: expected at least 4 samples of shape {shape}, got an array {held_out.shape}")
    scale = total_std(held_out)
    if not (np.isfinite(scale) and scale > 0.0):
        raise ArgumentError("data: expected finite samples that are not all equal")
    noise = _core.normal((n, *shape), seed)
    times = [0.0, *PATH_TIMES, 1.0]

    path = to_numpy(teacher.trajectory(noise, times=times, condition=condition))
    before = teacher.evaluations
    started = time.perf_counter()
    ends = to_numpy(teacher.sample(x0=noise, condition=condition))
    teacher_seconds = time.perf_counter() - started
    teacher_evaluations = teacher.evaluations - before

    student_ends = to_numpy(
        student.sample(x0=noise, condition=condition)
    )  # warm: the propagator is folded here
    before = student.evaluations
    started = time.perf_counter()
    student_ends = to_numpy(student.sample(x0=noise, condition=condition))
    student_seconds = time.perf_counter() - started
    student_evaluations = student.evaluations - before

    student_path = to_numpy(student.sample_path(noise, times=times, condition=condition))
    recovered = to_numpy(student.invert(ends, condition=condition))
    again = to_numpy(student.sample(x0=recovered, condition=condition))
    re_encoded = {
        k: rms_norm(to_numpy(student.sample(x0=noise, steps=k, condition=condition)) - ends) / scale
        for k in RE_ENCODINGS
    }
    line = [noise + np.float32(t) * (ends - noise) for t in PATH_TIMES]
    inner = path[1:-1]
    errors = {
        "endpoint_error": rms_error([student_ends], [ends], scale),
        "path_error": rms_error(student_path[1:-1], inner, scale),
        "inversion_error": rms_error([recovered], [noise], rms_norm(noise)),
        "round_trip_error": rms_error([again], [ends], scale),
    }

    return EvaluationReport(
        endpoint_error=errors["endpoint_error"].value,
        path_error=errors["path_error"].value,
        straight_line_path_error=_mean_error(line, inner) / scale,
        inversion_error=errors["inversion_error"].value,
        round_trip_error=errors["round_trip_error"].value,
        phase_error=_phase_error(student, noise, ends, condition),
        consistency_residual=_consistency_residual(student, teacher, times, path, condition),
        re_encoding_errors=re_encoded,
        student=distances(student_ends, held_out),
        teacher=distances(ends, held_out),
        floor=floor(held_out, n),
        student_evaluations=student_evaluations,
        teacher_evaluations=teacher_evaluations,
        student_seconds=student_seconds,
        teacher_seconds=teacher_seconds,
        n=n,
        seed=seed,
        intervals={name: (error.low, error.high) for name, error in errors.items()},
    )


def distances(samples: NDArray[Any], data: NDArray[Any]) -> Distances:
    """All distances between samples and data; the exact one on as many as both have, up to a limit."""
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
    """A function's array and its wall-clock in seconds."""
    started = time.perf_counter()
    answer = to_numpy(function())
    return answer, time.perf_counter() - started


def _features(student: KoopmanDistiller, g: Array) -> NDArray[Any]:
    return to_numpy(g)[:, 2 + int(np.prod(student.event_shape_)) :]


def _phase_error(
    student: KoopmanDistiller, noise: NDArray[Any], ends: NDArray[Any], condition: Array | None
) -> float:
    moved = _features(student, student.propagate(student.encode(0.0, noise, condition=condition), 1.0))
    there = _features(student, student.encode(1.0, ends, condition=condition))
    return rms_norm(moved - there) / total_std(there)


def _consistency_residual(
    student: KoopmanDistiller,
    teacher: Flow,
    times: list[float],
    path: NDArray[Any],
    condition: Array | None,
) -> float:
    generator = student.generator_matrix()
    ratios = []
    for t, x in zip(times, path, strict=True):
        velocity = to_numpy(teacher.velocity(t, x, condition))
        g, rate = student.encode_with_tangent(t, x, velocity, condition=condition)
        predicted = _features(student, to_numpy(g).astype(np.float64) @ generator)
        actual = _features(student, rate)
        ratios.append(rms_norm(actual - predicted) / rms_norm(actual))
    return float(np.mean(ratios))


def _mean_error(states: Any, exact: Any) -> float:
    return float(np.mean([rms_norm(s - e) for s, e in zip(states, exact, strict=True)]))
