"""Pickles, deep copies and worker processes: models come out as they went in."""

import copy
import multiprocessing
import pickle
import pickletools
from concurrent.futures import ProcessPoolExecutor

import joblib
import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, Training, _core, analysis, baselines, compare
from koopflow.exceptions import CheckpointError, TeacherError

NOISE = np.random.default_rng(4).normal(size=(6, 2)).astype("f4")
DATA = np.random.default_rng(5).normal(size=(40, 2)).astype("f4")
LABELS = np.arange(40) % 2


@pytest.fixture(scope="module")
def trained() -> FlowTeacher:
    teacher = FlowTeacher((2,), width=8, depth=1, steps=5, num_classes=2)
    return teacher.fit(DATA, condition=LABELS, progress=False)


def copies(model):
    oldest, newest = (
        pickle.loads(pickle.dumps(model, protocol)) for protocol in (0, pickle.HIGHEST_PROTOCOL)
    )
    return [oldest, newest, copy.deepcopy(model)]


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


class Model(torch.nn.Module):
    """A velocity whose code is in a file, as pickle wants it."""

    def __init__(self, classes=0):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 2 * (classes + 1)).view(-1, 2))

    def forward(self, t, x, y=None):
        return self.shift[0 if y is None else y] - x * t[:, None]


def attached():
    conditional = FlowTeacher.from_torch(Model(2), (2,), num_classes=2)
    yield FlowTeacher.from_torch(Model().double(), (2,), convention="flow_matching"), None
    yield conditional.guided(1.5), [0, 1, 1, 0, 1, 0]
    yield FlowTeacher.from_diffusion(conditional.guided(0.5), parametrisation="v"), [0, 1, 1, 0, 1, 0]
    yield FlowTeacher.from_diffusion(FlowTeacher.gaussian([0.0, 1.0], np.eye(2)), parametrisation="v"), None


@pytest.mark.parametrize(("teacher", "condition"), [*attached()])
def test_attached_teachers_are_attached_again(teacher, condition):
    expected = teacher.velocity(0.25, NOISE, condition)
    for other in copies(teacher):
        np.testing.assert_array_equal(other.velocity(0.25, NOISE, condition), expected)
        assert repr(other) == repr(teacher)


def test_copies_of_attached_teachers_have_models_of_their_own(tmp_path):
    module = Model()
    teacher = FlowTeacher.from_torch(module, (2,))
    other, before = copy.deepcopy(teacher), teacher.velocity(0.5, NOISE)
    with torch.no_grad():
        module.shift += 1.0
    np.testing.assert_allclose(teacher.velocity(0.5, NOISE), before + 1.0, rtol=1e-5)
    np.testing.assert_array_equal(other.velocity(0.5, NOISE), before)
    # Together they stay together.
    both, same = pickle.loads(pickle.dumps((module, teacher)))
    with torch.no_grad():
        both.shift -= 1.0
    np.testing.assert_allclose(same.velocity(0.5, NOISE), before, rtol=1e-5, atol=1e-6)
    # Trained here, it is koopflow's to keep.
    teacher.set_params(steps=2, width=8, depth=1).fit(DATA, progress=False)
    teacher.save(tmp_path / "teacher")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(teacher)).sample(3), teacher.sample(3))


def test_what_pickle_refuses_and_files_do_not_hold(tmp_path):
    teacher = FlowTeacher.from_torch(lambda t, x: 1.0 - x, (2,))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(teacher)
    np.testing.assert_array_equal(copy.deepcopy(teacher).sample(3), teacher.sample(3))
    for refuse in (teacher.field.to_bytes, lambda: teacher.save(tmp_path / "teacher")):
        with pytest.raises(TeacherError, match="save the wrapped module itself and attach it again"):
            refuse()
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


def test_joblib_keeps_models(student, trained, tmp_path):
    for model, condition in ((student, None), (trained, 1)):
        joblib.dump(model, tmp_path / "model", compress=3)
        np.testing.assert_array_equal(
            joblib.load(tmp_path / "model").sample(x0=NOISE, condition=condition),
            model.sample(x0=NOISE, condition=condition),
        )


@pytest.mark.slow
def test_joblib_sends_models_to_workers(student):
    teacher = FlowTeacher.from_torch(Model(), (2,))
    models = [student, teacher, baselines.OdeSolver().fit(teacher), student.spectrum(n=32)]
    calls = [model.sample_path if model is models[-1] else model.sample for model in models]
    options = [{"times": [1.0]} if call == calls[-1] else {} for call in calls]
    found = joblib.Parallel(n_jobs=2)(
        joblib.delayed(call)(x0=NOISE, **given) for call, given in zip(calls, options, strict=True)
    )
    for other, call, given in zip(found, calls, options, strict=True):
        np.testing.assert_allclose(other, call(x0=NOISE, **given), rtol=1e-5, atol=1e-6)


def test_pickles_name_nothing_of_torch(student, trained, gaussian):
    """They are read under every torch that koopflow is built for."""
    objects = (
        student,
        trained,
        student.spectrum(n=32),
        student.density(NOISE),
        student.evaluate(gaussian, n=20),
    )
    for model in objects:
        found = pickletools.genops(pickle.dumps(model, protocol=0))
        modules = {argument.split(".")[0].split()[0] for op, argument, _ in found if op.name == "GLOBAL"}
        assert modules <= {"koopflow", "numpy", "copy_reg", "__builtin__", "_codecs"}


def test_a_comparison_and_a_report(student, gaussian):
    report = student.evaluate(gaussian, DATA, n=20)
    table = compare(gaussian, DATA, methods=["Euler, 4 steps"], n=20, progress=False)
    for given in (report, table):
        for other in copies(given):
            assert str(other) == str(given)


def test_other_bytes_are_refused(student, trained):
    whole = student._fitted().to_bytes()
    for wrong in (b"", whole[:100], whole[:-1], whole + b"0", trained.field.to_bytes()):
        with pytest.raises(CheckpointError, match="the bytes of a model"):
            _core.Student.from_bytes(wrong)
