"""Teachers and students inside scikit-learn's own tools, whose calls of fit and score are the contract."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.exceptions import ArgumentError, NonFiniteError, NotFittedError, ShapeError

from ..conftest import COV, MEAN

RNG = np.random.default_rng(0)
DATA = RNG.multivariate_normal(MEAN, COV, size=120).astype("f4")
LABELS = (DATA[:, 0] > MEAN[0]).astype(int)
SMALL = {"width": 8, "depth": 1}
STUDENT = {**SMALL, "observables": 4, "steps": 20, "trajectories": 64, "batch_size": 32}


@pytest.fixture(scope="module")
def conditional() -> FlowTeacher:
    return FlowTeacher((2,), num_classes=2, steps=10, **SMALL).fit(DATA, LABELS, progress=False)


# --- teachers: densities of data ------------------------------------------------------------------


def test_the_score_of_a_teacher_is_the_mean_log_likelihood(gaussian, conditional):
    expected = multivariate_normal(MEAN, COV).logpdf(DATA).mean()
    assert gaussian.score(DATA) == pytest.approx(expected, abs=1e-4)
    # Labels mean nothing to it.
    assert gaussian.score(DATA, LABELS) == gaussian.score(DATA)
    assert conditional.score(DATA, LABELS) == pytest.approx(
        conditional.log_prob(DATA, condition=LABELS).mean(), rel=1e-5
    )
    assert conditional.score(DATA, LABELS) != conditional.score(DATA, 1 - LABELS)


def test_a_pipeline_learns_in_the_scaled_coordinates():
    line = Pipeline([("scale", StandardScaler()), ("teacher", FlowTeacher((2,), steps=10, **SMALL))])
    line.fit(1000.0 * DATA, teacher__progress=False)
    scaled = StandardScaler().fit_transform(1000.0 * DATA.astype("f8")).astype("f4")
    alone = FlowTeacher((2,), steps=10, **SMALL).fit(scaled, progress=False)
    assert line.score(1000.0 * DATA) == pytest.approx(alone.score(scaled), abs=1e-3)
    with pytest.raises(NotFittedError):
        clone(line)[-1].sample(1)


def test_a_search_over_a_pipeline_finds_the_longer_training():
    line = Pipeline([("scale", StandardScaler()), ("teacher", FlowTeacher((2,), **SMALL))])
    grid = {"teacher__steps": [1, 60], "teacher__training__ema_decay": [0.5]}
    search = GridSearchCV(line, grid, cv=2, error_score="raise").fit(DATA, teacher__progress=False)
    assert search.best_params_["teacher__steps"] == 60
    again = GridSearchCV(line, grid, cv=2, error_score="raise").fit(DATA, teacher__progress=False)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], again.cv_results_["mean_test_score"])
    kept = pickle.loads(pickle.dumps(search))
    assert kept.score(DATA) == search.score(DATA)


def test_labels_are_split_with_their_rows():
    teacher, folds = FlowTeacher((2,), num_classes=2, steps=10, **SMALL), KFold(3)
    scores = cross_val_score(teacher, DATA, LABELS, cv=folds, params={"progress": False})
    by_hand = [
        clone(teacher)
        .fit(DATA[train], condition=LABELS[train], progress=False)
        .log_prob(DATA[test], condition=LABELS[test])
        .mean()
        for train, test in folds.split(DATA)
    ]
    np.testing.assert_allclose(scores, by_hand, rtol=1e-5)


# --- students: distances from a teacher -----------------------------------------------------------


def test_the_score_of_a_student_is_its_error_from_the_teacher(student, gaussian, conditional):
    report = student.evaluate(gaussian, DATA, n=len(DATA))
    assert student.score(DATA) == student.score(DATA, LABELS) == -report.endpoint_error
    assert student.score(gaussian) == -student.evaluate(gaussian).endpoint_error
    assert student.score(teacher=gaussian) == student.score(gaussian)
    # The teacher's map from noise to data is affine.
    noise = np.random.default_rng(9).normal(size=(4000, 2)).astype("f4")
    error = student.sample(x0=noise) - (MEAN + noise @ np.real(sqrtm(COV)))
    rms = np.sqrt((error**2).sum(1).mean() / DATA.var(0, dtype="f8").sum())
    assert student.score(DATA) == pytest.approx(-rms, rel=0.2)
    labelled = KoopmanDistiller(**STUDENT).fit(DATA, LABELS, teacher=conditional, progress=False)
    one = labelled.evaluate(conditional, DATA, n=len(DATA), condition=np.ones(len(DATA), int))
    assert labelled.score(DATA, np.ones(len(DATA), int)) == -one.endpoint_error


def test_rows_of_data_are_those_of_the_consistency_term(gaussian):
    others = dict.fromkeys(("endpoint", "path", "target", "inverse", "round_trip", "phase"), 0.0)
    distiller = KoopmanDistiller(**STUDENT, objective={"weights": {**others, "consistency": 1.0}})
    by_rows = clone(distiller).fit(DATA, teacher=gaussian, progress=False).sample(4)
    by_name = clone(distiller).fit(gaussian, data=DATA, progress=False).sample(4)
    neither = clone(distiller).fit(teacher=gaussian, progress=False).sample(4)
    np.testing.assert_array_equal(by_rows, by_name)
    assert not np.array_equal(by_rows, neither)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_search_finds_the_longer_distillation(gaussian, kind):
    grid = {"steps": [1, 40], "training__ema_decay": [None, 0.5]}
    search = GridSearchCV(KoopmanDistiller(**STUDENT), grid, cv=2, error_score="raise")
    search.fit(kind(DATA), teacher=gaussian, progress=False)
    assert search.best_params_["steps"] == 40
    best = search.best_estimator_
    assert search.score(DATA) == -best.evaluate(gaussian, DATA, n=len(DATA)).endpoint_error
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(search)).best_estimator_.sample(3), best.sample(3)
    )


def test_a_search_may_be_of_another_measure(gaussian):
    search = GridSearchCV(
        KoopmanDistiller(**STUDENT),
        {"steps": [1, 40]},
        cv=2,
        scoring=lambda student, data, y=None: -student.sample(len(data)).std(0).sum(),
        error_score="raise",
    )
    search.fit(gaussian.sample(40), teacher=gaussian, progress=False)
    assert np.isfinite(search.best_score_)


def test_a_student_at_the_end_of_a_pipeline(gaussian):
    line = Pipeline([("nothing", "passthrough"), ("student", KoopmanDistiller(**STUDENT))])
    line.fit(DATA, student__teacher=gaussian, student__progress=False)
    assert line.score(DATA) == line[-1].score(DATA)


def test_wrong_arguments_are_named(student, gaussian, conditional):
    bad = DATA.copy()
    bad[3, 1] = np.nan
    unfitted, quiet = KoopmanDistiller(**STUDENT), {"progress": False}
    for call in (gaussian.score, lambda x: unfitted.fit(x, teacher=gaussian, **quiet), student.score):
        with pytest.raises(ShapeError, match="data|x:"):
            call(DATA[:, :1])
    with pytest.raises(NonFiniteError):
        gaussian.score(bad)
    with pytest.raises(NonFiniteError, match="data"):
        unfitted.fit(bad, teacher=gaussian, **quiet)
    with pytest.raises((NonFiniteError, ArgumentError), match="data"):
        student.score(bad)
    for call in (lambda: unfitted.fit(DATA), lambda: pickle.loads(pickle.dumps(student)).score(DATA)):
        with pytest.raises(TypeError, match=r"teacher: expected a FlowTeacher.* or rows of data with one"):
            call()
    with pytest.raises(TypeError, match="teacher: expected a FlowTeacher"):
        unfitted.fit(DATA, teacher="moons")
    with pytest.raises(ArgumentError, match="teacher: expected None with a teacher"):
        unfitted.fit(gaussian, teacher=gaussian)
    with pytest.raises(ArgumentError, match="data: expected None with rows of data"):
        unfitted.fit(DATA, teacher=gaussian, data=DATA)
    with pytest.raises(ArgumentError, match="condition: expected None with y"):
        unfitted.fit(DATA, LABELS, teacher=conditional, condition=LABELS)
    with pytest.raises(ArgumentError, match="condition: expected None with y"):
        FlowTeacher((2,), num_classes=2).fit(DATA, LABELS, condition=LABELS)
    with pytest.raises(NotFittedError):
        unfitted.score(DATA, teacher=gaussian)
