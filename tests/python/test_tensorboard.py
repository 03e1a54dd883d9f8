"""Event files are read back with TensorBoard's own reader."""

from __future__ import annotations

import copy
import os
import sys
import warnings

import pytest

from koopflow import KoopmanDistiller, TensorBoardLogger
from koopflow.exceptions import ArgumentError

TINY = {"observables": 4, "width": 8, "depth": 1, "steps": 6, "trajectories": 64}


@pytest.fixture
def scalars():
    """The scalars of a folder of event files, as {tag: [(step, value), ...]}."""
    with warnings.catch_warnings():
        # Of TensorBoard's own dependencies.
        warnings.simplefilter("ignore")
        reader = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
        )

    def read(folder):
        events = reader.EventAccumulator(str(folder)).Reload()
        return {
            tag: [(event.step, event.value) for event in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]
        }

    return read


def test_every_value_of_a_fit_is_a_scalar(gaussian, scalars, tmp_path):
    heard = []
    student = KoopmanDistiller(**TINY)
    student.fit(gaussian, progress=False, log_dir=tmp_path / "runs", callback=heard.append)
    written = scalars(tmp_path / "runs")
    log = student.history_["log"]
    assert set(written) == {f"student/{name}" for name in log[0]} - {"student/step", "student/seconds"}
    for tag, points in written.items():
        expected = [(entry["step"], entry[tag.removeprefix("student/")]) for entry in log]
        assert [step for step, _ in points] == [step for step, _ in expected]
        # TensorBoard keeps float32.
        assert [value for _, value in points] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert sum(event["stage"] == "student" for event in heard) == len(log)


def test_a_logger_is_a_callback_of_its_own(scalars, tmp_path):
    with TensorBoardLogger(tmp_path) as logger:
        for step in (1, 2):
            logger(
                {"stage": "teacher", "step": step, "total": 2, "seconds": 0.0, "values": {"loss": step / 4}}
            )
    assert scalars(tmp_path) == {"teacher/loss": [(1, 0.25), (2, 0.5)]}


def test_a_folder_may_be_bytes_and_a_copy_writes_there_too(scalars, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with TensorBoardLogger(os.fsencode(tmp_path / "b")) as logger, copy.deepcopy(logger) as other:
        event = {"stage": "teacher", "step": 1, "total": 1, "seconds": 0.0, "values": {"loss": 0.5}}
        other(event)
    assert scalars(tmp_path / "b") == {"teacher/loss": [(1, 0.5)]}
    assert os.listdir(tmp_path) == ["b"]


def test_without_tensorboard_the_error_says_what_to_install(gaussian, monkeypatch, tmp_path):
    for name in [*sys.modules]:
        if name.split(".")[0] == "tensorboard" or name.startswith("torch.utils.tensorboard"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    student = KoopmanDistiller(**TINY)
    with pytest.raises(ArgumentError, match="pip install tensorboard") as raised:
        student.fit(gaussian, progress=False, log_dir=tmp_path)
    assert isinstance(raised.value.__cause__, ImportError)
    assert not hasattr(student, "history_")
