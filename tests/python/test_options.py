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
    baselines,
    datasets,
)
from koopflow.exceptions import ArgumentError, CheckpointError, ShapeError
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
    with pytest.raises(ArgumentError, match="a: expected a number"):
        to_json({"a": object()})


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), 1j, b"2", object()])
@pytest.mark.parametrize("name", ["learning_rate", "steps", "observables", "max_seconds"])
def test_options_that_json_cannot_hold_are_named(gaussian, name, value):
    with pytest.raises(ArgumentError, match=f"{name}: expected a"):
        KoopmanDistiller(**{name: value}).fit(gaussian, progress=False)


@pytest.mark.parametrize("value", [torch.tensor(5), np.array(5), np.int8(5)])
def test_integers_of_any_kind_are_the_same_fit(gaussian, value):
    """0-d arrays and tensors too: each count is 5, or 5 times something, of that type."""
    options = {"observables": value, "width": value, "depth": value // 5, "steps": value, "seed": value}
    student = KoopmanDistiller(**options, trajectories=Trajectories(count=value * 12, path_steps=value))
    plain = KoopmanDistiller(
        observables=5, width=5, depth=1, steps=5, seed=5, trajectories={"count": 60, "path_steps": 5}
    )
    plain.fit(gaussian, progress=False)
    student.fit(gaussian, progress=False)
    assert student.config_ == plain.config_
    np.testing.assert_array_equal(student.sample(4, seed=value), plain.sample(4, seed=5))
    np.testing.assert_array_equal(student.sample(value, steps=value), plain.sample(5, steps=5))
    np.testing.assert_array_equal(
        student.spectrum(n=value, seed=value).energy, plain.spectrum(n=5, seed=5).energy
    )
    assert KoopmanDistiller(trajectories=value).get_params()["trajectories__count"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": object()}, "steps: expected a number"),
        ({"max_seconds": float("inf")}, "max_seconds: expected a finite number, got inf"),
        ({"learning_rate": 1j}, "learning_rate: expected a number"),
        ({"width": np.array([1j])}, "width: expected a number"),
        ({"steps": "many"}, "steps: expected"),
        ({"steps": 2.5}, "steps: expected"),
        ({"steps": 10**400}, "steps: expected a number of 64 bits"),
        ({"basis": -(10**400)}, "basis: expected a number of 64 bits"),
        ({"seed": -1}, "seed: expected an integer from 0"),
        ({"seed": np.random.default_rng(0)}, "seed: expected an integer"),
        ({"seed": True}, "seed: expected an integer"),
        ({"observables": [4, 5]}, "observables: expected"),
        ({"trajectories": 2.5}, "trajectories: expected a Trajectories"),
        ({"training": {"ema_decay": "slow"}}, "ema_decay: expected"),
        ({"objective": {"weights": 0.3}}, "weights: expected a mapping"),
        ({"objective": {"weights": {"phase": "heavy"}}}, "weights"),
        ({"objective": {"row_power": 2.5}}, "row_power: expected a number from 0 to 2, got 2.5"),
        ({"objective": {"row_power": 1.0, "row_offset": 0.0}}, "row_offset: expected a number of at least"),
        ({"objective": {"row_offset": 0.1}}, "row_offset: expected none unless row_power is positive"),
        ({"objective": {"weights": {"phase": float("nan")}}}, r"weights\.phase: expected a finite number"),
        ({"objective": {"weights": {"phase": 10**400}}}, r"weights\.phase: expected a number of 64 bits"),
    ],
)
def test_values_of_wrong_types_are_named(gaussian, options, message):
    with pytest.raises(ArgumentError, match=message):
        KoopmanDistiller(**{**SMALL, **options}).fit(gaussian, progress=False)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda s: s.sample(2.5), "n"),
        (lambda s: s.sample(2**70), "n"),
        (lambda s: s.sample(4, steps="2"), "steps"),
        (lambda s: s.sample(4, steps=2**70), "steps"),
        (lambda s: s.sample(4, seed=1.0), "seed"),
        (lambda s: s.sample(4, seed=2**64), "seed"),
        (lambda s: s.invert(np.zeros((2, 2)), polish=1.5), "polish"),
        (lambda s: s.invert(np.zeros((2, 2)), polish=1, damping="weak"), "damping"),
        (lambda s: s.density(np.zeros((2, 2)), probes="8"), "probes"),
        (lambda s: s.density(np.zeros((2, 2)), products=None), "products"),
        (lambda s: s.spectrum(n="512"), "n"),
        (lambda s: s.spectrum(seed="a"), "seed"),
        (lambda s: s.edit(np.zeros((2, 2)), scale="large"), "scale"),
        (lambda s: s.edit(np.zeros((2, 2)), modes=[0, 1], scale=[1, 2, 3]), "scale"),
        (lambda s: s.edit(np.zeros((2, 2)), scale=1.0, at="late"), "at"),
        (lambda s: s.edit(np.zeros((2, 2)), scale=float("nan")), "scale"),
        (lambda s: s.interpolate(np.zeros((2, 2)), np.ones((2, 2)), weights="ab"), "weights"),
        (lambda s: s.interpolate(np.zeros((2, 2)), np.ones((2, 2)), weights=None), "weights"),
        (lambda s: s.invert(np.zeros((2, 2)), polish=1, method=1), "method"),
        (lambda s: s.invert(np.zeros((2, 2)), method="x"), "method"),
        (lambda s: s.invert(np.zeros((2, 2)), polish=-1), "polish"),
        (lambda s: s.density(np.zeros((2, 2)), polish=1001), "polish"),
        (lambda s: s.edit(np.zeros((2, 2)), scale=10**400), "scale"),
        (lambda s: s.edit(np.zeros((2, 2)), shift=[0, 10**400]), "shift"),
        (lambda s: s.edit(np.zeros((2, 2)), shift=1.0, at=2**63), "at"),
        (lambda s: s.edit(np.zeros((2, 2)), scale=1.0, project=0), "project"),
        (lambda s: s.encode(0.5, np.zeros((2, 2)), direction=1), "direction"),
        (lambda s: s.encode(2.0, np.zeros((2, 2))), "t"),
        (lambda s: s.spectrum().eigenfunctions(2, np.zeros((2, 2))), "t"),
        (lambda s: s.sample_path(2, times="01"), "times"),
        (lambda s: s.propagate(np.zeros((2, s.n_observables_)), "long"), "tau"),
    ],
)
def test_arguments_of_a_student_of_wrong_types_are_named(student, call, name):
    with pytest.raises(ArgumentError, match=rf"{name}: expected"):
        call(student)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda t: t.sample(4, solver="euler", steps="9"), "steps"),
        (lambda t: t.sample(4, steps=-1), "steps"),
        (lambda t: t.trajectory(n=2, times=[0, 1], steps=-1), "steps"),
        (lambda t: t.log_prob(np.zeros((1, 2)), steps=-1), "steps"),
        (lambda t: t.sample(4, solver=3), "solver"),
        (lambda t: t.sample(4, rtol="fine"), "rtol"),
        (lambda t: t.trajectory(n=2, times=[0, 1], atol=[1e-5]), "atol"),
        (lambda t: t.log_prob(np.zeros((1, 2)), probes="1"), "probes"),
        (lambda t: t.log_prob(np.zeros((1, 2)), divergence=1), "divergence"),
        (lambda t: t.guided("more"), "scale"),
        (lambda t: FlowTeacher(None), "event_shape"),
        (lambda t: FlowTeacher(2.5), "event_shape"),
        (lambda t: datasets.moons("10"), "n"),
        (lambda t: datasets.moons(10, seed="a"), "seed"),
        (lambda t: datasets.moons(10, seed=-1), "seed"),
        (lambda t: datasets.moons(10, noise="much"), "noise"),
        (lambda t: datasets.split(np.zeros((10, 2)), held_out="a"), "held_out"),
        (lambda t: datasets.split(np.zeros((10, 2)), seed="a"), "seed"),
        (lambda t: baselines.PlainNetwork(seed="a").fit(t, progress=False), "seed"),
        (lambda t: baselines.OdeSolver().fit(t).sample(4, steps="9"), "steps"),
        (
            lambda t: KoopmanDistiller(**SMALL).fit(t, checkpoint="a", checkpoint_every="b"),
            "checkpoint_every",
        ),
        (
            lambda t: KoopmanDistiller(**SMALL).fit(t, checkpoint="a", checkpoint_minutes=[1]),
            "checkpoint_minutes",
        ),
    ],
)
def test_arguments_of_wrong_types_are_named(gaussian, call, name):
    with pytest.raises((ArgumentError, ShapeError), match=rf"{name}: expected"):
        call(gaussian)


def test_numbers_of_numpy_and_torch_are_arguments(gaussian):
    near = gaussian.sample(torch.tensor(4), solver="rk4", steps=np.int8(5), seed=np.array(3))
    np.testing.assert_array_equal(near, gaussian.sample(4, solver="rk4", steps=5, seed=3))
    loose = gaussian.sample(4, rtol=np.float32(0.5), atol=torch.tensor(0.25))
    np.testing.assert_array_equal(loose, gaussian.sample(4, rtol=0.5, atol=0.25))
    np.testing.assert_array_equal(
        datasets.moons(torch.tensor(9), seed=np.int64(2)), datasets.moons(9, seed=2)
    )
    assert not np.array_equal(datasets.moons(9, seed=None), datasets.moons(9, seed=None))
    assert len(datasets.split(np.zeros((10, 2)), held_out=np.int64(3), seed=None)[1]) == 3

    def diffusion(number, **more):
        return FlowTeacher.from_diffusion(
            lambda z, noise: z + noise[:, None],
            (2,),
            schedule="edm",
            parametrisation="F",
            sigma_data=number(0.5),
            **more,
        ).velocity(0.5, np.ones((1, 2), "f4"))

    np.testing.assert_array_equal(diffusion(np.float32), diffusion(float))
    np.testing.assert_array_equal(diffusion(torch.tensor), diffusion(float))
    with pytest.raises(ArgumentError, match="sigma_data: expected"):
        diffusion(str)


def test_the_first_processor_is_a_device(gaussian):
    student = KoopmanDistiller(device="cpu:0", trajectories=64, **SMALL).fit(gaussian, progress=False)
    assert student.sample(2).shape == (2, 2)
    assert FlowTeacher.gaussian([0.0], np.eye(1), device=torch.device("cpu", 0)).device == "cpu"


def test_baselines_without_a_seed_record_one(gaussian):
    options = {"seed": None, "width": 4, "depth": 1, "steps": 2}
    data = np.eye(2, dtype="f4")
    fits = [
        baselines.PlainNetwork(trajectories=64, **options).fit(gaussian, progress=False),
        baselines.ConsistencyFlow(**options).fit(gaussian, data=data, progress=False),
    ]
    for fit in fits:
        again = clone(fit).set_params(seed=fit.history_["seed"])
        more = {"data": data} if isinstance(fit, baselines.ConsistencyFlow) else {}
        np.testing.assert_array_equal(again.fit(gaussian, progress=False, **more).sample(3), fit.sample(3))


def test_no_seed_is_another_seed_each_time(gaussian):
    fits = [KoopmanDistiller(seed=None, **SMALL).fit(gaussian, progress=False) for _ in range(2)]
    seeds = [fit.history_["seed"] for fit in fits]
    assert len({0, *seeds}) == 3
    again = KoopmanDistiller(seed=seeds[0], **SMALL).fit(gaussian, progress=False)
    np.testing.assert_array_equal(again.sample(4), fits[0].sample(4))
    assert fits[0].seed is None
    assert not np.array_equal(fits[0].sample(4, seed=None), fits[0].sample(4, seed=None))
    teacher = FlowTeacher((2,), seed=None, width=4, depth=1, steps=2).fit(
        np.eye(2, dtype="f4"), progress=False
    )
    assert teacher.history_["config"]["seed"] != 0


def test_a_fit_without_a_seed_goes_on_with_its_own(gaussian, tmp_path):
    options = {**SMALL, "steps": 4, "trajectories": 64, "seed": None}
    half = KoopmanDistiller(**options).fit(
        gaussian, progress=False, checkpoint=tmp_path / "half", checkpoint_every=2
    )
    more = KoopmanDistiller(**{**options, "steps": 6}).fit(gaussian, progress=False, resume=tmp_path / "half")
    assert more.history_["seed"] == half.history_["seed"]
    assert more.history_["steps"] == 6


def test_zero_does_not_clip():
    """A gradient of any length is taken as it is."""
    data = 100.0 * np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)

    def losses(norm):
        teacher = FlowTeacher((2,), width=8, depth=1, steps=20, training=Training(clip_norm=norm))
        return teacher.fit(data, progress=False).history_["loss"]

    assert losses(0) == losses(1e30)
    assert losses(0) != losses(1e-3)


def test_options_that_are_no_sequences_are_named():
    for options in (
        {"attention": 2},
        {"multipliers": "1,2"},
        {"attention": "2"},
        {"multipliers": ["a", "b"]},
        {"multipliers": [[1, 2]]},
    ):
        with pytest.raises(ArgumentError, match=rf"{next(iter(options))}: expected a sequence"):
            UNet(**options)
    assert UNet(multipliers=np.array([1, 2])).options()["multipliers"] == [1.0, 2.0]
    assert UNet(multipliers=torch.tensor([1, 2])) == UNet(multipliers=(1, 2))
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
    with pytest.raises(CheckpointError, match="KoopmanDistiller.* has no parameter 'colour'"):
        KoopmanDistiller._read("old", {"colour": 1})
    with pytest.raises(CheckpointError, match="old: training"):
        KoopmanDistiller._read("old", {"training": {"colour": 1}})
