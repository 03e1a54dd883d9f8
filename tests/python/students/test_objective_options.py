"""Options of the loss that are off by default: weights of rows, and a first stage of the endpoint alone."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller, Objective, Training
from koopflow.exceptions import ArgumentError

OPTIONS = {
    "observables": 8,
    "width": 16,
    "depth": 1,
    "steps": 12,
    "batch_size": 32,
    "trajectories": 256,
    "trajectories__path_steps": 8,
}
NOISE = np.random.default_rng(3).normal(size=(64, 2)).astype("f4")


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    return FlowTeacher.gaussian([1.0, -1.0], [[2.0, 0.3], [0.3, 0.5]])


def fitted(teacher: FlowTeacher, objective: Objective | None = None, **options) -> KoopmanDistiller:
    student = KoopmanDistiller(objective=objective).set_params(**{**OPTIONS, **options})
    return student.fit(teacher, progress=False)


def terms(student: KoopmanDistiller, index: int) -> dict[str, float]:
    """The terms of the loss in one entry of the log."""
    names = ("endpoint", "path", "target", "inverse", "round_trip", "phase")
    values = student.history_["log"][index]
    return {name: values[name] for name in names if name in values}


def test_row_weights_reach_the_loss(teacher):
    plain, off, even = (
        fitted(teacher, objective)
        for objective in (None, Objective(row_power=0), Objective(row_power=1, row_offset=1e-6))
    )
    assert np.array_equal(plain.sample(x0=NOISE), off.sample(x0=NOISE))
    assert not np.array_equal(plain.sample(x0=NOISE), even.sample(x0=NOISE))
    # Each row of a term in data space counts as e / (e + 1e-6), nearly 1 for errors of an untrained student.
    first = terms(even, 0)
    phase = first.pop("phase")
    assert first == pytest.approx(dict.fromkeys(first, 1.0), abs=1e-2)
    # Before the first update, what is not weighted is the same.
    assert phase == pytest.approx(terms(plain, 0)["phase"])
    # Offsets beyond all errors divide them all by the same number.
    far = terms(fitted(teacher, Objective(row_power=2, row_offset=1e4)), 0)
    scaled = {name: value * 1e8 for name, value in far.items() if name != "phase"}
    assert scaled == pytest.approx({k: v for k, v in terms(plain, 0).items() if k != "phase"}, rel=2e-2)


FIRST = Objective(endpoint_first=0.5)
STEPWISE = {"training__evaluate_every": 1, "training__ema_decay": 0.9}


def test_the_first_stage_is_a_fit_of_the_endpoint_alone(teacher):
    names = ("path", "target", "inverse", "round_trip", "phase")
    alone = Objective(weights=dict.fromkeys(names, 0.0))
    student, endpoint = (fitted(teacher, objective, **STEPWISE) for objective in (FIRST, alone))
    errors = ("endpoint_error", "path_error", "inversion_error", "learning_rate")
    for entry, other in zip(student.history_["log"][:6], endpoint.history_["log"][:6], strict=True):
        assert {name for name in ("endpoint", *names) if name in entry} == {"endpoint"}
        assert entry["endpoint"] == other["endpoint"]
        assert [entry[name] for name in errors] == [other[name] for name in errors]
    for entry in student.history_["log"][6:]:
        assert all(name in entry for name in ("endpoint", *names))
    # The state that the second stage began with is the first that may be kept, and then the best score.
    scores = {entry["step"]: entry["score"] for entry in student.history_["log"] if entry["step"] >= 6}
    assert student.history_["best_step"] == min(scores, key=scores.__getitem__)
    assert not student.history_["notes"]


def test_the_first_stage_asks_the_teacher_nothing(teacher):
    weights = {"consistency": 0.1}
    short, whole = (
        fitted(teacher, Objective(weights=weights, endpoint_first=share)).history_["teacher_evaluations"]
        for share in (0.5, 0.0)
    )
    assert whole - short == OPTIONS["steps"] // 2


@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_fit_of_two_stages_goes_on_as_if_it_had_not_been_cut(teacher, tmp_path, step):
    def cut(event):
        if event["stage"] == "student" and event["step"] >= step:
            raise KeyboardInterrupt

    options = {**OPTIONS, **STEPWISE, "training__metric": "inversion_error"}
    file = tmp_path / "student.safetensors"
    distiller = KoopmanDistiller(objective=FIRST).set_params(**options)
    with pytest.warns(RuntimeWarning):
        distiller.fit(teacher, progress=False, checkpoint=file, callback=cut)
    # Cut within the first stage it knows of its endpoint alone.
    notes = [note["text"] for note in distiller.history_["notes"]]
    assert [text for text in notes if "endpoint_first" in text] == notes
    assert len(notes) == (step <= 6)
    judged = [entry["endpoint_error"] for entry in distiller.history_["log"]]
    if step <= 6:
        assert distiller.history_["best_step"] in (0, 1 + int(np.argmin(judged)))
    again = KoopmanDistiller(objective=FIRST).set_params(**options)
    again.fit(teacher, progress=False, resume=file)
    whole = fitted(teacher, FIRST, **options)
    assert again.history_["best_step"] == whole.history_["best_step"] >= 6
    assert not again.history_["notes"]
    for weights in ("ema", "raw"):
        theirs, ours = (each.use_weights(weights).sample(x0=NOISE) for each in (again, whole))
        assert np.array_equal(theirs, ours)


def test_patience_waits_for_the_second_stage(teacher):
    training = Training(evaluate_every=1, patience=2)
    student = fitted(teacher, FIRST, training=training, learning_rate=1e-30)
    assert student.history_["stopped"] == "patience"
    assert student.history_["steps"] == 8


@pytest.mark.parametrize(
    ("objective", "training", "message"),
    [
        ({"endpoint_first": 1.0}, {}, "endpoint_first: expected at least 0 and below 1"),
        ({"endpoint_first": 0.3, "weights": {"endpoint": 0}}, {}, "endpoint_first: expected 0 unless"),
        ({"endpoint_first": 0.3}, {"method": "closed_form"}, "endpoint_first: expected 0 for the method"),
        ({"row_power": 1.0}, {"method": "closed_form"}, "row_power: expected 0 for the method"),
    ],
)
def test_what_two_stages_cannot_be_is_said(teacher, objective, training, message):
    with pytest.raises(ArgumentError, match=message):
        fitted(teacher, Objective(**objective), training=Training(**training))
