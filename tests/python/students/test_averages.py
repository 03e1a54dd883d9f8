"""Several averages of the weights at once, the best of which is kept."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller, Objective, Training
from koopflow.exceptions import ArgumentError

# Averages have a short memory at first: within 30 steps no decay is beyond 31/40.
DECAYS = (0.999, 0.3, 0.6)
OPTIONS = {
    "observables": 8,
    "width": 16,
    "depth": 1,
    "steps": 30,
    "batch_size": 32,
    "trajectories": 256,
    "trajectories__path_steps": 8,
}
NOISE = np.random.default_rng(3).normal(size=(64, 2)).astype("f4")


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    return FlowTeacher.gaussian([1.0, -1.0], [[2.0, 0.3], [0.3, 0.5]])


def distiller(objective: Objective | None = None, **training) -> KoopmanDistiller:
    training = {"evaluate_every": 3, "metric": "endpoint_error", **training}
    return KoopmanDistiller(objective=objective, training=Training(**training)).set_params(**OPTIONS)


@pytest.fixture(scope="module")
def several(teacher) -> KoopmanDistiller:
    return distiller(averages=DECAYS).fit(teacher, progress=False)


def test_each_average_is_what_it_is_alone(teacher, several, tmp_path):
    kept = several.sample(x0=NOISE)
    several.save(tmp_path / "student.safetensors")
    loaded = KoopmanDistiller.load(tmp_path / "student.safetensors")
    best = {entry["decay"]: entry for entry in several.history_["averages"]}
    for decay in DECAYS:
        alone = distiller(ema_decay=decay).fit(teacher, progress=False)
        for student in (several, loaded):
            assert np.array_equal(student.use_average(decay).sample(x0=NOISE), alone.sample(x0=NOISE))
        assert best[decay]["step"] == alone.history_["best_step"]
        # Each is judged by its own errors.
        theirs = {entry["step"]: entry["endpoint_error"] for entry in alone.history_["log"]}
        ours = {entry["step"]: entry[f"endpoint_error_{decay}"] for entry in several.history_["log"]}
        assert ours == theirs
    assert len({entry["metric"] for entry in best.values()}) == 3
    lowest = min(best.values(), key=lambda entry: entry["metric"])
    assert (several.history_["average"], several.history_["best_step"]) == (lowest["decay"], lowest["step"])
    for student in (several, loaded):
        assert np.array_equal(student.use_average(lowest["decay"]).sample(x0=NOISE), kept)
        assert np.array_equal(student.use_weights("ema").sample(x0=NOISE), kept)
        raw = student.use_weights("raw").sample(x0=NOISE)
        assert np.array_equal(raw, alone.use_weights("raw").sample(x0=NOISE))


def test_what_is_logged_is_the_best_of_each_look(several):
    for entry in several.history_["log"]:
        errors = {decay: entry[f"endpoint_error_{decay}"] for decay in DECAYS}
        assert entry["average"] == min(errors, key=errors.__getitem__)
        assert entry["endpoint_error"] == min(errors.values())


@pytest.mark.parametrize("objective", [None, Objective(endpoint_first=0.5)])
def test_a_fit_of_several_goes_on_as_if_it_had_not_been_cut(teacher, tmp_path, objective):
    def cut(event):
        if event["stage"] == "student" and event["step"] >= 12:
            raise KeyboardInterrupt

    file = tmp_path / "student.safetensors"
    options = {"averages": DECAYS, "metric": "score"}
    with pytest.warns(RuntimeWarning):
        part = distiller(objective, **options).fit(teacher, progress=False, checkpoint=file, callback=cut)
    loaded = KoopmanDistiller.load(file)
    for decay in DECAYS:
        samples = part.use_average(decay).sample(x0=NOISE)
        assert np.array_equal(loaded.use_average(decay).sample(x0=NOISE), samples)
    again = distiller(objective, **options).fit(teacher, progress=False, resume=file)
    whole = distiller(objective, **options).fit(teacher, progress=False)
    for name in ("averages", "average", "best_step"):
        assert again.history_[name] == whole.history_[name]
    if objective is not None:
        assert min(entry["step"] for entry in whole.history_["averages"]) >= 15
    assert np.array_equal(again.sample(x0=NOISE), whole.sample(x0=NOISE))
    for decay in DECAYS:
        theirs, ours = (student.use_average(decay).sample(x0=NOISE) for student in (again, whole))
        assert np.array_equal(theirs, ours)
    with pytest.raises(ArgumentError, match="averages"):
        distiller(objective, averages=DECAYS[:2], metric="score").fit(teacher, progress=False, resume=file)


def test_students_of_one_average_are_as_before(teacher):
    student = distiller(ema_decay=0.9).fit(teacher, progress=False)
    assert not {"average", "averages"} & student.history_.keys()
    assert not any("average" in entry for entry in student.history_["log"])
    with pytest.raises(
        ArgumentError, match="decay: expected a student that was trained with several averages"
    ):
        student.use_average(0.9)


def test_what_is_wrong_with_averages_is_said(teacher, several):
    with pytest.raises(ArgumentError, match=r"decay: expected one of 0\.999, 0\.3, 0\.6, got 0\.7"):
        several.use_average(0.7)
    with pytest.raises(ArgumentError, match="decay: expected"):
        several.use_average("best")
    for averages in ((0.9, 1.0), (0.0,), (0.9, 0.9), tuple(0.1 + 0.01 * i for i in range(9))):
        with pytest.raises(ArgumentError, match="averages: expected up to 8 different decays"):
            distiller(averages=averages).fit(teacher, progress=False)
    with pytest.raises(ArgumentError, match="ema_decay: expected none if averages are given"):
        distiller(averages=(0.9,), ema_decay=0.9).fit(teacher, progress=False)
    with pytest.raises(ArgumentError, match="averages: expected a sequence of numbers"):
        Training(averages=0.9)
    with pytest.raises(ArgumentError, match="averages: a FlowTeacher's training has no such option"):
        FlowTeacher((2,), training=Training(averages=(0.9,))).fit(np.zeros((32, 2), "f4"), progress=False)
