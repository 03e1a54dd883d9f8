"""Files that koopflow wrote before its rooms were rebuilt: they load, and what they hold samples as it did.

``tests/fixtures/before_redesign/`` was made by commit 615769b: a small file of every kind, and in
``expected.npz`` what each model answered then (``<file>/x0``, ``<file>/condition``, ``<file>/sample``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller, Trajectories, baselines

FOLDER = Path(__file__).parents[1] / "fixtures" / "before_redesign"
EXPECTED = np.load(FOLDER / "expected.npz")
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def names(prefix):
    return sorted(path.stem for path in FOLDER.glob(f"{prefix}_*.safetensors"))


def given(name):
    key = f"{name}/condition"
    return EXPECTED[f"{name}/x0"], EXPECTED.get(key)


@pytest.mark.parametrize("name", names("teacher"))
def test_teachers(name):
    teacher = FlowTeacher.load(FOLDER / f"{name}.safetensors")
    x0, condition = given(name)
    sample = teacher.sample(x0=x0, solver="rk4", steps=8, condition=condition)
    np.testing.assert_allclose(sample, EXPECTED[f"{name}/sample"], **TOLERANCE)


@pytest.mark.parametrize("name", names("student"))
def test_students(name):
    student = KoopmanDistiller.load(FOLDER / f"{name}.safetensors")
    x0, condition = given(name)
    answers = {
        "sample": student.sample(x0=x0, condition=condition),
        "two": student.sample(x0=x0, steps=2, condition=condition),
        "path": student.sample_path(x0, times=[0.0, 0.5, 1.0], condition=condition),
        "invert": student.invert(x0, condition=condition),
    }
    for key, answer in answers.items():
        np.testing.assert_allclose(answer, EXPECTED[f"{name}/{key}"], **TOLERANCE, err_msg=key)


@pytest.mark.parametrize("name", names("student"))
def test_students_are_written_back_as_they_were(name, tmp_path):
    path = tmp_path / "again.safetensors"
    KoopmanDistiller.load(FOLDER / f"{name}.safetensors").save(path)
    x0, condition = given(name)
    sample = KoopmanDistiller.load(path).sample(x0=x0, condition=condition)
    np.testing.assert_allclose(sample, EXPECTED[f"{name}/sample"], **TOLERANCE)


@pytest.mark.parametrize("name", names("baseline"))
def test_baselines(name):
    x0, condition = given(name)
    sample = baselines.load(FOLDER / f"{name}.safetensors").sample(x0=x0, condition=condition)
    np.testing.assert_allclose(sample, EXPECTED[f"{name}/sample"], **TOLERANCE)


def test_a_student_in_training_goes_on():
    teacher = FlowTeacher.load(FOLDER / "teacher_network.safetensors")
    student = KoopmanDistiller(observables=6, width=12, depth=1, steps=24, trajectories=Trajectories(256, 8))
    student.fit(teacher, resume=FOLDER / "training_student.safetensors", progress=False)
    x0, _ = given("resumed_student")
    np.testing.assert_allclose(student.sample(x0=x0), EXPECTED["resumed_student/sample"], **TOLERANCE)


def test_a_teacher_in_training_goes_on():
    from koopflow import datasets

    teacher = FlowTeacher((2,), width=12, depth=1, steps=24)
    teacher.fit(datasets.moons(512), resume=FOLDER / "training_teacher.safetensors", progress=False)
    x0, _ = given("resumed_teacher")
    sample = teacher.sample(x0=x0, solver="rk4", steps=8)
    np.testing.assert_allclose(sample, EXPECTED["resumed_teacher/sample"], **TOLERANCE)


def test_trajectories_are_used_again(tmp_path):
    """A fit that finds its trajectories in a file does not ask the teacher for them."""
    path = tmp_path / "trajectories.safetensors"
    path.write_bytes((FOLDER / "trajectories.safetensors").read_bytes())
    teacher = FlowTeacher.load(FOLDER / "teacher_network.safetensors")
    student = KoopmanDistiller(observables=6, width=12, depth=1, steps=12, trajectories=Trajectories(256, 8))
    student.fit(teacher, trajectory_file=path, progress=False)
    x0, _ = given("student_spectral")
    np.testing.assert_allclose(student.sample(x0=x0), EXPECTED["student_spectral/sample"], **TOLERANCE)
    assert path.read_bytes() == (FOLDER / "trajectories.safetensors").read_bytes()
