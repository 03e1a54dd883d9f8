from __future__ import annotations

import _thread
import json

import numpy as np
import pytest
import torch
from scipy.linalg import expm, sqrtm
from sklearn.base import clone
from sklearn.utils import estimator_checks

from koopflow import Architecture, EvaluationReport, FlowTeacher, KoopmanDistiller, Trajectories, _core
from koopflow.exceptions import ArgumentError, CheckpointError, NotFittedError, ShapeError

from ..conftest import COV, MEAN

NOISE = np.random.default_rng(11).normal(size=(256, 2)).astype(np.float32)
EXACT = MEAN + NOISE @ np.real(sqrtm(COV))


# --- scikit-learn ---------------------------------------------------------------------------------


# The checks that fit on an array X do not apply: what is fitted is a teacher, not data.
CHECKS = [
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_estimator_repr",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
]


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_checks(name):
    check = getattr(estimator_checks, name, None)
    if check is None:
        pytest.skip("this scikit-learn has no such check")
    check("KoopmanDistiller", KoopmanDistiller())


def test_a_clone_has_the_parameters_but_is_not_fitted(student):
    copy = clone(student)
    assert copy.get_params() == student.get_params()
    with pytest.raises(NotFittedError):
        copy.sample(1)
    assert "observables=16" in repr(student)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.sample(1),
        lambda s: s.sample_path(1, times=[0.5]),
        lambda s: s.invert(NOISE),
        lambda s: s.encode(0.0, NOISE),
        lambda s: s.propagate(NOISE, 1.0),
        lambda s: s.readout(NOISE),
        lambda s: s.generator_matrix(),
        lambda s: s.eigenvalues(),
        lambda s: s.evaluations,
        lambda s: s.evaluate(None, NOISE),
        lambda s: s.save("never.safetensors"),
    ],
)
def test_before_fit_nothing_works(call):
    with pytest.raises(NotFittedError, match=r"call fit\(teacher\) first"):
        call(KoopmanDistiller())


# --- what a student does --------------------------------------------------------------------------


def test_one_step_samples_are_near_the_exact_flow(student):
    error = np.sqrt(((student.sample(x0=NOISE) - EXACT) ** 2).sum(axis=1).mean())
    assert error < 0.1 * np.sqrt(np.trace(COV))


def test_inversion_finds_the_noise(student):
    recovered = student.invert(EXACT.astype(np.float32))
    assert np.sqrt(((recovered - NOISE) ** 2).sum(axis=1).mean()) < 0.15 * np.sqrt(2.0)


def test_paths_begin_at_the_noise_and_end_at_the_samples(student):
    path = student.sample_path(NOISE, times=[0.0, 0.5, 1.0])
    assert path.shape == (3, 256, 2)
    np.testing.assert_allclose(path[0], NOISE, atol=1e-5)
    np.testing.assert_allclose(path[2], student.sample(x0=NOISE), atol=1e-4)


def test_observables_hold_constant_time_and_state(student):
    t = np.linspace(0, 1, 256).astype(np.float32)
    g = student.encode(t, NOISE)
    assert g.shape == (256, student.n_observables_)
    assert student.n_observables_ == 1 + 1 + 2 + 16
    np.testing.assert_allclose(g[:, 0], 1.0)
    np.testing.assert_allclose(g[:, 1], t)
    np.testing.assert_allclose(g[:, 2:4], NOISE)
    np.testing.assert_allclose(student.readout(g), NOISE)
    np.testing.assert_allclose(student.encode(0.25, NOISE), student.encode(0 * t + 0.25, NOISE))


@pytest.mark.parametrize("tau", [-1.0, 0.5, 1.0])
def test_propagation_is_the_matrix_exponential(student, tau):
    g = student.encode(0.0, NOISE)
    expected = g.astype(np.float64) @ expm(tau * student.generator_matrix())
    scale = np.abs(expected).max()
    np.testing.assert_allclose(student.propagate(g, tau), expected, atol=1e-4 * scale)


def test_samples_are_encode_propagate_readout(student):
    g = student.encode(0.0, NOISE)
    np.testing.assert_allclose(
        student.readout(student.propagate(g, 1.0)), student.sample(x0=NOISE), atol=1e-4
    )


def test_eigenvalues_are_the_matrices(student):
    ours = student.eigenvalues()
    assert ours.dtype == np.complex128
    matrix = student.generator_matrix()
    assert ours.shape == (student.n_observables_,)
    # det(zI - L) compares the two sets without an order. Radius 5 keeps clear of the roots.
    z = 5.0 * np.exp(1j * np.linspace(0.0, np.pi, 7))
    direct = np.array([np.linalg.det(point * np.eye(len(matrix)) - matrix) for point in z])
    np.testing.assert_allclose(np.prod(z[:, None] - ours[None], axis=1), direct, rtol=1e-4)


def test_outputs_follow_the_kind_of_the_input(student):
    tensor = torch.from_numpy(NOISE)
    for function in (
        lambda x: student.sample(x0=x),
        lambda x: student.sample_path(x, times=[0.5, 1.0]),
        student.invert,
        lambda x: student.encode(0.5, x),
        lambda x: student.propagate(student.encode(0.5, x), 0.5),
    ):
        ours, theirs = function(NOISE), function(tensor)
        assert isinstance(ours, np.ndarray)
        assert isinstance(theirs, torch.Tensor)
        np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-6)


def test_fresh_samples_are_fixed_by_their_seed(student):
    first = student.sample(50, seed=2)
    assert first.shape == (50, 2)
    np.testing.assert_array_equal(first, student.sample(50, seed=2))
    assert not np.array_equal(first, student.sample(50, seed=3))
    assert student.sample_path(5, times=[0.0, 1.0]).shape == (2, 5, 2)


def test_fresh_samples_start_from_the_seeds_noise_whatever_the_chunks(student, gaussian):
    """More rows than one chunk; teachers and students share the noise of a seed."""
    n = 300_000
    noise = _core.normal((n, 2), 5)
    np.testing.assert_allclose(student.sample(n, seed=5), student.sample(x0=noise), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(gaussian.sample(100, seed=5), gaussian.sample(x0=_core.normal((100, 2), 5)))


def test_one_sample_costs_one_evaluation(student):
    before = student.evaluations
    student.sample(x0=NOISE)
    assert student.evaluations == before + 1
    student.sample(x0=NOISE, steps=4)
    assert student.evaluations == before + 5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.sample(), ArgumentError, "one of n and x0, got neither"),
        (lambda s: s.sample(-1), ArgumentError, "n: expected an integer of at least 1"),
        (lambda s: s.sample(x0=np.zeros((3, 5), np.float32)), ShapeError, "x0"),
        (lambda s: s.encode(0.0, NOISE, direction="up"), ArgumentError, "direction"),
    ],
)
def test_wrong_calls_are_named(student, call, error, message):
    with pytest.raises(error, match=message):
        call(student)


# --- fitting --------------------------------------------------------------------------------------


def tiny(**options):
    return KoopmanDistiller().set_params(
        **{"observables": 8, "width": 16, "steps": 60, "trajectories": 256} | options
    )


def test_a_bare_function_is_told_how_to_become_a_teacher():
    with pytest.raises(TypeError, match=r"FlowTeacher\.from_torch\(function, event_shape"):
        KoopmanDistiller().fit(lambda t, x: x)
    with pytest.raises(TypeError, match=r"expected a FlowTeacher.* got None with a ndarray"):
        KoopmanDistiller().fit(NOISE)
    with pytest.raises(NotFittedError):
        KoopmanDistiller().fit(FlowTeacher((2,)))


def test_fit_reports_terms_and_held_out_error(gaussian):
    events = []
    student = tiny().fit(gaussian, progress=False, callback=events.append)
    stages = [event["stage"] for event in events]
    assert set(stages) == {"trajectories", "student"}
    assert stages == sorted(stages, reverse=True)
    last = events[-1]
    assert last["step"] == last["total"] == 60
    assert {"endpoint", "path", "inverse", "endpoint_error"} <= set(last["values"])
    assert student.history_["steps"] == 60
    assert student.history_["stopped"] == "completed"
    assert student.history_["log"][-1]["endpoint_error"] == last["values"]["endpoint_error"]


def test_a_callbacks_exception_comes_back(gaussian):
    def refuse(_):
        raise LookupError("enough")

    student = tiny()
    with pytest.raises(LookupError, match="enough"):
        student.fit(gaussian, progress=False, callback=refuse)
    with pytest.raises(NotFittedError):
        student.sample(1)


def test_ctrl_c_keeps_the_best_student(gaussian):
    def press(event):
        if event["stage"] == "student":
            _thread.interrupt_main()

    student = tiny(steps=100_000)
    with pytest.warns(RuntimeWarning, match="the best student so far is kept"):
        student.fit(gaussian, progress=False, callback=press)
    assert student.history_["stopped"] == "interrupted"
    assert student.history_["steps"] < 100_000
    assert np.isfinite(student.sample(10)).all()


@pytest.mark.parametrize("generator", ["spectral", "dense"])
@pytest.mark.parametrize(("shape", "observables", "lifts"), [((1, 2, 2), 3, 1), ((1,), 1, 2), ((3, 1), 2, 2)])
def test_any_event_shape_and_any_number_of_observables(generator, shape, observables, lifts, tmp_path):
    size = int(np.prod(shape))
    teacher = FlowTeacher.gaussian(np.ones(shape), np.eye(size))
    student = KoopmanDistiller(
        generator=generator,
        observables=observables,
        architecture=Architecture(lifts=lifts),
        width=8,
        depth=0,
        steps=30,
        trajectories=Trajectories(count=64, path_steps=1),
        batch_size=2,
    ).fit(teacher, progress=False)
    noise = np.random.default_rng(0).normal(size=(5, *shape)).astype("f4")
    assert student.sample(7).shape == (7, *shape)
    assert student.sample_path(x0=noise, times=[0, 0.5]).shape == (2, 5, *shape)
    assert student.invert(noise).shape == (5, *shape)
    assert student.encode(0.5, noise).shape == (5, 2 + size + observables)
    assert student.eigenvalues().shape == (2 + size + observables,)
    student.save(tmp_path / "student.safetensors")
    again = KoopmanDistiller.load(tmp_path / "student.safetensors")
    np.testing.assert_array_equal(again.sample(x0=noise), student.sample(x0=noise))


def test_max_seconds_bounds_trajectories_and_steps(gaussian):
    student = KoopmanDistiller(max_seconds=0.5, steps=10**7, trajectories=10**6, width=16)
    student.fit(gaussian, progress=False)
    assert student.history_["stopped"] == "budget"
    assert 0 < student.history_["trajectories"] < 10**6
    assert 0 < student.history_["steps"] < 10**7
    assert np.isfinite(student.sample(10)).all()


def test_the_seed_fixes_the_student(gaussian):
    first, again, other = (tiny(seed=s).fit(gaussian, progress=False).sample(x0=NOISE) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_dense_generator_gives_the_same_interface(gaussian):
    student = tiny(generator="dense", architecture__lifts=1).fit(gaussian, progress=False)
    g = student.encode(0.0, NOISE)
    expected = g.astype(np.float64) @ expm(student.generator_matrix())
    np.testing.assert_allclose(student.readout(student.propagate(g, 1.0)), expected[:, 2:4], atol=1e-3)


def test_weights_change_single_terms_and_unknown_ones_are_named(gaussian):
    student = tiny(objective__weights={"path": 0.0}).fit(gaussian, progress=False)
    weights = student.config_["weights"]
    assert weights["path"] == 0.0
    assert weights["endpoint"] > 0.0
    with pytest.raises(ArgumentError, match=r'weights\["paths"\]: expected one of endpoint, path, .*'):
        tiny(objective__weights={"paths": 1.0}).fit(gaussian, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "magic"}, "generator|magic"),
        ({"steps": 0}, "steps"),
        ({"architecture__lifts": 3}, "lifts"),
    ],
)
def test_wrong_options_are_named_when_fitting(gaussian, options, message):
    with pytest.raises(ArgumentError, match=message):
        tiny(**options).fit(gaussian, progress=False)


# --- evaluation and files -------------------------------------------------------------------------


def test_the_report_agrees_with_the_closed_form(student, gaussian):
    from koopflow import _core

    data = np.random.default_rng(5).multivariate_normal(MEAN, COV, size=800).astype(np.float32)
    report = student.evaluate(gaussian, data, n=300, seed=77)
    assert isinstance(report, EvaluationReport)
    noise = _core.normal((300, 2), 77)
    exact = MEAN + noise @ np.real(sqrtm(COV))
    scale = np.sqrt(data.var(axis=0).sum())

    def rms(difference):
        return np.sqrt((difference**2).sum(axis=1).mean())

    np.testing.assert_allclose(
        report.endpoint_error, rms(student.sample(x0=noise) - exact) / scale, atol=1e-3
    )
    inverted = student.invert(exact.astype(np.float32))
    np.testing.assert_allclose(report.inversion_error, rms(inverted - noise) / rms(noise), atol=1e-3)
    round_trip = rms(student.sample(x0=inverted) - exact) / scale
    np.testing.assert_allclose(report.round_trip_error, round_trip, atol=1e-3)
    errors, line = [], []
    for t in np.linspace(0.1, 0.9, 17):
        # x_t = t m + S_t^{1/2} x0 with S_t = t^2 C + (1 - t)^2 I, the exact flow map to time t.
        root = np.real(sqrtm(t**2 * COV + (1 - t) ** 2 * np.eye(2)))
        state = t * MEAN + noise @ root
        errors.append(rms(student.sample_path(noise, times=[t])[0] - state))
        line.append(rms(noise + t * (exact - noise) - state))
    np.testing.assert_allclose(report.path_error, np.mean(errors) / scale, atol=1e-3)
    np.testing.assert_allclose(report.straight_line_path_error, np.mean(line) / scale, atol=1e-3)


def test_the_report_prints_and_becomes_json(student, gaussian):
    data = np.random.default_rng(6).multivariate_normal(MEAN, COV, size=400).astype(np.float32)
    report = student.evaluate(gaussian, data, n=200)
    text = str(report)
    assert "endpoint error" in text
    assert f"{report.endpoint_error:.4f}" in text
    values = json.loads(json.dumps(report.to_dict()))
    assert values["student_evaluations"] == 1
    assert values["teacher_evaluations"] > 5
    assert values["evaluation_ratio"] == values["teacher_evaluations"]
    assert values["floor"]["samples"] == 200
    # The teacher is exact and the student close: both are near the floor, far from another Gaussian.
    other = student.evaluate(gaussian, data + np.float32(3.0), n=200)
    for name in ("sliced_wasserstein", "energy", "wasserstein2"):
        assert getattr(report.teacher, name) < 0.5 * getattr(other.teacher, name)


def test_evaluate_refuses_other_data(student, gaussian):
    with pytest.raises(ShapeError, match="data: expected at least 4 samples"):
        student.evaluate(gaussian, np.zeros((10, 3), np.float32))
    with pytest.raises(ArgumentError, match="not all equal"):
        student.evaluate(gaussian, np.zeros((10, 2), np.float32))
    with pytest.raises(TypeError, match="expected a FlowTeacher"):
        student.evaluate(lambda t, x: x, NOISE)


def test_a_student_survives_a_file(student, tmp_path):
    path = tmp_path / "student.safetensors"
    student.save(path)
    loaded = KoopmanDistiller.load(path)
    np.testing.assert_array_equal(loaded.sample(x0=NOISE), student.sample(x0=NOISE))
    np.testing.assert_array_equal(loaded.invert(NOISE), student.invert(NOISE))
    np.testing.assert_array_equal(loaded.generator_matrix(), student.generator_matrix())
    assert loaded.get_params() == student.get_params()
    assert loaded.history_["steps"] == student.history_["steps"]
    assert loaded.history_["log"][-1] == pytest.approx(student.history_["log"][-1])
    facts = {"kind": "gaussian", "event_shape": [2], "conditioning": "none", "mixing": {"path": "linear"}}
    assert loaded.teacher_ == facts


def test_files_that_are_no_students(gaussian, tmp_path):
    with pytest.raises(FileNotFoundError):
        KoopmanDistiller.load(tmp_path / "nothing.safetensors")
    (tmp_path / "text.safetensors").write_text("not a checkpoint at all, just text")
    with pytest.raises(CheckpointError, match=r"text\.safetensors"):
        KoopmanDistiller.load(tmp_path / "text.safetensors")
    gaussian.save(tmp_path / "teacher.safetensors")
    with pytest.raises(CheckpointError):
        KoopmanDistiller.load(tmp_path / "teacher.safetensors")
