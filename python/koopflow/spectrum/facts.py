"""What is measured once of all of a student's modes, before anything is selected of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_condition, to_numpy
from ..exceptions import ArgumentError, ShapeError
from ..teachers.flow import Flow, checked_count, times_for

if TYPE_CHECKING:
    from ..students.student import FittedStudent

# Times along the teacher's paths where residuals are measured.
RESIDUAL_TIMES = tuple(float(t) for t in np.linspace(0.0, 1.0, 9))
NOISE_SEED = 424_242
SORTS = ("energy", "frequency", "growth", "modulus", "residual")
_Complex = NDArray[np.complex128]
_Real = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SpectralFacts:
    """What is known of all r modes, in the core's order, whatever is selected of them."""

    student: FittedStudent
    core: _core.Spectrum
    eigenvalues: _Complex
    weights: _Complex
    partners: NDArray[np.int64]
    # What a unit of psi puts into the state, and into its rate: [r, d].
    modes: _Complex
    rates: _Complex
    condition_numbers: _Real
    # Mean square and deviation of psi(0, x0) over noise.
    power: _Real
    spread: _Real
    residuals: _Real | None
    samples: int


def measure_facts(
    student: FittedStudent, teacher: Flow | None, *, condition: Array | None, n: int, seed: int
) -> SpectralFacts:
    """Decompose the generator; energies over ``n`` noise samples, residuals along the teacher's paths."""
    fitted = student._fitted()
    core = fitted.spectrum()
    noise = _core.normal((checked_count(n), *fitted.event_shape), seed)
    condition = conditions_for(student, n, condition)
    weights, eigenvalues = core.weights, core.eigenvalues
    psi = to_numpy(student.encode(0.0, noise, condition=condition)).astype(np.float64) @ weights
    size = int(np.prod(fitted.event_shape))

    def read(rows: _Complex) -> _Complex:
        # A slice needs no product, and of what a network decodes the slice is the linear part.
        columns = core.readout if student.config_["readout"] == "linear" else None
        return np.asarray(rows[:, 2 : 2 + size] if columns is None else rows @ columns)

    return SpectralFacts(
        student=student,
        core=core,
        eigenvalues=eigenvalues,
        weights=weights,
        partners=_partners(eigenvalues),
        modes=read(core.rows),
        rates=read(core.rates),
        condition_numbers=core.condition_numbers,
        power=(np.abs(psi) ** 2).mean(axis=0),
        spread=np.sqrt((np.abs(psi - psi.mean(axis=0)) ** 2).mean(axis=0)),
        residuals=None
        if teacher is None
        else _residuals(student, teacher, noise, condition, weights, eigenvalues),
        samples=n,
    )


def conditions_for(student: FittedStudent, n: int, condition: Array | None) -> Array | None:
    """Conditions for ``n`` samples: those given, repeated; else every class in turn.

    Raises
    ------
    ArgumentError
        For a student of vectors without any.
    """
    if condition is not None:
        given = np.asarray(to_numpy(as_condition(condition)))
        return np.resize(given, (n, *given.shape[1:]))
    kind = student.teacher_.get("conditioning", "none")
    if isinstance(kind, dict) and "labels" in kind:
        return np.arange(n) % int(kind["labels"]["classes"])
    if isinstance(kind, dict):
        raise ArgumentError("condition: expected vectors [P, dim] to draw from, got none")
    return None


def _partners(eigenvalues: _Complex) -> NDArray[np.int64]:
    places = np.arange(len(eigenvalues))
    return np.asarray(places + np.sign(eigenvalues.imag).astype(np.int64))


def sorted_by(sort: str, facts: SpectralFacts) -> NDArray[np.int64]:
    """Core indices in descending energy or in ascending anything else, pairs side by side."""
    if sort == "energy":
        size = (np.abs(facts.rates) ** 2).sum(axis=1) * facts.power
        key = -size * np.abs(integral(facts.eigenvalues, 1.0)) ** 2
    elif sort == "residual" and facts.residuals is not None:
        key = facts.residuals
    else:
        values = facts.eigenvalues
        key = {"frequency": np.abs(values.imag), "growth": values.real, "modulus": np.abs(values)}[sort]
    # A pair has one key, the first of the two, and its own second key.
    first = np.minimum(np.arange(len(key)), facts.partners)
    return np.asarray(np.lexsort((np.arange(len(key)), first, key[first])))


def integral(eigenvalues: _Complex, t: float) -> _Complex:
    """(e^{lambda t} - 1) / lambda."""
    z = eigenvalues * t
    small = np.abs(z) < 1e-3
    safe = np.where(small, 1.0, eigenvalues)
    series = t * (1 + z / 2 * (1 + z / 3 * (1 + z / 4)))
    return np.asarray(np.where(small, series, (np.exp(safe * t) - 1.0) / safe))


def _residuals(
    student: FittedStudent,
    teacher: Flow,
    noise: NDArray[Any],
    condition: Array | None,
    weights: _Complex,
    eigenvalues: _Complex,
) -> _Real:
    if not isinstance(teacher, Flow):
        raise TypeError(f"teacher: expected a FlowTeacher, got {type(teacher).__name__}")
    if tuple(teacher.event_shape) != tuple(student._fitted().event_shape):
        raise ShapeError(
            f"teacher: expected event shape {tuple(student._fitted().event_shape)}, got {teacher.event_shape}"
        )
    path = to_numpy(teacher.trajectory(noise, times=RESIDUAL_TIMES, condition=condition))
    gap = rate = size = np.zeros(len(eigenvalues))
    for t, x in zip(RESIDUAL_TIMES, path, strict=True):
        velocity = to_numpy(teacher.velocity(times_for(t, x), x, condition))
        g, tangent = student.encode_with_tangent(t, x, velocity, condition=condition)
        psi = to_numpy(g).astype(np.float64) @ weights
        moved = to_numpy(tangent).astype(np.float64) @ weights
        gap = gap + (np.abs(moved - psi * eigenvalues) ** 2).mean(axis=0)
        rate = rate + (np.abs(moved) ** 2).mean(axis=0)
        size = size + (np.abs(psi - psi.mean(axis=0)) ** 2).mean(axis=0)
    scale = rate + size
    # An eigenfunction that is constant everywhere says nothing.
    return np.sqrt(np.where(scale > 0, gap / np.where(scale > 0, scale, 1.0), 1.0))
