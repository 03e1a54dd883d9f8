"""Conditions as people give them: one for all, of any integer type, of classes that were learnt or not."""

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.exceptions import ArgumentError, DtypeError, ShapeError

RNG = np.random.default_rng(0)
LABELS = np.arange(90) % 3
DATA = (np.c_[2.0 * LABELS, -LABELS] + 0.1 * RNG.normal(size=(90, 2))).astype("f4")
VECTORS = np.eye(3, dtype="f4")[LABELS]
SMALL = {"observables": 8, "width": 16, "depth": 1, "steps": 20, "trajectories": 128}


def taught(**options):
    return FlowTeacher((2,), width=8, depth=1, steps=10, **options)


@pytest.fixture(scope="module")
def labelled():
    teacher = taught(num_classes=4).fit(DATA, condition=LABELS, progress=False)
    return teacher, KoopmanDistiller(**SMALL).fit(teacher, progress=False)


@pytest.fixture(scope="module")
def vectorial():
    teacher = taught(condition_dim=3).fit(DATA, condition=VECTORS, progress=False)
    return teacher, KoopmanDistiller(**SMALL).fit(teacher, progress=False)


CALLS = [
    lambda model, condition: model.sample(6, condition=condition),
    lambda model, condition: model.sample(x0=DATA[:6], condition=condition),
    lambda model, condition: model.log_prob(DATA[:6], condition=condition),
]
STUDENTS_CALLS = [
    *CALLS,
    lambda model, condition: model.sample_path(6, times=[0.5], condition=condition),
    lambda model, condition: model.sample(6, modes=[0, 1], condition=condition),
    lambda model, condition: model.invert(DATA[:6], condition=condition),
    lambda model, condition: model.invert(DATA[:6], polish=1, condition=condition),
    lambda model, condition: model.encode(0.5, DATA[:6], condition=condition),
    lambda model, condition: model.edit(DATA[:6], scale=1.5, condition=condition),
    lambda model, condition: model.spectrum(condition=condition).eigenfunctions(
        0.0, DATA[:6], condition=condition
    ),
]


@pytest.mark.filterwarnings("ignore:the inverse of:RuntimeWarning")
@pytest.mark.parametrize("one", [2, np.int8(2), [2], np.array(2), np.array([2]), torch.tensor(2), (2,)])
def test_one_label_counts_for_all(labelled, one):
    for model, calls in zip(labelled, (CALLS, STUDENTS_CALLS), strict=True):
        for call in calls if one == 2 else calls[:1]:
            np.testing.assert_array_equal(call(model, one), call(model, np.full(6, 2)))


@pytest.mark.filterwarnings("ignore:the inverse of:RuntimeWarning")
@pytest.mark.parametrize(
    "one", [[0, 1, 0], np.array([[0.0, 1.0, 0.0]], "f4"), np.array([False, True, False])]
)
def test_one_vector_counts_for_all(vectorial, one):
    all_rows = np.tile(np.array([[0.0, 1.0, 0.0]], "f4"), (6, 1))
    for model, calls in zip(vectorial, (CALLS, STUDENTS_CALLS), strict=True):
        for call in calls:
            np.testing.assert_array_equal(call(model, one), call(model, all_rows))


def test_booleans_are_two_classes_and_integers_make_vectors():
    boolean = taught(num_classes=2).fit(DATA, condition=LABELS > 0, progress=False)
    integer = taught(num_classes=2).fit(DATA, condition=(LABELS > 0).astype(int), progress=False)
    np.testing.assert_array_equal(
        boolean.sample(4, condition=[True, False, True, True]), integer.sample(4, condition=[1, 0, 1, 1])
    )
    whole = taught(condition_dim=3).fit(DATA, condition=VECTORS.astype(int), progress=False)
    floats = taught(condition_dim=3).fit(DATA, condition=VECTORS, progress=False)
    np.testing.assert_array_equal(
        whole.sample(90, condition=VECTORS.astype(int)), floats.sample(90, condition=VECTORS)
    )


@pytest.mark.parametrize(
    "wrong",
    [
        [0, 1],
        [0.5] * 6,
        ["a"] * 6,
        np.zeros((6, 2), int),
        np.eye(4, dtype=int),
        [4] * 6,
        [-1] * 6,
        None,
        np.nan,
    ],
)
def test_what_is_no_label_is_named(labelled, wrong):
    for model in labelled:
        with pytest.raises((ArgumentError, DtypeError, ShapeError), match="condition"):
            model.sample(6, condition=wrong)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, list])
def test_a_column_of_labels_is_refused_with_the_remedy(labelled, kind):
    expected = (
        r"condition: expected integers of shape \(N,\) as labels, got .* \(6, 1\) \(use labels\[:, 0\]\)"
    )
    for model, calls in zip(labelled, (CALLS, STUDENTS_CALLS[:-1]), strict=True):
        for call in calls:
            with pytest.raises(ArgumentError, match=expected):
                call(model, kind([[0], [1], [2], [2], [1], [0]]))
    for data in ((DATA, LABELS[:, None]), ([(DATA, LABELS[:, None])], None)):
        with pytest.raises(ArgumentError, match=r"use labels\[:, 0\]"):
            taught(num_classes=4).fit(data[0], condition=data[1], progress=False)


@pytest.mark.parametrize("floats", [[0.0, 1.0, 2.0], torch.tensor([0.0, 1.0, 2.0])])
def test_labels_are_integers(labelled, floats):
    for model in labelled:
        with pytest.raises(ArgumentError, match=r"condition: expected integers .*\(use .*\)"):
            model.sample(3, condition=floats)
    with pytest.raises(ArgumentError, match="condition: expected integers .* as labels"):
        taught(num_classes=4).fit(DATA[:3], condition=floats, progress=False)
    with pytest.raises(ArgumentError, match="condition: expected integers .* as labels"):
        KoopmanDistiller(**SMALL).fit(labelled[0], condition=floats, progress=False)


def test_ragged_conditions_are_named(labelled):
    for model in labelled:
        with pytest.raises(ShapeError, match="condition: expected an array, got rows of different lengths"):
            model.sample(2, condition=[[1], [2, 3]])


def test_labels_and_vectors_at_once_are_named():
    with pytest.raises(ArgumentError, match="at most one of num_classes and condition_dim"):
        taught(num_classes=3, condition_dim=4).fit(DATA, condition=LABELS, progress=False)
    with pytest.raises(ArgumentError, match="condition_dim: expected an integer"):
        FlowTeacher.from_torch(lambda t, x, y: -x, (2,), condition_dim=(4, 8))


def test_a_class_that_no_sample_had_is_not_silent(labelled, tmp_path):
    """Class 3 of four was in no training sample: the teacher knows, and its student inherits that."""
    teacher, student = labelled
    assert teacher.history_["classes"] == student.teacher_["classes"] == [0, 1, 2]
    teacher.save(tmp_path / "teacher")
    student.save(tmp_path / "student")
    for model in (
        *labelled,
        FlowTeacher.load(tmp_path / "teacher"),
        KoopmanDistiller.load(tmp_path / "student"),
        teacher.guided(1.5) if teacher.label_dropout else teacher,
    ):
        for call in CALLS[:2]:
            with pytest.warns(UserWarning, match="no sample of training had class 3, only 0, 1, 2"):
                call(model, [0, 1, 2, 3, 0, 1])
    fewer = KoopmanDistiller(**SMALL).fit(teacher, condition=[0, 2], progress=False)
    assert fewer.teacher_["classes"] == [0, 2]
    with pytest.warns(UserWarning, match="had class 1, only 0, 2"):
        fewer.invert(DATA[:2], condition=1)


def test_evaluation_takes_the_labels_of_the_data(labelled):
    teacher, student = labelled
    asked = []
    spy = FlowTeacher.from_torch(lambda t, x, y: (asked.append(y.numpy().copy()), -x)[1], (2,), num_classes=4)
    student.evaluate(spy, DATA, condition=LABELS, n=60)
    assert {len(y) for y in asked[-5:]} == {60}
    # A random choice of two rows of three: each class about 20 times.
    assert (np.abs(np.bincount(asked[-1], minlength=3) - 20) <= 8).all()
    student.evaluate(spy, DATA, condition=LABELS, n=180)
    assert (np.bincount(asked[-1]) == 60).all()
    # Without labels every class that was learnt, equally; and one label for all.
    equally = student.evaluate(teacher, DATA, condition=np.tile([0, 1, 2], 20), n=60)
    assert student.evaluate(teacher, DATA, n=60).endpoint_error == equally.endpoint_error
    one = student.evaluate(teacher, DATA, condition=np.full(60, 1), n=60)
    assert student.evaluate(teacher, DATA, condition=1, n=60).endpoint_error == one.endpoint_error


def test_evaluation_draws_vectors_from_those_of_training(vectorial):
    teacher, student = vectorial
    known = student.evaluate(teacher, DATA, n=30)
    given = student.evaluate(teacher, DATA, condition=VECTORS, n=30)
    assert known.endpoint_error == given.endpoint_error
