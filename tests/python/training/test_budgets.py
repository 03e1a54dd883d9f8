"""Limits of time, memory and numbers: what a teacher is asked after its time, and what nobody can answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, baselines
from koopflow.exceptions import ArgumentError, KoopflowError, NonFiniteError, OutOfMemoryError

SMALL = {"observables": 6, "width": 12, "depth": 1}


class Counted:
    """v(t, x) = 1 - x, and the rows that it was asked for."""

    def __init__(self, most: int = 10**9, error: type[Exception] = RuntimeError) -> None:
        self.rows: list[int] = []
        self.most = most
        self.error = error

    def __call__(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.rows.append(len(x))
        return 1 - x


@pytest.mark.parametrize("method", [KoopmanDistiller, baselines.PlainNetwork])
def test_time_that_is_over_is_not_spent_on_trajectories(method: type) -> None:
    velocity = Counted()
    teacher = FlowTeacher.from_torch(velocity, (2,))
    probes = len(velocity.rows)
    student = method(max_seconds=1e-9, steps=50, width=12, depth=1)
    with pytest.warns(RuntimeWarning, match="max_seconds.* is too short"):
        student.fit(teacher, progress=False)
    history = student.history_
    assert (history["trajectories"], history["steps"], history["stopped"]) == (16, 1, "budget")
    # Two for the sketch, one for the held-out errors.
    assert len(velocity.rows) - probes <= 3
    assert np.isfinite(student.sample(4)).all()


def test_trajectories_that_take_longer_than_training_are_fewer_and_a_note_says_so() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(2, 256), torch.nn.Tanh(), torch.nn.Linear(256, 256), torch.nn.Linear(256, 2)]
    network = torch.nn.Sequential(*layers)
    teacher = FlowTeacher.from_torch(lambda t, x: network(x), (2,))
    events: list[dict] = []
    counts = []
    for _ in range(2):
        student = KoopmanDistiller(steps=20, **SMALL)
        student.fit(teacher, progress=False, callback=events.append)
        counts.append(student.history_["trajectories"])
    # By counting operations: a seed gives the same student on every machine.
    assert counts == [512, 512]
    notes = [event["note"] for event in events if "note" in event]
    assert len(notes) == 2
    assert notes[0].startswith("512 trajectories are solved, in about ")
    assert "trajectories=" in notes[0]
    assert [note["text"] for note in student.history_["notes"]] == notes[1:]
    asked = KoopmanDistiller(steps=5, trajectories=3000, **SMALL).fit(teacher, progress=False)
    assert asked.history_["trajectories"] == 3000
    assert asked.history_["notes"] == []


def test_steps_bound_the_trajectories(gaussian: FlowTeacher, tmp_path) -> None:
    file = tmp_path / "student.safetensors"
    student = KoopmanDistiller(steps=2, batch_size=32, **SMALL).fit(gaussian, progress=False, checkpoint=file)
    # 32 rows of noise and of data, 16 pairs and 16 points a step, and those held out.
    assert student.history_["trajectories"] == 2 * 96 + 512
    # A longer run goes on with the trajectories that it had.
    longer = KoopmanDistiller(steps=4, batch_size=32, **SMALL).fit(gaussian, progress=False, resume=file)
    assert longer.history_["trajectories"] == 2 * 96 + 512


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_a_teacher_whose_memory_runs_out_is_asked_for_half_as_much(error: type[Exception]) -> None:
    velocity = Counted(most=100, error=error)
    teacher = FlowTeacher.from_torch(velocity, (2,))
    student = KoopmanDistiller(steps=5, trajectories=400, **SMALL).fit(teacher, progress=False)
    assert student.history_["trajectories"] == 400
    x0 = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    exact = 1 - (1 - x0) * np.exp(-1.0)
    np.testing.assert_allclose(teacher.sample(x0=x0), exact, atol=1e-3)
    assert max(velocity.rows) <= 100


def test_densities_too_small_to_be_said_are_refused_by_name(gaussian: FlowTeacher) -> None:
    student = KoopmanDistiller(steps=5, trajectories=128, **SMALL).fit(gaussian, progress=False)
    x = np.array([[1.0, -2.0], [1e20, 1e20]], dtype=np.float32)
    for model in (student, gaussian):
        with pytest.raises(NonFiniteError, match="^x: the log-densities of 1 of 2 samples"):
            model.log_prob(x)
        assert np.isfinite(model.log_prob(x[:1])).all()


@pytest.mark.parametrize("n", [2**70, 2**63 - 1, 2**62, 10**13])
def test_samples_that_no_memory_holds_are_refused(gaussian: FlowTeacher, n: int) -> None:
    student = KoopmanDistiller(steps=2, trajectories=128, **SMALL).fit(gaussian, progress=False)
    expected: type[KoopflowError] = ArgumentError if n >= 2**63 else OutOfMemoryError
    for model in (student, gaussian):
        with pytest.raises(
            expected, match="^n: expected an integer from 1" if n >= 2**63 else "out of memory"
        ):
            model.sample(n)
