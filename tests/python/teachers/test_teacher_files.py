"""Teachers whose training is cut: checkpoints and resuming, through Python."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from koopflow import FlowTeacher, datasets
from koopflow.exceptions import ArgumentError, CheckpointError

DATA = datasets.moons(400)
NOISE = np.random.default_rng(3).normal(size=(16, 2)).astype(np.float32)


def small(**options):
    return FlowTeacher((2,), **{"width": 16, "depth": 1, "steps": 30, "coupling": "independent", **options})


class Lost(Exception):
    """Stands for whatever ends a training."""


def test_a_lost_training_goes_on_as_if_it_had_not_been(tmp_path):
    written, path = tmp_path / "run.safetensors", tmp_path / "lost.safetensors"

    def lose(event):
        if event["step"] == event["total"]:
            # What is there if the process dies now.
            shutil.copy(written, path)
            raise Lost

    whole = small().fit(DATA, progress=False)
    with pytest.raises(Lost):
        small().fit(DATA, progress=lose, checkpoint=written, checkpoint_every=20)
    # An exception, as against a death, leaves time for one more file.
    assert FlowTeacher.load(written).history_["steps"] == 30
    part = FlowTeacher.load(path)
    assert (part.history_["steps"], part.history_["stopped"]) == (20, "interrupted")
    assert np.isfinite(part.sample(x0=NOISE)).all()
    again = small().fit(DATA, progress=False, resume=path)
    np.testing.assert_array_equal(again.sample(x0=NOISE), whole.sample(x0=NOISE))
    assert again.history_["loss"] == whole.history_["loss"]
    assert again.history_["seconds"] > part.history_["seconds"]


def test_a_finished_training_can_be_made_longer(tmp_path):
    path = tmp_path / "run.safetensors"
    first = small().fit(DATA, progress=False, checkpoint=path)
    np.testing.assert_array_equal(FlowTeacher.load(path).sample(x0=NOISE), first.sample(x0=NOISE))
    longer = small(steps=40).fit(DATA, progress=False, resume=path)
    assert (longer.history_["steps"], longer.history_["stopped"]) == (40, "completed")


def test_what_cannot_be_resumed_says_why(tmp_path):
    path = tmp_path / "run.safetensors"
    teacher = small().fit(DATA, progress=False, checkpoint=path)
    with pytest.raises(ArgumentError, match=r"width: expected 16, as in .*run\.safetensors, got 24"):
        small(width=24).fit(DATA, progress=False, resume=path)
    with pytest.raises(ArgumentError, match="resume: expected the data"):
        small().fit(2.0 * DATA, progress=False, resume=path)
    teacher.save(tmp_path / "finished.safetensors")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        small().fit(DATA, progress=False, resume=tmp_path / "finished.safetensors")
    with pytest.raises(FileNotFoundError):
        small().fit(DATA, progress=False, resume=tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="checkpoint_every: expected an integer of at least 1, got 0"):
        small().fit(DATA, progress=False, checkpoint=path, checkpoint_every=0)
    with pytest.raises(ArgumentError, match="checkpoint: expected a file"):
        small().fit(DATA, progress=False, checkpoint_minutes=1.0)


def test_the_history_says_what_was_chosen():
    config = small(width=None).fit(DATA, progress=False).history_["config"]
    assert (config["width"], config["depth"], config["learning_rate"]) == (128, 1, 0.005)
