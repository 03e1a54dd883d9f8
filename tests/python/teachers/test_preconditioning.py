"""Preconditioned teachers: option, files, twins, students. The scales: tests/rust/preconditioning.rs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from koopflow import FlowTeacher, KoopmanDistiller, UNet
from koopflow.exceptions import ArgumentError

NORMAL = np.random.default_rng(0).normal(size=(256, 2)).astype(np.float32)
DATA = NORMAL * np.array([0.5, 2.0], np.float32) + 1
IMAGES = np.random.default_rng(1).normal(0.2, 0.6, size=(96, 2, 8, 8)).astype(np.float32)
SMALL = {"width": 16, "depth": 1, "steps": 10, "batch_size": 32}
NETWORK = UNet(channels=8, multipliers=(1, 2))


def taught(**options):
    return FlowTeacher((2,), **{"preconditioning": "edm", **SMALL, **options}).fit(DATA, progress=False)


@pytest.fixture(scope="module")
def of_images():
    teacher = FlowTeacher((2, 8, 8), network=NETWORK, preconditioning="edm", steps=6, batch_size=16)
    return teacher.fit(IMAGES, progress=False)


def test_an_untrained_network_is_the_linear_prediction(of_images):
    """A U-Net begins with zeros, and a step of 1e-12 leaves it there: the teacher of a Gaussian."""
    teacher = FlowTeacher(
        (2, 8, 8), network=NETWORK, preconditioning="edm", steps=1, batch_size=8, learning_rate=1e-12
    ).fit(IMAGES, progress=False)
    m, d = IMAGES.mean((0, 2, 3), keepdims=True), IMAGES.std((0, 2, 3), keepdims=True)
    x = np.random.default_rng(2).normal(size=(5, 2, 8, 8)).astype(np.float32)
    for t in (0.0, 0.4, 1.0):
        slope = (t * d**2 - (1 - t)) / (t**2 * d**2 + (1 - t) ** 2)
        np.testing.assert_allclose(teacher.velocity(t, x), m + slope * (x - t * m), rtol=1e-4, atol=1e-4)
    assert not np.allclose(of_images.velocity(0.4, x), teacher.velocity(0.4, x), atol=1e-3)


def test_files_and_copies_keep_it(tmp_path):
    teacher, file = taught(), tmp_path / "teacher.safetensors"
    teacher.save(file)
    loaded = FlowTeacher.load(file)
    assert loaded.preconditioning == "edm"
    assert loaded.history_["config"]["preconditioning"] == "edm"
    assert np.array_equal(loaded.sample(4), teacher.sample(4))
    assert not np.array_equal(taught(preconditioning="scaled").sample(4), teacher.sample(4))


@pytest.mark.parametrize("options", [{}, {"path": "vp"}, {"source": NORMAL + 3}, {"dtype": "float64"}])
def test_the_twin_has_the_same_velocity(options):
    teacher, t = taught(**options), np.array([0.0, 0.3, 1.0])
    x = NORMAL[:3].astype(options.get("dtype", "float32"))
    found = teacher.to_torch()(torch.from_numpy(t), torch.from_numpy(x)).detach()
    np.testing.assert_allclose(found, teacher.velocity(t, x), rtol=2e-5, atol=2e-5)
    back = FlowTeacher.from_torch_module(teacher.to_torch())
    assert np.array_equal(back.velocity(t, x), teacher.velocity(t, x))


def test_data_in_any_units_and_images_have_twins_too(of_images):
    x = np.random.default_rng(3).normal(size=(2, 2, 8, 8)).astype(np.float32)
    far = FlowTeacher((2, 8, 8), network=NETWORK, preconditioning="edm", steps=2, batch_size=8)
    far.fit(IMAGES * 100 + 300, progress=False)
    for teacher in (of_images, far):
        found = teacher.to_torch()(0.4, torch.from_numpy(x)).detach()
        np.testing.assert_allclose(found, teacher.velocity(0.4, x), rtol=1e-4, atol=1e-3)


def test_a_run_is_resumed_with_the_same_option_only(tmp_path):
    """Resumed to the last bit, with augmentations: test_augmentation.py."""
    file = tmp_path / "run.safetensors"
    taught().fit(DATA, checkpoint=file, progress=False)
    with pytest.raises(ArgumentError, match='preconditioning: expected "edm", as in'):
        FlowTeacher((2,), **SMALL).fit(DATA, resume=file, progress=False)


def test_a_warm_student_has_the_skip_of_the_teacher(of_images, tmp_path):
    """At noise v = -z + d F, and at data v = d z + F, for scaled states z of a linear path."""
    student = KoopmanDistiller(
        basis="unet", unet=NETWORK, warm_start=True, steps=1, batch_size=8, learning_rate=1e-12
    ).set_params(trajectories=32, trajectories__path_steps=4, architecture__frame="fixed")
    student.fit(of_images, progress=False).save(tmp_path / "student.safetensors")
    weights = load_file(tmp_path / "student.safetensors")
    d = torch.from_numpy(IMAGES.std((0, 2, 3)))
    torch.testing.assert_close(weights["forward.skip"], torch.diag(-1 / d), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights["backward.skip"], torch.diag(d), rtol=1e-4, atol=1e-5)
    for name, value in of_images.state_dict().items():
        torch.testing.assert_close(weights[f"forward.{name}"], value, rtol=0, atol=1e-8)


def test_training_may_begin_with_a_teacher_of_the_same_kind_only():
    teacher = taught()
    taught().fit(DATA, initial=teacher, progress=False)
    with pytest.raises(ArgumentError, match="initial: expected a network with preconditioning scaled"):
        FlowTeacher((2,), **SMALL).fit(DATA, initial=teacher, progress=False)


def test_what_it_is_not_for_is_named():
    with pytest.raises(ArgumentError, match="preconditioning"):
        taught(preconditioning="heun")
    with pytest.raises(ArgumentError, match="preconditioning: expected 'scaled' for snapshots"):
        FlowTeacher.snapshots([DATA, DATA + 1], [0.0, 1.0], preconditioning="edm", progress=False, **SMALL)
