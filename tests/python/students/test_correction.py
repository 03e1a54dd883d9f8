"""The term ``correction``: the distribution of a student's samples against that of its teacher's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from koopflow import FlowTeacher, KoopmanDistiller, Objective, UNet, metrics
from koopflow.exceptions import ArgumentError

NONE = dict.fromkeys(("endpoint", "path", "target", "inverse", "round_trip", "phase", "reconstruction"), 0.0)
ALONE = {**NONE, "correction": 1.0}


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    """Two clusters, one of each class."""
    random = np.random.default_rng(0)
    labels = np.arange(1024) % 2
    data = random.normal(0, 0.3, (1024, 2)) + np.where(labels[:, None] == 0, [-1.5, 0.0], [1.0, 1.0])
    flow = FlowTeacher((2,), num_classes=2, steps=400, width=32, seed=0)
    return flow.fit(data.astype("f4"), condition=labels, progress=False)


def distiller(weights: dict[str, float], **options: Any) -> KoopmanDistiller:
    small = {
        "observables": 16,
        "width": 32,
        "depth": 2,
        "steps": 4,
        "batch_size": 32,
        "trajectories": 64,
        "trajectories__path_steps": 4,
        "objective": Objective(weights=weights),
        "seed": 1,
    }
    return KoopmanDistiller().set_params(**{**small, **options})


def values(student: KoopmanDistiller, name: str) -> list[float]:
    return [entry[name] for entry in student.history_["log"] if name in entry]


def test_it_brings_samples_to_the_teachers_distribution_without_a_solution(teacher: FlowTeacher) -> None:
    """The correction alone: no term compares a sample with the teacher's own."""
    labels = np.arange(2000) % 2
    theirs = np.asarray(teacher.sample(2000, seed=5, condition=labels))

    def distance(**options: Any) -> float:
        options = {"batch_size": 256, "learning_rate": 3e-3, "training__ema_decay": 0.98, **options}
        student = distiller(ALONE, **options).fit(teacher, progress=False)
        samples = np.asarray(student.sample(2000, seed=6, condition=labels))
        return sum(metrics.energy_distance(samples[labels == c], theirs[labels == c]) for c in (0, 1))

    before, after = distance(steps=1), distance(steps=600)
    assert after < 0.1 * before


def test_alone_it_keeps_the_latest_state(teacher: FlowTeacher) -> None:
    """No measured error tells which state is best, so the finished student is that of the last step."""

    def history(weights: dict[str, float], **options: Any) -> dict[str, Any]:
        given = {"steps": 60, "batch_size": 128, "learning_rate": 1e-2, "training__evaluate_every": 10}
        return distiller(weights, **given, **options).fit(teacher, progress=False).history_

    alone = history(ALONE)
    assert alone["best_step"] == 60
    assert alone["log"][-1]["endpoint_error"] > min(entry["endpoint_error"] for entry in alone["log"])
    assert history(ALONE, training__metric="endpoint_error")["best_step"] < 60
    other = history(ALONE, training__metric="latest", training__averages=(0.5, 0.9))
    assert [other["best_step"], *(kept["step"] for kept in other["averages"])] == [60] * 3


def test_a_copy_of_the_teacher_corrects_nothing_at_first(teacher: FlowTeacher) -> None:
    student = distiller({"correction": 0.5}, training__evaluate_every=1).fit(teacher, progress=False)
    assert values(student, "correction")[0] < 1e-9
    assert min(values(student, "correction")[2:]) > 1e-9
    assert min(values(student, "noising")) > 0.01


def test_nothing_of_the_second_network_stays(teacher: FlowTeacher, tmp_path: Path) -> None:
    averages = {"training__averages": (0.5, 0.9)}
    student = distiller({"correction": 0.5}, **averages).fit(teacher, progress=False)
    plain = distiller({}).fit(teacher, progress=False)
    file = tmp_path / "student.safetensors"
    student.save(file)
    assert "noising" not in student.config_
    assert not [name for name in load_file(file) if "noising" in name]
    assert student.to_torch().state_dict().keys() == plain.to_torch().state_dict().keys()
    again = KoopmanDistiller.load(file)
    labels = np.arange(6) % 2
    for kind in (0.5, 0.9):
        ours, theirs = (
            np.asarray(model.use_average(kind).sample(6, seed=2, condition=labels))
            for model in (student, again)
        )
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_run_goes_on_as_if_it_had_never_stopped(
    teacher: FlowTeacher, guidance: float, tmp_path: Path
) -> None:
    def cut(event: dict) -> None:
        if event["stage"] == "student" and event["step"] >= 2:
            raise KeyboardInterrupt

    field = teacher
    if guidance != 1.0:
        data, labels = np.random.default_rng(1).normal(size=(64, 2)).astype("f4"), np.arange(64) % 2
        options = {"num_classes": 2, "label_dropout": 0.2, "steps": 20, "width": 8}
        field = FlowTeacher((2,), **options).fit(data, condition=labels, progress=False).guided(guidance)
    given = {"training__evaluate_every": 1, "training__ema_decay": 0.5}
    whole = distiller({"correction": 0.5}, **given).fit(field, progress=False)
    file = tmp_path / "run.safetensors"
    with pytest.warns(RuntimeWarning, match="interrupt"):
        distiller({"correction": 0.5}, **given).fit(field, progress=False, checkpoint=file, callback=cut)
    # The file is a whole student at any moment.
    assert "noising" not in KoopmanDistiller.load(file).config_
    resumed = distiller({"correction": 0.5}, **given).fit(field, progress=False, resume=file)
    assert values(resumed, "correction") == values(whole, "correction")
    labels = np.arange(6) % 2
    ours, theirs = (model.sample(6, seed=2, condition=labels) for model in (resumed, whole))
    np.testing.assert_array_equal(ours, theirs)


def test_a_run_is_not_resumed_with_a_teacher_of_another_network(teacher: FlowTeacher, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    distiller({"correction": 0.5}).fit(teacher, progress=False, checkpoint=file)
    data, labels = np.random.default_rng(1).normal(size=(64, 2)).astype("f4"), np.arange(64) % 2
    wider = FlowTeacher((2,), num_classes=2, steps=2, width=40).fit(data, condition=labels, progress=False)
    with pytest.raises(ArgumentError, match="resume.*same network as that of.*term 'correction'"):
        distiller({"correction": 0.5}, steps=8).fit(wider, progress=False, resume=file)


def test_micro_batches_are_the_same_step(teacher: FlowTeacher) -> None:
    options = {"steps": 2, "dtype": "float64", "training__evaluate_every": 1}
    one, three = (
        distiller({"correction": 0.5}, training__accumulate=parts, **options).fit(teacher, progress=False)
        for parts in (1, 3)
    )
    # The teacher is in single precision, and the correction is a small difference of velocities.
    for name in ("noising", "endpoint"):
        np.testing.assert_allclose(values(one, name), values(three, name), rtol=1e-5)
    ours, theirs = values(one, "correction"), values(three, "correction")
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-12)


def test_images_and_other_units() -> None:
    """A hierarchy of images far from standard units, whose own field lives in the units of training."""
    random = np.random.default_rng(0)
    data = (300 + 60 * random.standard_normal((64, 1, 8, 8))).astype("f4")
    network = UNet(channels=8, multipliers=(1, 2))
    teacher = FlowTeacher((1, 8, 8), network=network, steps=10, batch_size=16).fit(data, progress=False)
    options = {"basis": "hierarchy", "unet": network, "observables": None, "warm_start": True}
    given = {"training__evaluate_every": 1, "trajectories__solver": "ab2", "trajectories__solver_steps": 4}
    student = distiller({"correction": 0.3}, **options, **given, batch_size=8).fit(teacher, progress=False)
    assert values(student, "correction")[0] < 1e-9
    assert np.isfinite(values(student, "correction")).all()
    assert abs(float(np.asarray(student.sample(8, seed=0)).mean()) - 300) < 60


def test_both_fields_are_asked_without_dropout() -> None:
    """With masks, two equal networks would differ."""
    data = np.random.default_rng(0).standard_normal((64, 1, 8, 8)).astype("f4")
    network = UNet(channels=8, multipliers=(1,), dropout=0.5)
    teacher = FlowTeacher((1, 8, 8), network=network, steps=30, learning_rate=1e-2, batch_size=16)
    options = {"basis": "unet", "unet": network, "observables": None, "steps": 1, "batch_size": 8}
    student = distiller({"correction": 0.3}, **options, trajectories__solver="ab2")
    student.set_params(trajectories__solver_steps=4).fit(teacher.fit(data, progress=False), progress=False)
    assert values(student, "correction")[0] < 1e-9


def test_what_it_cannot_copy_is_said(teacher: FlowTeacher) -> None:
    def fit(teacher: FlowTeacher, **weights: float) -> None:
        distiller({"correction": 1.0, **weights}).fit(teacher, progress=False)

    expected = "weights.*correction 0 unless the teacher is a native network"
    with pytest.raises(ArgumentError, match=f"{expected}.*'gaussian' teacher"):
        fit(FlowTeacher.gaussian(np.zeros(2), np.eye(2)))
    with pytest.raises(ArgumentError, match=f"{expected}.*'torch' teacher"):
        fit(FlowTeacher.from_torch(lambda t, x: -x, (2,)))
    data = np.random.default_rng(0).normal(size=(64, 2)).astype("f4")
    far = FlowTeacher((2,), steps=5, width=8).fit(300 + 50 * data, progress=False)
    with pytest.raises(ArgumentError, match=f"{expected}.*other units"):
        distiller({"correction": 1.0}, architecture__standardise=False).fit(far, progress=False)
    sourced = FlowTeacher((2,), source=data, steps=5, width=8).fit(data + 1, progress=False)
    with pytest.raises(ArgumentError, match="weights.*correction 0 unless the teacher begins at noise"):
        fit(sourced)
    with pytest.raises(ArgumentError, match=r"weights\[\"correction\"\].*>= 0"):
        fit(teacher, correction=-1.0)
