"""Baselines against flows in closed form, against SciPy and against their own networks rebuilt in PyTorch."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file
from sklearn.base import clone
from torch.func import jvp

from koopflow import FlowTeacher, KoopmanDistiller, Trajectories
from koopflow.baselines import KDM, ConsistencyFlow, MeanVelocity, OdeSolver, PlainNetwork, StraightLine
from koopflow.exceptions import ArgumentError, DivergenceError, NotFittedError, ShapeError

from ..conftest import COV, MEAN

NOISE = np.random.default_rng(11).normal(size=(256, 2)).astype(np.float32)
SCALE = float(np.sqrt(np.trace(COV)))
SMALL = {"width": 32, "depth": 2, "trajectories": Trajectories(2048, path_steps=16), "seed": 3}
TINY = {"width": 8, "depth": 1, "trajectories": Trajectories(64, path_steps=4), "steps": 20, "batch_size": 16}
TRAINED = [PlainNetwork, KDM, MeanVelocity]


def spread(t):
    return t**2 * COV + (1 - t) ** 2 * np.eye(2)


def exact(x0, t):
    """The flow map of the Gaussian teacher: x_t = t m + S_t^(1/2) x0, for all S_t commute."""
    return t * MEAN + x0 @ np.real(scipy.linalg.sqrtm(spread(t)))


def exact_velocity(t, x):
    growth = t * COV - (1 - t) * np.eye(2)
    return MEAN + (x - t * MEAN) @ np.linalg.solve(spread(t), growth)


def error(samples, target):
    return np.sqrt(((np.asarray(samples, "f8") - target) ** 2).sum(axis=-1).mean()) / SCALE


@pytest.fixture(scope="module")
def fitted(gaussian):
    """One of each that is trained; a mean velocity learns from itself, and takes longer."""
    return {
        "PlainNetwork": PlainNetwork(**SMALL, steps=500).fit(gaussian, progress=False),
        "KDM": KDM(**SMALL, steps=500, observables=12).fit(gaussian, progress=False),
        "MeanVelocity": MeanVelocity(**SMALL, steps=1500).fit(gaussian, progress=False),
    }


# --- what is trained ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PlainNetwork", "KDM", "MeanVelocity"])
def test_one_evaluation_ends_where_the_flow_does(fitted, name):
    student = fitted[name]
    before = student.evaluations
    samples = student.sample(x0=NOISE)
    assert student.evaluations == before + 1
    assert samples.dtype == np.float32
    print(f"{name}: endpoint error {error(samples, exact(NOISE, 1.0)):.4f}")
    assert error(samples, exact(NOISE, 1.0)) < 0.03


@pytest.mark.parametrize("t", [0.25, 0.5, 0.75, 1.0])
def test_a_mean_velocity_has_the_path(fitted, t):
    student = fitted["MeanVelocity"]
    at_start, state = student.sample_path(NOISE, times=[0.0, t])
    np.testing.assert_array_equal(at_start, NOISE)
    assert error(state, exact(NOISE, t)) < 0.03


def test_maps_of_a_mean_velocity_compose(fitted):
    student = fitted["MeanVelocity"]
    before = student.evaluations
    samples = student.sample(x0=NOISE, steps=4)
    assert student.evaluations == before + 4
    assert error(samples, exact(NOISE, 1.0)) < 0.03


def test_paths_and_inverses_are_where_they_are_said_to_be(fitted, gaussian):
    every = [*fitted.values(), OdeSolver().fit(gaussian), StraightLine().fit(gaussian)]
    for student in every:
        assert student.has_path == hasattr(student, "sample_path")
        assert not student.has_inverse
        assert not hasattr(student, "invert")
        assert student.event_shape_ == (2,)
    assert [type(s).__name__ for s in every if s.has_path] == ["MeanVelocity", "OdeSolver", "StraightLine"]


def test_training_says_what_it_did(fitted):
    for student in fitted.values():
        history = student.history_
        assert history["stopped"] == "completed"
        assert history["trajectories"] == 2048
        assert history["steps"] == history["loss"][-1][0] == student.config_["steps"]
        assert history["seconds"] > history["trajectory_seconds"] > 0.0
        assert history["loss"][-1][1] < 0.1 * history["loss"][0][1]
    # A mean velocity asks the teacher once a step besides.
    evaluations = {name: student.history_["teacher_evaluations"] for name, student in fitted.items()}
    assert evaluations["MeanVelocity"] == evaluations["PlainNetwork"] + 1500


def test_options_left_open_are_those_of_a_koopman_student(gaussian):
    options = {"steps": 1, "trajectories": 64}
    own = KoopmanDistiller(**options).fit(gaussian, progress=False).config_
    baseline = KDM(**options).fit(gaussian, progress=False).config_
    for name in ("width", "depth", "observables", "path_steps"):
        assert baseline[name] == own[name]


# --- the networks, rebuilt in PyTorch -------------------------------------------------------------


def perceptron(weights, name, x):
    layers = sorted(key for key in weights if key.startswith(f"{name}.") and key.endswith(".weight"))
    y = x
    for index, key in enumerate(layers):
        y = torch.nn.functional.linear(y, weights[key], weights[key.replace("weight", "bias")])
        y = y if index == len(layers) - 1 else torch.nn.functional.silu(y)
    return y + x @ weights[f"{name}.skip"].T


def coordinates(weights, t, x):
    """[t, x along the data's axes, the same standardised by the running moments], one number t for all."""
    part = {key.removeprefix("coordinates."): value for key, value in weights.items()}
    position = t * (len(part["means"]) - 1)
    left = position.detach().floor().clamp(max=len(part["means"]) - 2).long()
    weight = position - left
    mean, deviation = (
        part[name][left] + weight * (part[name][left + 1] - part[name][left])
        for name in ("means", "deviations")
    )
    rotated = (x - part["center"]) @ part["axes"]
    column = t.expand(len(x), 1)
    return torch.cat([column, rotated * part["scale"], (rotated - mean) / deviation], 1)


def mean_velocity(weights, x, s, t):
    seen = [coordinates(weights, s, x), (t - s).expand(len(x), 1)]
    unit = torch.sqrt(weights["coordinates.scale"] ** -2 + 1.0)
    return weights["coordinates.center"] + perceptron(weights, "network", torch.cat(seen, 1)) * unit


@pytest.fixture
def weights(fitted, tmp_path):
    def of(name):
        fitted[name].save(tmp_path / "file.safetensors")
        return {key: value.double() for key, value in load_file(tmp_path / "file.safetensors").items()}

    return of


def test_a_plain_network_is_what_its_file_says(fitted, weights):
    w = weights("PlainNetwork")
    answer = perceptron(w, "network", coordinates(w, torch.tensor(0.0), torch.tensor(NOISE).double()))
    samples = w["coordinates.center"] + answer / w["coordinates.scale"]
    np.testing.assert_allclose(fitted["PlainNetwork"].sample(x0=NOISE), samples, atol=1e-4)


def test_latents_of_a_kdm_go_from_noise_to_data_through_its_operator(fitted, weights):
    w, kdm = weights("KDM"), fitted["KDM"]
    operator = kdm.operator()
    assert operator.shape == (12, 12)
    assert operator.dtype == np.float64
    noise, data = (torch.tensor(x).double() for x in (NOISE, exact(NOISE, 1.0)))
    carried = perceptron(w, "noise_encoder", coordinates(w, torch.tensor(0.0), noise)) @ torch.tensor(
        operator
    )
    there = perceptron(w, "data_encoder", coordinates(w, torch.tensor(1.0), data))
    decoded = [
        w["coordinates.center"] + perceptron(w, "decoder", z) / w["coordinates.scale"]
        for z in (carried, there)
    ]
    np.testing.assert_allclose(kdm.sample(x0=NOISE), decoded[0], atol=1e-4)
    assert error(decoded[1], exact(NOISE, 1.0)) < 0.05
    assert ((carried - there) ** 2).sum(1).mean() < 0.01 * there.var(0).sum()


def test_eigenvalues_of_a_kdm(fitted):
    operator, values = fitted["KDM"].operator(), fitted["KDM"].eigenvalues()
    assert values.dtype == np.complex128
    assert np.all(np.diff(np.abs(values)) <= 1e-12)
    np.testing.assert_allclose(values.sum(), np.trace(operator), atol=1e-8)
    np.testing.assert_allclose(values.prod(), scipy.linalg.det(operator), atol=1e-8)


# torch's own forward mode still scripts something when it is first used.
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(("s", "t"), [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5), (0.6, 1.0)])
def test_a_mean_velocity_obeys_its_identity(fitted, weights, s, t):
    """u = v + (t - s) du/ds along the flow, by torch.func.jvp and the closed form's velocity."""
    w = weights("MeanVelocity")
    x = torch.tensor(exact(NOISE, s))
    v = torch.tensor(exact_velocity(s, x.numpy()))
    times = [torch.tensor(time, dtype=torch.float64) for time in (s, t)]
    along = (v, torch.ones(()).double(), torch.zeros(()).double())
    u, rate = jvp(lambda x, s, t: mean_velocity(w, x, s, t), (x, *times), along)
    span = (t - s) or 1.0
    drift = (exact(NOISE, t) - exact(NOISE, s)) / span if t > s else v.numpy()
    size = np.sqrt((v.numpy() ** 2).sum(1).mean())
    residual = (u - v - (t - s) * rate).numpy()
    assert np.sqrt((residual**2).sum(1).mean()) < 0.1 * size
    assert np.sqrt(((u.numpy() - drift) ** 2).sum(1).mean()) < 0.03 * size
    if s == 0.0:
        np.testing.assert_allclose(fitted["MeanVelocity"].sample(x0=NOISE), x + t * u, atol=1e-4)


# --- what is not trained --------------------------------------------------------------------------


def by_hand(steps):
    states = [NOISE.astype("f8")]
    for step in range(steps):
        states.append(states[-1] + exact_velocity(step / steps, states[-1]) / steps)
    return states


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_euler_by_hand(gaussian, steps):
    solver = OdeSolver(steps=steps).fit(gaussian)
    before = gaussian.evaluations
    np.testing.assert_allclose(solver.sample(x0=NOISE), by_hand(steps)[-1], atol=1e-4)
    assert solver.evaluations == gaussian.evaluations == before + steps


def test_between_two_steps_of_euler_lies_a_line(gaussian):
    states = by_hand(2)
    path = OdeSolver(steps=2).fit(gaussian).sample_path(NOISE, times=[1.0, 0.0, 0.25, 0.5, 0.8])
    expected = [
        states[2],
        states[0],
        (states[0] + states[1]) / 2,
        states[1],
        0.4 * states[1] + 0.6 * states[2],
    ]
    np.testing.assert_allclose(path, expected, atol=1e-4)


@pytest.mark.parametrize(("solver", "evaluations"), [("midpoint", 2), ("heun", 2), ("rk4", 4)])
def test_other_solvers_cost_what_they_should(gaussian, solver, evaluations):
    student = OdeSolver(solver=solver, steps=3).fit(gaussian)
    before = student.evaluations
    assert error(student.sample(x0=NOISE), exact(NOISE, 1.0)) < error(by_hand(3)[-1], exact(NOISE, 1.0))
    assert student.evaluations == before + 3 * evaluations


def test_dopri5_is_the_flow(gaussian):
    student = OdeSolver(solver="dopri5").fit(gaussian)
    np.testing.assert_allclose(student.sample(x0=NOISE), exact(NOISE, 1.0), atol=1e-3)
    path = student.sample_path(NOISE, times=[0.7, 0.3])
    np.testing.assert_allclose(path, [exact(NOISE, 0.7), exact(NOISE, 0.3)], atol=1e-3)


def test_the_straight_line_has_the_exact_ends(gaussian):
    student = StraightLine().fit(gaussian)
    ends = exact(NOISE, 1.0)
    np.testing.assert_allclose(student.sample(x0=NOISE), ends, atol=1e-3)
    path = student.sample_path(NOISE, times=[0.0, 0.3, 1.0])
    np.testing.assert_allclose(path, [NOISE, 0.7 * NOISE + 0.3 * ends, ends], atol=1e-3)


def test_values_of_the_teacher_are_counted():
    teacher = FlowTeacher((2,), width=8, depth=1, steps=2).fit(NOISE, progress=False)
    inputs = 2 + 1 + 2 * 3
    assert OdeSolver().fit(teacher).parameter_count == 8 * (inputs + 1) + 2 * (8 + 1) + 2 * inputs
    assert StraightLine().fit(FlowTeacher.gaussian(MEAN, COV)).parameter_count == 0


# --- arrays, seeds, conditions --------------------------------------------------------------------


def test_arrays_come_out_as_they_went_in(fitted, gaussian):
    for student in [*fitted.values(), OdeSolver().fit(gaussian), StraightLine().fit(gaussian)]:
        from_torch = student.sample(x0=torch.tensor(NOISE))
        assert isinstance(from_torch, torch.Tensor)
        np.testing.assert_array_equal(from_torch.numpy(), student.sample(x0=NOISE))
        if student.has_path:
            path = student.sample_path(torch.tensor(NOISE), times=[0.5])
            assert isinstance(path, torch.Tensor)
            assert path.shape == (1, 256, 2)
        # Equal seeds start from equal noise, whoever samples.
        fresh = gaussian.sample(8, seed=4)
        assert student.sample(8, seed=4).shape == (8, 2)
        assert error(student.sample(8, seed=4), fresh) < 0.3


@pytest.mark.parametrize("method", TRAINED)
def test_a_seed_fixes_everything(gaussian, method):
    one, same, other = (method(**TINY, seed=seed).fit(gaussian, progress=False) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.sample(x0=NOISE), same.sample(x0=NOISE))
    assert one.history_["loss"] == same.history_["loss"]
    assert np.abs(one.sample(x0=NOISE) - other.sample(x0=NOISE)).max() > 1e-3


@pytest.mark.parametrize("method", TRAINED)
def test_a_student_of_labels(method):
    """dx/dt = m(y) - x, so that x1 = m(y) + (x0 - m(y)) / e."""
    means = torch.tensor([[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0]])
    teacher = FlowTeacher.from_torch(lambda t, x, y: means[y] - x, event_shape=(2,), num_classes=3)
    student = method(**SMALL, steps=400).fit(teacher, progress=False)
    labels = np.arange(len(NOISE)) % 3
    centres = means.numpy()[labels]
    ends = centres + (NOISE - centres) / np.e
    assert error(student.sample(x0=NOISE, condition=labels), ends) < 0.1
    with pytest.raises(ArgumentError, match="condition"):
        student.sample(x0=NOISE)
    with pytest.raises(ArgumentError, match="condition"):
        student.sample(x0=NOISE, condition=labels + 1)


def test_vectors_come_from_the_teachers_training():
    vectors = np.random.default_rng(0).normal(size=(64, 3)).astype("f4")
    teacher = FlowTeacher((2,), condition_dim=3, width=8, depth=1, steps=3)
    teacher.fit(NOISE[:64], condition=vectors, progress=False)
    student = PlainNetwork(**TINY).fit(teacher, progress=False)
    assert student.sample(x0=NOISE[:4], condition=vectors[:4]).shape == (4, 2)
    attached = FlowTeacher.from_torch(lambda t, x, y: y[:, :2] - x, event_shape=(2,), condition_dim=3)
    with pytest.raises(ArgumentError, match="condition"):
        PlainNetwork(**TINY).fit(attached, progress=False)
    PlainNetwork(**TINY).fit(attached, condition=vectors, progress=False)


@pytest.mark.parametrize("method", TRAINED)
def test_images_are_samples_too(method):
    teacher = FlowTeacher.gaussian(np.zeros((1, 3, 3)), np.eye(9))
    student = method(**TINY).fit(teacher, progress=False)
    assert student.sample(5).shape == (5, 1, 3, 3)


# --- ends that come early, and errors -------------------------------------------------------------


@pytest.mark.parametrize("method", TRAINED)
def test_an_interrupted_fit_keeps_a_student(gaussian, method):
    def stop(event):
        if event["stage"] == "student":
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="the student so far is kept"):
        student = method(**{**TINY, "steps": 10**9}).fit(gaussian, progress=stop)
    assert student.history_["stopped"] == "interrupted"
    assert 1 <= student.history_["steps"] < 10**9
    assert student.sample(4).shape == (4, 2)


def test_before_training_an_interrupt_is_one(gaussian):
    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        PlainNetwork(**TINY).fit(gaussian, progress=stop)


def test_the_clock_ends_training(gaussian):
    seen = []
    student = PlainNetwork(**{**TINY, "steps": None}, max_seconds=0.6).fit(gaussian, progress=seen.append)
    assert student.history_["stopped"] == "budget"
    assert student.config_["steps"] is None
    assert all(event["total"] >= event["step"] for event in seen)
    counted = PlainNetwork(**TINY, max_seconds=1000.0).fit(gaussian, progress=False)
    assert (counted.history_["stopped"], counted.history_["steps"]) == ("completed", 20)


def test_a_fit_that_diverges_is_said_to_and_keeps_a_student(gaussian):
    network = PlainNetwork(**{**TINY, "steps": 200}, learning_rate=1e30, training={"warmup_steps": 1})
    with pytest.raises(DivergenceError, match="training diverged.*smaller learning_rate"):
        network.fit(gaussian, progress=False)
    assert network.history_["stopped"] == "diverged"
    assert network.history_["restarts"] == 3
    assert np.isfinite(network.sample(x0=NOISE)).all()


@pytest.mark.parametrize("make", [*TRAINED, OdeSolver, StraightLine])
def test_before_fit_nothing_works(make, tmp_path):
    baseline = make()
    calls = [
        lambda: baseline.sample(1),
        lambda: baseline.evaluations,
        lambda: baseline.parameter_count,
        lambda: baseline.save(tmp_path / "never.safetensors"),
    ]
    if baseline.has_path:
        calls.append(lambda: baseline.sample_path(1, times=[0.5]))
    if isinstance(baseline, KDM):
        calls.extend([baseline.operator, baseline.eigenvalues])
    for call in calls:
        with pytest.raises(NotFittedError, match=r"call fit\(teacher\) first"):
            call()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (PlainNetwork, {"width": 0}),
        (PlainNetwork, {"depth": -1}),
        (PlainNetwork, {"steps": 0}),
        (PlainNetwork, {"batch_size": 1}),
        (PlainNetwork, {"learning_rate": 0.0}),
        (PlainNetwork, {"training": {"ema_decay": 1.0}}),
        (PlainNetwork, {"training": {"clip_norm": -1.0}}),
        (PlainNetwork, {"trajectories": 3}),
        (PlainNetwork, {"trajectories": {"pairs": "endpoints"}}),
        (PlainNetwork, {"training": {"method": "closed_form"}}),
        (PlainNetwork, {"trajectories": {"path_steps": 0}}),
        (PlainNetwork, {"max_seconds": -1.0}),
        (PlainNetwork, {"seed": -1}),
        (PlainNetwork, {"device": "abacus"}),
        (PlainNetwork, {"dtype": "float16"}),
        (KDM, {"observables": 0}),
        (KDM, {"weights": {"target": -1.0}}),
        (KDM, {"weights": {"colour": 1.0}}),
        (KDM, {"weights": {"target": 0.0, "latent": 0.0, "reconstruction": 0.0}}),
        (MeanVelocity, {"instant_share": 1.5}),
        (OdeSolver, {"solver": "magic"}),
        (OdeSolver, {"steps": 0}),
        (OdeSolver, {"steps": 2.5}),
    ],
)
def test_wrong_options_are_named(gaussian, method, options):
    tiny = {**TINY, **options} if method in TRAINED else options
    name, value = next(iter(options.items()))
    # Of nested options, the one that is wrong.
    nested = isinstance(value, dict) and name != "weights"
    with pytest.raises(ValueError, match=next(iter(value)) if nested else name):
        method(**tiny).fit(gaussian, progress=False)


@pytest.mark.parametrize("method", [*TRAINED, ConsistencyFlow, OdeSolver, StraightLine])
def test_parameters_are_scikit_learns(method):
    params = method().get_params(deep=False)
    assert set(inspect.signature(method).parameters) == set(params)
    assert clone(method(**params)).get_params() == method().get_params()
    with pytest.raises(ArgumentError, match="has no parameter 'colour'"):
        method().set_params(colour="red")


def test_options_are_set_by_double_underscore(gaussian):
    network = PlainNetwork(**TINY).set_params(training__clip_norm=0, trajectories__path_steps=8)
    assert network.get_params()["trajectories__count"] == 64
    config = network.fit(gaussian, progress=False).config_
    assert (config["path_steps"], config["trajectories"]) == (8, 64)
    # 0 does not clip.
    assert not config["clip_norm"]
    network.set_params(training__optimizer="adamw", training__weight_decay=0.25, training__max_restarts=1)
    config = network.fit(gaussian, progress=False).config_
    found = [config[name] for name in ("optimizer", "weight_decay", "max_restarts")]
    assert found == ["adamw", 0.25, 1]
    with pytest.warns(FutureWarning, match=r"training=Training\(ema_decay=...\)"):
        assert PlainNetwork(ema_decay=0.9).get_params()["training__ema_decay"] == 0.9
    with pytest.raises(TypeError, match="did you mean 'depth'"):
        KDM(dept=1)


def test_steps_are_those_that_a_method_has(fitted, gaussian):
    assert fitted["PlainNetwork"].sample(x0=NOISE, steps=1).shape == NOISE.shape
    for student in (fitted["PlainNetwork"], fitted["KDM"], OdeSolver().fit(gaussian)):
        with pytest.raises(ArgumentError, match="^steps: "):
            student.sample(x0=NOISE, steps=2)


def test_wrong_arguments_are_named(fitted, gaussian):
    student = fitted["MeanVelocity"]
    with pytest.raises(TypeError, match="expected a FlowTeacher, got function"):
        PlainNetwork().fit(lambda t, x: x)
    with pytest.raises(TypeError, match="expected a FlowTeacher, got ndarray"):
        OdeSolver().fit(NOISE)
    with pytest.raises(ShapeError, match="x0"):
        student.sample(x0=NOISE[:, :1])
    with pytest.raises(ArgumentError, match="one of n and x0"):
        student.sample()
    with pytest.raises(ArgumentError, match="steps"):
        student.sample(x0=NOISE, steps=0)
    for path in (student, OdeSolver().fit(gaussian), StraightLine().fit(gaussian)):
        for times in ([], [0.5, 1.5], [-0.1], [float("nan")]):
            with pytest.raises(ArgumentError, match="times"):
                path.sample_path(NOISE, times=times)
    for method in TRAINED:
        with pytest.raises(TypeError):
            method(colour="red")
