"""Files, pickles, copies and clones of forecasters."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone

from koopflow import FlowTeacher, KoopmanDistiller, KoopmanForecaster
from koopflow.exceptions import CheckpointError, NotFittedError

from .reference import bent, driven, fitted, noisy

BENT = bent()
LABELS = np.arange(8) % 2
KINDS = {
    "fourier": {"basis": "fourier", "observables": 5},
    "kernel": {"basis": "kernel", "observables": 5},
    "polynomial": {"basis": "polynomial", "degree": 3, "history": 2},
    "network": {"basis": "network", "observables": 3, "method": "gradient", "steps": 3, "width": 4},
    "ranked": {"basis": "fourier", "observables": 5, "rank": 3},
}


def through_file(model, folder):
    model.save(folder / "model.koopflow")
    return KoopmanForecaster.load(folder / "model.koopflow")


def copies(model, folder):
    yield through_file(model, folder)
    yield pickle.loads(pickle.dumps(model))
    yield copy.deepcopy(model)


@pytest.mark.parametrize("name", KINDS)
def test_copies_forecast_the_same(name, tmp_path):
    model = fitted(BENT, condition=LABELS, **KINDS[name])
    x, asked = BENT[:2, -3:], {"condition": [0, 1], "members": 2}
    for other in copies(model, tmp_path):
        np.testing.assert_array_equal(other.forecast(x, [1, 4], **asked), model.forecast(x, [1, 4], **asked))
        np.testing.assert_array_equal(other.transition_matrix(), model.transition_matrix())
        assert (other.history_, other.config_, other.classes_) == (model.history_, model.config_, [0, 1])
        assert other.get_params() == model.get_params()
        assert (other.step_, other.noise_, other.re_encode_) == (model.step_, model.noise_, model.re_encode_)


def test_copies_of_series_inputs_and_irregular_times(tmp_path):
    series = fitted([np.sin(0.3 * np.arange(40.0)), np.cos(0.3 * np.arange(30.0))], history=2)
    x = np.array([[0.1, 0.4]])
    paths, times, inputs = driven()
    pushed = fitted(paths, times, inputs=inputs)
    rows, _ = noisy()
    random = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, size=40))
    uneven = fitted(rows, random, basis="fourier", observables=4)
    for kept in copies(series, tmp_path):
        assert kept.event_shape_ == ()
        np.testing.assert_array_equal(kept.forecast(x, [1, 2]), series.forecast(x, [1, 2]))
    for kept in copies(pushed, tmp_path):
        asked = {"inputs": np.ones((1, 2, 1))}
        np.testing.assert_array_equal(
            kept.forecast(x[:, :1], [1.0], **asked), pushed.forecast(x[:, :1], [1.0], **asked)
        )
    for kept in copies(uneven, tmp_path):
        np.testing.assert_array_equal(kept.generator_matrix(), uneven.generator_matrix())
        np.testing.assert_array_equal(kept.forecast(x, [0.3]), uneven.forecast(x, [0.3]))


def test_options_come_back_as_they_were(tmp_path):
    model = fitted(BENT, basis="fourier", observables=4, lengths=(0.5, 2.0))
    assert through_file(model, tmp_path).get_params() == model.get_params()


def test_a_clone_is_not_fitted_and_fits_the_same():
    model = fitted(BENT, basis="fourier", observables=5, seed=3, training={"weight_decay": 0.0})
    other = clone(model)
    assert other.get_params(deep=False) == model.get_params(deep=False)
    with pytest.raises(NotFittedError):
        other.forecast(BENT[:, -1], [1])
    other.fit(BENT, progress=False)
    np.testing.assert_array_equal(other.transition_matrix(), model.transition_matrix())


def test_parameters_are_those_of_the_constructor():
    model = KoopmanForecaster(basis="kernel", observables=9)
    assert model.get_params(deep=False)["observables"] == 9
    model.set_params(observables=4, re_encode="never", training__weight_decay=0.1)
    assert "observables=4" in repr(model)
    model.fit(BENT, progress=False)
    assert (model.n_observables_, model.re_encode_) == (3 + 4, None)
    with pytest.raises(ValueError, match="no_such"):
        model.set_params(no_such=1)


def test_parameters_of_the_next_fit_do_not_change_this_one():
    model = fitted(BENT)
    before = model.forecast(BENT[:, -1], [1])
    model.set_params(history=3)
    np.testing.assert_array_equal(model.forecast(BENT[:, -1], [1]), before)


def test_foreign_files_are_refused(tmp_path):
    """Each reads its own kind only, and says what it found."""
    teacher = FlowTeacher.gaussian([0.0, 0.0], np.eye(2))
    student = KoopmanDistiller(observables=4, width=4, depth=1, steps=2, trajectories=32)
    student.fit(teacher, progress=False)
    models = {"forecaster": fitted(BENT), "teacher": teacher, "student": student}
    readers = {"forecaster": KoopmanForecaster, "teacher": FlowTeacher, "student": KoopmanDistiller}
    for name, model in models.items():
        model.save(tmp_path / name)
    for name in models:
        for other, reader in readers.items():
            if name != other:
                with pytest.raises(CheckpointError, match=f"holds a {name}, expected a {other}"):
                    reader.load(tmp_path / name)


def test_damaged_files_are_refused(tmp_path):
    file = tmp_path / "model.koopflow"
    fitted(BENT, basis="fourier", observables=4).save(file)
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(20):
        file.write_bytes(whole[: random.integers(0, len(whole))])
        with pytest.raises(CheckpointError):
            KoopmanForecaster.load(file)
    header = int.from_bytes(whole[:8], "little")
    for _ in range(40):
        damaged = bytearray(whole)
        for place in random.integers(8, 8 + header, size=8):
            damaged[place] ^= int(random.integers(1, 128))
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            KoopmanForecaster.load(file)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError):
        KoopmanForecaster.load(file)
    with pytest.raises(FileNotFoundError):
        KoopmanForecaster.load(tmp_path / "nowhere")
