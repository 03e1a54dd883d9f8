"""Options of the loss that are off by default: weights of rows."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller, Objective

OPTIONS = {
    "observables": 8,
    "width": 16,
    "depth": 1,
    "steps": 12,
    "batch_size": 32,
    "trajectories": 256,
    "trajectories__path_steps": 8,
}
NOISE = np.random.default_rng(3).normal(size=(64, 2)).astype("f4")


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    return FlowTeacher.gaussian([1.0, -1.0], [[2.0, 0.3], [0.3, 0.5]])


def fitted(teacher: FlowTeacher, objective: Objective | None = None, **options) -> KoopmanDistiller:
    student = KoopmanDistiller(objective=objective).set_params(**{**OPTIONS, **options})
    return student.fit(teacher, progress=False)


def terms(student: KoopmanDistiller, index: int) -> dict[str, float]:
    """The terms of the loss in one entry of the log."""
    names = ("endpoint", "path", "target", "inverse", "round_trip", "phase")
    values = student.history_["log"][index]
    return {name: values[name] for name in names if name in values}


def test_row_weights_reach_the_loss(teacher):
    plain, off, even = (
        fitted(teacher, objective)
        for objective in (None, Objective(row_power=0), Objective(row_power=1, row_offset=1e-6))
    )
    assert np.array_equal(plain.sample(x0=NOISE), off.sample(x0=NOISE))
    assert not np.array_equal(plain.sample(x0=NOISE), even.sample(x0=NOISE))
    # Each row of a term in data space counts as e / (e + 1e-6), nearly 1 for errors of an untrained student.
    first = terms(even, 0)
    phase = first.pop("phase")
    assert first == pytest.approx(dict.fromkeys(first, 1.0), abs=1e-2)
    # Before the first update, what is not weighted is the same.
    assert phase == pytest.approx(terms(plain, 0)["phase"])
    # Offsets beyond all errors divide them all by the same number.
    far = terms(fitted(teacher, Objective(row_power=2, row_offset=1e4)), 0)
    scaled = {name: value * 1e8 for name, value in far.items() if name != "phase"}
    assert scaled == pytest.approx({k: v for k, v in terms(plain, 0).items() if k != "phase"}, rel=2e-2)
