"""Files of baselines: what is written comes back, and whatever else is offered is refused with a reason."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from koopflow import FlowTeacher, KoopmanDistiller, Trajectories, baselines
from koopflow.baselines import KDM, MeanVelocity, OdeSolver, PlainNetwork, StraightLine
from koopflow.exceptions import CheckpointError, TeacherError

from ..conftest import COV, MEAN

NOISE = np.random.default_rng(11).normal(size=(64, 2)).astype(np.float32)
TINY = {"width": 8, "depth": 1, "trajectories": Trajectories(64, path_steps=4), "steps": 20, "batch_size": 16}


@pytest.fixture(scope="module")
def kdm(gaussian):
    return KDM(**TINY, observables=6, weights={"latent": 0.5}).fit(gaussian, progress=False)


def test_what_is_saved_comes_back(kdm, gaussian, tmp_path):
    path = tmp_path / "baseline.safetensors"
    trained = [method(**TINY).fit(gaussian, progress=False) for method in (PlainNetwork, MeanVelocity)]
    own = [OdeSolver(solver="heun", steps=3).fit(gaussian), StraightLine().fit(gaussian)]
    for student in [kdm, *trained, *own]:
        student.save(path)
        for loaded in (baselines.load(path), type(student).load(path)):
            assert type(loaded) is type(student)
            assert repr(loaded) == repr(student)
            assert loaded.history_ == student.history_
            assert loaded.event_shape_ == (2,)
            np.testing.assert_array_equal(loaded.sample(x0=NOISE), student.sample(x0=NOISE))
    # A baseline that is its teacher leaves a file that is one too.
    np.testing.assert_array_equal(FlowTeacher.load(path).sample(x0=NOISE), student.sample(x0=NOISE))


def test_files_of_others_are_refused(kdm, student, gaussian, tmp_path):
    path = tmp_path / "file.safetensors"
    with pytest.raises(FileNotFoundError):
        baselines.load(path)
    path.write_bytes(b"PK\x03\x04 a pickle in a zip")
    with pytest.raises(CheckpointError, match="whole safetensors"):
        baselines.load(path)
    student.save(path)
    with pytest.raises(CheckpointError, match="holds a student, expected a baseline"):
        baselines.load(path)
    gaussian.save(path)
    with pytest.raises(CheckpointError, match="holds a teacher, expected a baseline"):
        OdeSolver.load(path)
    kdm.save(path)
    with pytest.raises(CheckpointError, match="holds a baseline KDM, expected PlainNetwork"):
        PlainNetwork.load(path)
    with pytest.raises(CheckpointError, match="holds a baseline, expected a student"):
        KoopmanDistiller.load(path)


def header_of(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["koopflow"])


def rewrite(path, header, tensors):
    save_file(tensors, path, metadata={"koopflow": json.dumps(header)})


def test_damaged_files_are_refused(kdm, tmp_path):
    path = tmp_path / "file.safetensors"
    kdm.save(path)
    raw, header, tensors = path.read_bytes(), header_of(path), load_file(path)
    for keep in (0, 8, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:keep])
        with pytest.raises(CheckpointError):
            KDM.load(path)
    rewrite(path, header, {**tensors, "operator": torch.eye(3)})
    with pytest.raises(CheckpointError, match="operator"):
        KDM.load(path)
    rewrite(path, header, {name: tensor for name, tensor in tensors.items() if name != "operator"})
    with pytest.raises(CheckpointError, match="operator"):
        KDM.load(path)
    rewrite(path, header, {**tensors, "operator": torch.full((6, 6), torch.nan)})
    with pytest.raises(CheckpointError, match="NaN"):
        KDM.load(path)
    huge = {**header, "model": {**header["model"], "model": {**header["model"]["model"], "width": 60_000}}}
    rewrite(path, huge, tensors)
    with pytest.raises(CheckpointError, match="a model with more than the"):
        KDM.load(path)
    other = {"kind": "KDM", "options": {"colour": "red"}}
    rewrite(path, {**header, "facts": {**header["facts"], "baseline": other}}, tensors)
    with pytest.raises(CheckpointError, match="KDM.* has no parameter 'colour'"):
        KDM.load(path)


def test_a_teacher_that_was_attached_cannot_be_saved(tmp_path):
    teacher = FlowTeacher.from_torch(lambda t, x: 1.0 - x, event_shape=(2,))
    with pytest.raises(TeacherError, match="cannot be saved"):
        OdeSolver().fit(teacher).save(tmp_path / "never.safetensors")


def test_trajectories_are_found_again(gaussian, tmp_path):
    path = tmp_path / "paths.safetensors"
    first = PlainNetwork(**TINY).fit(gaussian, trajectory_file=path, progress=False)
    again = PlainNetwork(**TINY).fit(gaussian, trajectory_file=path, progress=False)
    # One evaluation tells whether it is the same teacher.
    assert again.history_["teacher_evaluations"] == 1 < first.history_["teacher_evaluations"]
    np.testing.assert_array_equal(first.sample(x0=NOISE), again.sample(x0=NOISE))
    with pytest.raises(CheckpointError, match="another teacher"):
        KDM(**TINY).fit(FlowTeacher.gaussian(-MEAN, COV), trajectory_file=path, progress=False)
    KDM(**TINY).fit(FlowTeacher.gaussian(-MEAN, COV), trajectory_file=path, refresh=True, progress=False)
