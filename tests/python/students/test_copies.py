"""Pickles, deep copies and worker processes: models come out as they went in."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, Training, _core, analysis, baselines
from koopflow.exceptions import CheckpointError, TeacherError

NOISE = np.random.default_rng(4).normal(size=(6, 2)).astype("f4")
DATA = np.random.default_rng(5).normal(size=(40, 2)).astype("f4")
LABELS = np.arange(40) % 2


@pytest.fixture(scope="module")
def trained() -> FlowTeacher:
    teacher = FlowTeacher((2,), width=8, depth=1, steps=5, num_classes=2)
    return teacher.fit(DATA, condition=LABELS, progress=False)


def copies(model):
    return [pickle.loads(pickle.dumps(model)), copy.deepcopy(model)]


def test_students(student, gaussian):
    for other in copies(student):
        np.testing.assert_array_equal(other.sample(x0=NOISE), student.sample(x0=NOISE))
        np.testing.assert_array_equal(other.invert(NOISE), student.invert(NOISE))
        assert other.get_params() == student.get_params()
        assert (other.history_, other.config_, other.teacher_) == (
            student.history_,
            student.config_,
            student.teacher_,
        )
        assert (
            other.evaluate(gaussian, n=50).endpoint_error == student.evaluate(gaussian, n=50).endpoint_error
        )


def test_students_of_data_in_other_units():
    """Standard coordinates are part of the bytes."""
    teacher = FlowTeacher.gaussian([1000.0, -500.0], np.diag([4e4, 1e4]))
    student = KoopmanDistiller(observables=8, width=8, depth=1, steps=4, trajectories=64)
    student.fit(teacher, progress=False)
    spectrum = student.spectrum(n=32)
    for other, same in zip(copies(student), copies(spectrum), strict=True):
        np.testing.assert_array_equal(other.sample(x0=NOISE), student.sample(x0=NOISE))
        np.testing.assert_allclose(same.energy, spectrum.energy, rtol=1e-9)
        np.testing.assert_allclose(
            same.contributions(NOISE, t=0.5), spectrum.contributions(NOISE, t=0.5), rtol=1e-5
        )


def test_a_copy_is_a_student_of_its_own(gaussian):
    options = {"observables": 4, "width": 8, "depth": 1, "steps": 4, "training": Training(ema_decay=0.9)}
    first = KoopmanDistiller(**options).fit(gaussian, progress=False)
    second = copy.deepcopy(first).use_weights("raw")
    averaged, raw = first.sample(x0=NOISE), second.sample(x0=NOISE)
    assert not np.array_equal(averaged, raw)
    np.testing.assert_array_equal(second.use_weights("ema").sample(x0=NOISE), averaged)


@pytest.mark.parametrize(
    "teacher",
    [
        FlowTeacher.gaussian([1.0, -1.0], [[1.0, 0.2], [0.2, 0.5]], dtype="float64"),
        FlowTeacher.empirical(DATA),
    ],
)
def test_teachers_in_closed_form(teacher):
    for other in copies(teacher):
        np.testing.assert_array_equal(other.sample(x0=NOISE), teacher.sample(x0=NOISE))
        assert repr(other) == repr(teacher)


def test_trained_teachers(trained):
    for other in copies(trained):
        np.testing.assert_array_equal(other.sample(4, condition=1), trained.sample(4, condition=1))
        assert other.history_ == trained.history_
        np.testing.assert_array_equal(other.training_data_.data, DATA)


def test_attached_teachers_say_what_to_do():
    teacher = FlowTeacher.from_torch(lambda t, x: 1.0 - x, (2,))
    for call in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TeacherError, match="save the wrapped module itself and attach it again"):
            call(teacher)
    student = KoopmanDistiller(observables=4, width=8, steps=3).fit(teacher, progress=False)
    for other in copies(student):
        np.testing.assert_array_equal(other.sample(x0=NOISE), student.sample(x0=NOISE))


@pytest.mark.parametrize("kind", [baselines.PlainNetwork, baselines.KDM])
def test_baselines(gaussian, kind):
    model = kind(width=8, depth=1, steps=4, trajectories=64).fit(gaussian, progress=False)
    for other in copies(model):
        np.testing.assert_array_equal(other.sample(x0=NOISE), model.sample(x0=NOISE))
        assert other.history_ == model.history_


def test_spectra_and_what_holds_them(student, gaussian):
    spectrum = student.spectrum(gaussian, n=64)
    for other, whole in zip(copies(spectrum[:3]), copies(spectrum), strict=True):
        np.testing.assert_allclose(whole.eigenvalues, spectrum.eigenvalues, rtol=1e-12)
        for name in ("energy", "power", "spread", "residuals", "indices", "modes"):
            np.testing.assert_allclose(getattr(whole, name), getattr(spectrum, name), rtol=1e-9)
            np.testing.assert_allclose(getattr(other, name), getattr(spectrum[:3], name), rtol=1e-9)
        np.testing.assert_allclose(
            whole.sample_path(NOISE, times=[0.5]), spectrum.sample_path(NOISE, times=[0.5]), rtol=1e-5
        )
    directions = analysis.find_directions(spectrum, DATA, labels=LABELS)
    again = pickle.loads(pickle.dumps(directions))
    np.testing.assert_allclose(again.shifts, directions.shifts)
    signatures = analysis.measure_signatures(spectrum, DATA, LABELS)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(signatures)).mean, signatures.mean)
    density = student.density(NOISE)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(density)).log_prob, density.log_prob)
    # Together they stay together: the selection is still one of this student's.
    both, chosen = pickle.loads(pickle.dumps((student, student.spectrum()[:2])))
    np.testing.assert_allclose(
        both.sample(x0=NOISE, modes=chosen), student.sample(x0=NOISE, modes=[0, 1]), atol=1e-5
    )


def test_spectra_of_a_hierarchy():
    shape = (1, 4, 4)
    teacher = FlowTeacher.from_torch(lambda t, x: torch.sin(x), shape)
    student = KoopmanDistiller(
        basis="hierarchy",
        unet={"channels": 4, "multipliers": (1, 2), "groups": 4},
        steps=2,
        batch_size=4,
        trajectories=16,
    ).fit(teacher, progress=False)
    spectrum = student.spectrum(n=8)
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype("f4")
    for other in copies(spectrum):
        np.testing.assert_array_equal(other.eigenvalues, spectrum.eigenvalues)
        np.testing.assert_array_equal(other[0].energy, spectrum[0].energy)
        assert other[0].residual is not None
        np.testing.assert_array_equal(other.eigenfunctions(0.5, x, 0), spectrum.eigenfunctions(0.5, x, 0))


def draw(student, seed):
    return student.sample(4, seed=seed)


def test_a_worker_process_samples(student):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(draw, student, 7).result(), student.sample(4, seed=7))


def test_other_bytes_are_refused(student, trained):
    whole = student._fitted().to_bytes()
    for wrong in (b"", whole[:100], whole[:-1], whole + b"0", trained.field.to_bytes()):
        with pytest.raises(CheckpointError, match="the bytes of a model"):
            _core.Student.from_bytes(wrong)
