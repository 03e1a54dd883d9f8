"""Options of estimators: names, nesting, files and what is said about wrong ones."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from koopflow import (
    Architecture,
    FlowTeacher,
    KoopmanDistiller,
    Objective,
    Training,
    Trajectories,
    UNet,
)
from koopflow.exceptions import ArgumentError, CheckpointError
from koopflow.options import to_json

NESTED = {
    "architecture": Architecture(lifts=1, decoder="linear"),
    "training": Training(ema_decay=0.9, clip_norm=0.5),
    "trajectories": Trajectories(count=64, path_steps=4, memory=0.5),
    "objective": Objective(weights={"phase": 0.1}, scaling="absolute"),
}
SMALL = {"observables": 4, "width": 8, "depth": 1, "steps": 3}


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        (KoopmanDistiller, "learning_rat", "did you mean 'learning_rate'"),
        (KoopmanDistiller, "patienc", r"did you mean training=Training\(patience=\.\.\.\)"),
        (FlowTeacher, "couplin", "did you mean 'coupling'"),
    ],
)
def test_a_wrong_name_suggests_the_right_one(kind, name, hint):
    shape = {"event_shape": (2,)} if kind is FlowTeacher else {}
    with pytest.raises(TypeError, match=rf"{kind.__name__}\(\) has no parameter '{name}': {hint}"):
        kind(**shape, **{name: 1})
    with pytest.raises(ArgumentError, match=rf"has no parameter '{name}': {hint}"):
        kind(**shape).set_params(**{name: 1})


@pytest.mark.parametrize(
    ("kind", "name", "group", "option", "value"),
    [
        (KoopmanDistiller, "ema_decay", "training", "ema_decay", 0.9),
        (KoopmanDistiller, "decoder", "architecture", "decoder", "linear"),
        (KoopmanDistiller, "trajectory_memory", "trajectories", "memory", 0.5),
        (KoopmanDistiller, "weights", "objective", "weights", {"phase": 0.1}),
        (FlowTeacher, "clip_norm", "training", "clip_norm", 0.5),
    ],
)
def test_keywords_from_before_options_were_grouped(kind, name, group, option, value):
    shape = {"event_shape": (2,)} if kind is FlowTeacher else {}
    now = rf"{group}={type(kind._nested[group]()).__name__}\({option}=\.\.\.\)"
    with pytest.warns(FutureWarning, match=f"write {now} instead of {name}="):
        made = kind(**shape, **{name: value})
    assert made.get_params()[f"{group}__{option}"] == value
    with pytest.raises(ArgumentError, match=f"has no parameter '{name}': write {now}"):
        made.set_params(**{name: value})


def test_a_keyword_of_before_joins_its_group():
    with pytest.warns(FutureWarning, match="path_steps"):
        made = KoopmanDistiller(path_steps=8, trajectories=256)
    assert made.trajectories == Trajectories(count=256, path_steps=8)


def test_wrong_names_of_options():
    with pytest.raises(TypeError, match=r"Training\(\) has no option 'ema_dcay': did you mean 'ema_decay'"):
        Training(ema_dcay=0.9)
    with pytest.raises(ArgumentError, match="'training__ema_dcay': did you mean 'training__ema_decay'"):
        KoopmanDistiller().set_params(training__ema_dcay=0.9)
    with pytest.raises(ArgumentError, match="'steps__a'"):
        KoopmanDistiller().set_params(steps__a=1)
    teacher = FlowTeacher.gaussian([0.0, 0.0], np.eye(2))
    with pytest.raises(ArgumentError, match="training: a Training has no option 'ema_dcay': did you mean"):
        KoopmanDistiller(training={"ema_dcay": 0.9}).fit(teacher, progress=False)
    with pytest.raises(ArgumentError, match="objective: expected an? Objective, a mapping"):
        KoopmanDistiller(objective=0.3).fit(teacher, progress=False)


def test_teachers_name_the_options_that_they_have():
    with pytest.raises(ArgumentError, match="schedule: a FlowTeacher's training has no such option, only"):
        FlowTeacher((2,), training=Training(schedule="constant")).fit(np.zeros((4, 2)), progress=False)


# --- parameters -----------------------------------------------------------------------------------


def test_options_are_reached_by_double_underscore():
    student = KoopmanDistiller(**NESTED)
    params = student.get_params()
    assert params["training__ema_decay"] == 0.9
    assert params["trajectories__path_steps"] == 4
    assert params["training"] is NESTED["training"]
    assert "training__ema_decay" not in student.get_params(deep=False)
    student.set_params(training__ema_decay=0.5, trajectories=32, trajectories__memory=1.0, steps=7)
    assert student.training == Training(ema_decay=0.5, clip_norm=0.5)
    assert student.trajectories == Trajectories(count=32, memory=1.0)
    assert student.steps == 7
    # The value that was given is left alone.
    assert NESTED["training"].ema_decay == 0.9
    bare = KoopmanDistiller()
    assert bare.get_params()["training__ema_decay"] is None
    assert bare.set_params(training__ema_decay=0.5).training == Training(ema_decay=0.5)


@pytest.mark.parametrize(
    "estimator",
    [
        KoopmanDistiller(unet=UNet(channels=4), **NESTED),
        KoopmanDistiller(training={"ema_decay": 0.5}, trajectories=64),
        FlowTeacher((2,), training=Training(ema_decay=0.5), num_classes=3),
        FlowTeacher([1, 4, 4], network=UNet(channels=4)),
    ],
)
def test_clones_have_the_same_parameters(estimator):
    assert clone(estimator).get_params() == estimator.get_params()
    for copied in (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
        assert copied.get_params() == estimator.get_params()


def test_one_option_said_in_three_ways_is_one_fit(gaussian):
    ways = (
        KoopmanDistiller(trajectories=Trajectories(count=64, path_steps=4), **SMALL),
        KoopmanDistiller(trajectories={"count": 64, "path_steps": 4}, **SMALL),
        KoopmanDistiller(trajectories=64, **SMALL).set_params(trajectories__path_steps=4),
    )
    samples = [way.fit(gaussian, progress=False).sample(8) for way in ways]
    np.testing.assert_array_equal(samples[0], samples[1])
    np.testing.assert_array_equal(samples[0], samples[2])


def test_numbers_of_numpy_and_names_of_torch_are_options(gaussian):
    """They used to be "not JSON serializable"."""
    student = KoopmanDistiller(
        observables=np.int64(4),
        width=np.int32(8),
        depth=1,
        steps=np.random.default_rng(0).integers(3, 4),
        learning_rate=np.float32(0.01),
        warm_start=np.bool_(0),
        trajectories=np.int64(64),
        objective={"weights": {"phase": np.float32(0.5)}},
        device=torch.device("cpu"),
        dtype=torch.float64,
    ).fit(gaussian, progress=False)
    assert student.sample(2).dtype == np.float64
    assert student.config_["weights"]["phase"] == 0.5
    assert student.config_["trajectories"] == 64
    assert json.loads(to_json({"a": np.arange(2), "b": np.float64}))["b"] == "float64"
    with pytest.raises(ArgumentError, match="expected a number"):
        to_json({"a": object()})


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), 1j, b"2", object()])
@pytest.mark.parametrize("name", ["learning_rate", "steps", "observables", "max_seconds"])
def test_options_that_json_cannot_hold_are_named(gaussian, name, value):
    with pytest.raises(ArgumentError, match=f"{name}: expected a"):
        KoopmanDistiller(**{name: value}).fit(gaussian, progress=False)


def test_zero_does_not_clip():
    """A gradient of any length is taken as it is."""
    data = 100.0 * np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)

    def losses(norm):
        teacher = FlowTeacher((2,), width=8, depth=1, steps=20, training=Training(clip_norm=norm))
        return teacher.fit(data, progress=False).history_["loss"]

    assert losses(0) == losses(1e30)
    assert losses(0) != losses(1e-3)


def test_options_that_are_no_sequences_are_named():
    for options in ({"attention": 2}, {"multipliers": "1,2"}, {"attention": "2"}):
        with pytest.raises(ArgumentError, match=rf"{next(iter(options))}: expected a sequence"):
            UNet(**options)
    assert UNet(multipliers=np.array([1, 2])).options()["multipliers"] == [1.0, 2.0]
    assert UNet(multipliers=[1, 2]) == UNet(multipliers=(1, 2))


# --- files ----------------------------------------------------------------------------------------


def test_files_keep_the_parameters(gaussian, tmp_path):
    student = KoopmanDistiller(**NESTED, **SMALL).fit(gaussian, progress=False)
    student.save(tmp_path / "student.safetensors")
    assert KoopmanDistiller.load(tmp_path / "student.safetensors").get_params() == student.get_params()
    data = np.random.default_rng(0).normal(size=(64, 1, 4, 4)).astype(np.float32)
    teacher = FlowTeacher(
        (1, 4, 4),
        network=UNet(channels=4, multipliers=(1,)),
        steps=2,
        batch_size=4,
        training=Training(ema_decay=0.5, clip_norm=0),
    ).fit(data, progress=False)
    teacher.save(tmp_path / "teacher.safetensors")
    assert FlowTeacher.load(tmp_path / "teacher.safetensors").get_params() == teacher.get_params()


def test_flat_names_of_older_files_become_options():
    written = {"lifts": 1, "trajectories": 64, "path_steps": 4, "trajectory_memory": 2.0, "weights": None}
    student = KoopmanDistiller._read("old", {**written, "coupling": "ot", "width": 8, "method": "refine"})
    assert student.architecture == Architecture(lifts=1)
    assert student.trajectories == Trajectories(count=64, path_steps=4, memory=2.0)
    assert student.training == Training(method="refine")
    assert student.objective == Objective(coupling="ot")
    teacher = FlowTeacher._read("old", {"coupling": "ot", "ema_decay": 0.5}, event_shape=(2,))
    assert (teacher.coupling, teacher.training) == ("ot", Training(ema_decay=0.5))
    with pytest.raises(CheckpointError, match="unknown option 'colour' of a KoopmanDistiller"):
        KoopmanDistiller._read("old", {"colour": 1})
    with pytest.raises(CheckpointError, match="old: training"):
        KoopmanDistiller._read("old", {"training": {"colour": 1}})
