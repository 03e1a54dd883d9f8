"""Augmented training: option, files, repetition. The warp and the network: tests/rust/augmentation.rs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from koopflow import FlowTeacher, UNet, reflow
from koopflow.exceptions import ArgumentError

SHAPE = (1, 8, 8)
IMAGES = np.random.default_rng(0).normal(size=(64, *SHAPE)).astype(np.float32)
LABELS = np.arange(64) % 3
SMALL = {"network": UNet(channels=8, multipliers=(1, 2)), "steps": 6, "batch_size": 16}


def taught(**options):
    return FlowTeacher(SHAPE, **{**SMALL, "augment": 0.5, **options}).fit(IMAGES, progress=False)


def test_a_seed_decides_it_and_the_probability_matters():
    first = taught().sample(2)
    assert np.array_equal(taught().sample(2), first)
    assert not np.array_equal(taught(augment=0.2).sample(2), first)
    assert not np.array_equal(taught(augment=0.0).sample(2), first)
    assert not np.array_equal(taught(seed=1).sample(2), first)


def test_files_have_no_map_of_augmentations(tmp_path):
    teacher, file = taught(), tmp_path / "teacher.safetensors"
    teacher.save(file)
    loaded = FlowTeacher.load(file)
    assert (loaded.augment, loaded.history_["config"]["augment"]) == (0.5, 0.5)
    assert np.array_equal(loaded.sample(2), teacher.sample(2))
    assert not [name for name in load_file(file) if "augment" in name]
    assert set(teacher.state_dict()) == set(taught(augment=0.0).state_dict())
    found = teacher.to_torch()(0.3, torch.from_numpy(IMAGES[:2])).detach()
    np.testing.assert_allclose(found, teacher.velocity(0.3, IMAGES[:2]), rtol=1e-4, atol=1e-4)


def cut(event):
    if event["step"] >= 1:
        raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{}, {"num_classes": 3, "flip": True, "preconditioning": "edm"}])
def test_a_resumed_run_is_the_uninterrupted_one(options, tmp_path):
    file = tmp_path / "run.safetensors"
    condition = LABELS if options else None

    def fit(**files):
        teacher = FlowTeacher(SHAPE, augment=0.5, **{**SMALL, "steps": 24}, **options)
        return teacher.fit(IMAGES, condition=condition, progress=False, **files)

    with pytest.warns(RuntimeWarning, match="interrupted"):
        fit(checkpoint=file, callback=cut)
    # The file is a teacher at any moment, and the map is only in the state of training.
    assert not [name for name in load_file(file) if "augment" in name]
    own = None if condition is None else condition[:2]
    assert FlowTeacher.load(file).sample(2, condition=own).shape == (2, *SHAPE)
    whole, resumed = fit().state_dict(), fit(resume=file).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_may_begin_with_any_teacher_of_the_same_shape():
    plain = taught(augment=0.0)
    begun = FlowTeacher(SHAPE, **{**SMALL, "augment": 0.5, "learning_rate": 1e-12, "steps": 1})
    begun.fit(IMAGES, initial=plain, progress=False)
    np.testing.assert_allclose(begun.velocity(0.5, IMAGES[:2]), plain.velocity(0.5, IMAGES[:2]), atol=1e-5)


def test_straighter_flows_are_trained_on_the_teachers_own_pairs():
    straight = reflow(taught(), pairs=32, steps=2, progress=False)
    assert straight.augment == 0.0


def test_what_it_is_not_for_is_named():
    for probability in (-0.1, 1.5):
        with pytest.raises(ArgumentError, match="augment: expected 0 to 1"):
            taught(augment=probability)
    rows = IMAGES.reshape(64, -1)
    with pytest.raises(ArgumentError, match="augment: expected 0 without a U-Net"):
        FlowTeacher((64,), augment=0.1, steps=2).fit(rows, progress=False)
    with pytest.raises(ArgumentError, match="augment: expected 0 for given pairs"):
        FlowTeacher(SHAPE, augment=0.1, **SMALL).fit(IMAGES, noise=IMAGES, progress=False)
    with pytest.raises(ArgumentError, match="augment: expected 0 for snapshots"):
        FlowTeacher.snapshots([IMAGES, IMAGES + 1], [0.0, 1.0], augment=0.1, progress=False, **SMALL)
