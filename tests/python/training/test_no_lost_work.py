"""Whatever ends a fit, what was learnt is kept: in the estimator, in the checkpoint, or in both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, baselines
from koopflow.exceptions import DivergenceError, TeacherError
from koopflow.options import Objective

SMALL = {"observables": 6, "width": 12, "depth": 1, "trajectories": 128, "batch_size": 32, "seed": 0}
CONSISTENCY = {"endpoint": 1.0, "consistency": 0.1}


class Unexpected(Exception):
    """An exception that koopflow has never heard of."""


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    return FlowTeacher.gaussian(np.array([1.0, -1.0]), np.array([[2.0, 0.3], [0.3, 0.5]]))


def raise_at(step: int, stage: str, error: BaseException) -> Callable[[dict], None]:
    def listen(event: dict) -> None:
        if event["stage"] == stage and event["step"] >= step:
            raise error

    return listen


def facts(file: Path) -> dict:
    """The header of a safetensors file, read without koopflow."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return json.loads(header["__metadata__"]["koopflow"])["facts"]


@pytest.mark.parametrize("error", [Unexpected("no such layer"), ValueError("a cause")])
def test_an_exception_in_a_feature_network_comes_back_unchanged(
    teacher: FlowTeacher, tmp_path: Path, error: Exception
) -> None:
    calls = 0

    def features(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise error from KeyError("the cause")
        return x

    file = tmp_path / "run.safetensors"
    with pytest.raises(type(error)) as caught:
        KoopmanDistiller(**SMALL, steps=40).fit(
            teacher, features=features, progress=False, checkpoint=file, checkpoint_every=1000
        )
    assert caught.value is error
    assert isinstance(caught.value.__cause__, KeyError)
    # Two calls a step.
    assert facts(file)["history"]["steps"] == 10


def test_ctrl_c_in_a_feature_network_keeps_the_best_student(teacher: FlowTeacher) -> None:
    calls = 0

    def features(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 40:
            raise KeyboardInterrupt
        return x

    student = KoopmanDistiller(**SMALL, steps=200)
    with pytest.warns(RuntimeWarning, match="interrupted after 20 steps"):
        student.fit(teacher, features=features, progress=False)
    assert student.history_["stopped"] == "interrupted"
    assert np.isfinite(student.sample(16)).all()


def test_a_feature_distance_that_is_once_not_finite_skips_a_step(teacher: FlowTeacher) -> None:
    calls = 0

    def features(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return x * (float("nan") if calls == 12 else 1.0)

    student = KoopmanDistiller(**SMALL, steps=20).fit(teacher, features=features, progress=False)
    assert (student.history_["skipped_steps"], student.history_["stopped"]) == (1, "completed")


def gaussian_module(wrong: Callable[[int], str | None]) -> torch.nn.Module:
    """Velocity of the linear path between two standard Gaussians; ``wrong(call)`` says how a call fails."""

    class Module(torch.nn.Module):
        calls = 0

        def forward(self, t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            Module.calls += 1
            failure = wrong(Module.calls)
            if failure == "raise":
                raise Unexpected("the GPU is gone")
            s = t.reshape(-1, 1)
            v = (2 * s - 1) / (s**2 + (1 - s) ** 2) * x
            return v * float("nan") if failure == "nan" else v

    return Module()


class Switch:
    """Tells a teacher to fail once, a few steps into training."""

    def __init__(self, failure: str) -> None:
        self.failure: str | None = None
        self.then = failure

    def __call__(self, call: int) -> str | None:
        failure, self.failure = self.failure, None
        return failure

    def listen(self, event: dict) -> None:
        if event["stage"] == "student" and event["step"] == 10:
            self.failure = self.then


def with_weights(**options: int) -> KoopmanDistiller:
    """A student with the consistency term, which asks the teacher at every step."""
    return KoopmanDistiller(**SMALL, objective=Objective(weights=CONSISTENCY), **options)


def test_a_teacher_that_is_once_not_finite_skips_a_step() -> None:
    switch = Switch("nan")
    flow = FlowTeacher.from_torch(gaussian_module(switch), event_shape=(2,))
    student = with_weights(steps=20).fit(flow, progress=False, callback=switch.listen)
    assert (student.history_["skipped_steps"], student.history_["stopped"]) == (1, "completed")


def test_a_teacher_that_is_not_finite_along_trajectories_is_an_error() -> None:
    # Attaching asks a few times.
    switch = Switch("nan")
    flow = FlowTeacher.from_torch(gaussian_module(lambda _: switch.failure), event_shape=(2,))
    switch.failure = "nan"
    with pytest.raises(TeacherError, match="NaN"):
        with_weights(steps=20).fit(flow, progress=False)


def test_a_teacher_that_fails_leaves_a_checkpoint(tmp_path: Path) -> None:
    switch = Switch("raise")
    flow = FlowTeacher.from_torch(gaussian_module(switch), event_shape=(2,))
    file = tmp_path / "run.safetensors"
    with pytest.raises(TeacherError) as caught:
        with_weights(steps=20).fit(
            flow, progress=False, callback=switch.listen, checkpoint=file, checkpoint_every=1000
        )
    assert isinstance(caught.value.__cause__, Unexpected)
    assert facts(file)["history"]["steps"] == 10
    assert with_weights(steps=20).fit(flow, progress=False, resume=file).history_["steps"] == 20


def test_a_callback_that_raises_leaves_a_checkpoint_of_a_student(
    teacher: FlowTeacher, tmp_path: Path
) -> None:
    file, error = tmp_path / "run.safetensors", Unexpected("full disk")
    student = KoopmanDistiller(**SMALL, steps=40)
    with pytest.raises(Unexpected) as caught:
        student.fit(
            teacher,
            progress=False,
            callback=raise_at(10, "student", error),
            checkpoint=file,
            checkpoint_every=1000,
        )
    assert caught.value is error
    assert facts(file)["history"]["steps"] == 10
    resumed = KoopmanDistiller(**SMALL, steps=40).fit(teacher, progress=False, resume=file)
    whole = KoopmanDistiller(**SMALL, steps=40).fit(teacher, progress=False)
    noise = np.random.default_rng(0).standard_normal((5, 2)).astype("f4")
    np.testing.assert_array_equal(resumed.sample(x0=noise), whole.sample(x0=noise))


def test_a_callback_that_raises_leaves_a_checkpoint_of_a_teacher(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((64, 2)).astype("f4")
    file, error = tmp_path / "run.safetensors", Unexpected("full disk")
    options = {"width": 12, "depth": 1, "batch_size": 32}
    with pytest.raises(Unexpected) as caught:
        FlowTeacher((2,), **options).fit(
            data,
            steps=10_000_000,
            progress=False,
            callback=raise_at(1, "teacher", error),
            checkpoint=file,
            checkpoint_every=10**9,
        )
    assert caught.value is error
    assert facts(file)["history"]["steps"] >= 1


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_checkpoint_that_cannot_be_written_loses_no_model(
    teacher: FlowTeacher, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    notes: list[str] = []

    def listen(event: dict) -> None:
        if event["stage"] == kind and folder.exists():
            shutil.rmtree(folder)
        notes.extend([event["note"]] if "note" in event else [])

    writing = {"checkpoint": folder / "run.safetensors", "checkpoint_every": 10, "progress": False}
    model: KoopmanDistiller | FlowTeacher = KoopmanDistiller(**SMALL, steps=40)
    learns_from: object = teacher
    if kind == "teacher":
        model = FlowTeacher((2,), width=12, depth=1, steps=40)
        learns_from = np.random.default_rng(0).standard_normal((64, 2)).astype("f4")
    with pytest.warns(RuntimeWarning, match="could not be written"):
        fitted = model.fit(learns_from, callback=listen, **writing)
    history = fitted.history_
    assert (history["steps"], history["stopped"]) == (40, "completed")
    assert np.isfinite(np.asarray(fitted.sample(4))).all()
    assert "could not be written" in history["notes"][-1]["text"]
    assert notes[-1] == history["notes"][-1]["text"]


def test_a_teacher_that_diverges_is_an_error_and_keeps_finite_weights() -> None:
    data = np.random.default_rng(0).standard_normal((64, 2)).astype("f4")
    teacher = FlowTeacher((2,), width=12, depth=1, learning_rate=1e30)
    with pytest.raises(DivergenceError, match="restarts"):
        teacher.fit(data, steps=200, progress=False)
    assert teacher.history_["stopped"] == "diverged"
    assert teacher.history_["restarts"] == 3
    assert teacher.history_["skipped_steps"] >= 40
    assert np.isfinite(np.asarray(teacher.sample(4))).all()


def test_a_baseline_that_diverges_is_an_error_and_keeps_finite_weights(teacher: FlowTeacher) -> None:
    student = baselines.PlainNetwork(width=12, depth=1, steps=200, trajectories=64, learning_rate=1e30)
    with pytest.raises(DivergenceError, match="restarts"):
        student.fit(teacher, progress=False)
    assert (student.history_["stopped"], student.history_["restarts"]) == ("diverged", 3)
    assert np.isfinite(np.asarray(student.sample(4))).all()
