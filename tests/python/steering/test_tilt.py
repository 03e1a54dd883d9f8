"""Tilted students and teachers against quadrature and closed forms."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, Observation, _core, energies
from koopflow.exceptions import ArgumentError, ShapeError

from .reference import Quadrature, gaussian_posterior

METHODS = ("importance", "smc", "mcmc")


@pytest.fixture(scope="module")
def grid(student) -> Quadrature:
    return Quadrature(student)


def curved(x):
    """A reward with two hills."""
    return torch.logaddexp(-2.0 * (x[:, 0] - 2.0) ** 2, -2.0 * (x[:, 0] + 0.5) ** 2) + 0.5 * x[:, 1]


def on_grid(grid: Quadrature, reward) -> np.ndarray:
    return reward(torch.from_numpy(grid.x)).numpy()


@pytest.mark.parametrize("method", ["importance", "smc", pytest.param("mcmc", marks=pytest.mark.slow)])
def test_a_reward_tilts_as_quadrature_says(student, grid, method):
    evidence, weights = grid.tilted(on_grid(grid, curved) / 2.0)
    found = student.tilt(reward=curved, temperature=2.0).sample(4096, method=method, seed=1, thin=25)
    for moment in (lambda x: x, lambda x: x**2, lambda x: x[:, 0] * x[:, 1]):
        value, error = found.expectation(moment)
        exact = np.tensordot(weights, np.asarray(moment(grid.x)), axes=1)
        assert np.all(np.abs(value - exact) < 5.0 * np.asarray(error) + 1e-3), (value, exact, error)
    if method == "mcmc":
        assert np.isnan(found.log_evidence)
    else:
        assert abs(found.log_evidence - evidence) < 5.0 * found.log_evidence_error
        assert found.log_evidence_error < 0.1
    assert found.reliable, found.verdict
    assert found.x.shape == (4096, 2)
    # Samples are what the student makes of their noise.
    np.testing.assert_allclose(student.sample(x0=found.noise), found.x, atol=1e-4)


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_half_plane_is_a_reward_of_minus_infinity(student, gaussian, model):
    tilted = (student if model == "student" else gaussian).tilt(
        reward=lambda x: torch.where(x[:, 0] > 3.0, 0.0, -torch.inf)
    )
    found = tilted.sample(2048, method="smc")
    assert (found.x[:, 0] > 3.0).all()
    # P(x > 3) for N(1, 2), which is 0.0786.
    assert found.log_evidence == pytest.approx(np.log(0.07865), abs=0.2)


def test_observations_of_a_gaussian_have_their_posterior(gaussian):
    mean, cov = np.array([1.0, -2.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
    operator, y = np.array([[1.0, -1.0]]), np.array([4.0])
    exact_mean, exact_cov, evidence = gaussian_posterior(mean, cov, operator, y, 0.5)
    found = gaussian.tilt(observation=Observation(operator, y, noise=0.5)).sample(8192, method="smc")
    value, error = found.expectation()
    assert np.all(np.abs(value - exact_mean) < 5 * error)
    square, square_error = found.expectation(
        lambda x: np.einsum("bi,bj->bij", x.numpy() - value, x.numpy() - value)
    )
    assert np.all(np.abs(square - exact_cov) < 5 * square_error + 1e-3)
    assert abs(found.log_evidence - evidence) < 5 * found.log_evidence_error
    plain = gaussian.tilt(observation=Observation(operator, y, noise=0.5)).sample(8192, method="importance")
    assert abs(plain.log_evidence - evidence) < 5 * plain.log_evidence_error


def test_laplace_has_exact_weights(student, grid):
    def operator(x):
        return torch.stack([x[:, 0] ** 2, x[:, 0] + x[:, 1]], dim=1)

    y, noise = np.array([2.5, -0.3]), np.array([0.3, 0.2])
    residuals = (operator(torch.from_numpy(grid.x)).numpy() - y) / noise
    values = -0.5 * (residuals**2).sum(axis=1) - np.log(noise).sum() - np.log(2 * np.pi)
    evidence, weights = grid.tilted(values)
    found = student.tilt(observation=Observation(operator, y, noise=noise)).sample(4096, method="laplace")
    value, error = found.expectation()
    assert np.all(np.abs(value - weights @ grid.x) < 5 * error)
    assert abs(found.log_evidence - evidence) < 5 * found.log_evidence_error
    assert found.log_evidence_error < 0.05
    # Two roots of x^2 = 2.5 are two modes.
    assert "2 modes" in found.notes
    assert found.ess > 1000


def test_ways_to_say_what_is_observed_agree(student):
    y = 1.2
    ways = [
        Observation(np.array([[0.0, 1.0]]), [y], noise=0.3),
        Observation(np.array([False, True]), [y], noise=0.3),
        Observation(np.array([False, True]), [99.0, y], noise=[0.3]),
        Observation(np.array([1]), np.array([[y]]), noise=0.3),
        Observation(lambda x: x[:, 1:], y, noise=0.3),
    ]
    found = [student.tilt(observation=way).sample(256, method="importance") for way in ways]
    for other in found[1:]:
        np.testing.assert_allclose(other.log_weights, found[0].log_weights, rtol=1e-5, atol=1e-5)


def test_an_energy_takes_the_models_density_away(student):
    cov = np.array([[1.0, 0.3], [0.3, 0.8]])
    precision, mean = torch.from_numpy(np.linalg.inv(cov)), torch.tensor([0.5, -1.5])

    def energy(x):
        away = x - mean
        return 0.5 * torch.einsum("bi,ij,bj->b", away, precision.to(x.dtype), away)

    log_z = np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(cov)[1]
    reference = np.random.default_rng(0).multivariate_normal(mean.numpy(), cov, size=2000)
    found = student.tilt(energy=energy).sample(4096, method="importance", reference=reference)
    assert abs(found.log_evidence - log_z) < 5 * found.log_evidence_error + 0.01
    assert found.log_evidence_backwards == pytest.approx(log_z, abs=0.1)
    value, error = found.expectation()
    assert np.all(np.abs(value - mean.numpy()) < 5 * error)
    assert found.multiplicity == pytest.approx(1.0, abs=0.05)
    for method in ("smc", "mcmc"):
        again = student.tilt(energy=energy).sample(2048, method=method)
        value, error = again.expectation()
        assert np.all(np.abs(value - mean.numpy()) < 5 * error + 0.01)
        if method == "smc":
            assert abs(again.log_evidence - log_z) < 5 * again.log_evidence_error + 0.01


def test_temperature_divides_an_energy(student):
    hot = student.tilt(energy=lambda x: 0.5 * ((x - 1.0) ** 2).sum(dim=1), temperature=0.5)
    found = hot.sample(4096, method="importance")
    # exp(-|x - 1|^2) integrates to pi.
    assert found.log_evidence == pytest.approx(np.log(np.pi), abs=5 * found.log_evidence_error + 0.01)


def test_a_teacher_takes_an_energy(gaussian):
    found = gaussian.tilt(energy=lambda x: 0.5 * ((x - 1.0) ** 2).sum(dim=1)).sample(
        2048, method="importance"
    )
    assert found.log_evidence == pytest.approx(np.log(2 * np.pi), abs=5 * found.log_evidence_error + 0.01)
    assert np.isnan(found.multiplicity)


def test_a_reward_and_an_observation_go_together(student, grid):
    both = student.tilt(
        reward=lambda x: x[:, 1], observation=Observation(np.array([0]), [2.0], noise=0.5)
    ).sample(4096, method="importance")
    gaps = -0.5 * ((grid.x[:, 0] - 2.0) / 0.5) ** 2 - np.log(0.5) - 0.5 * np.log(2 * np.pi)
    evidence, weights = grid.tilted(grid.x[:, 1] + gaps)
    assert abs(both.log_evidence - evidence) < 5 * both.log_evidence_error
    value, error = both.expectation()
    assert np.all(np.abs(value - weights @ grid.x) < 5 * error)


def test_auto_says_which_method_it_took(student):
    mild = student.tilt(reward=lambda x: 0.3 * x[:, 0]).sample(512)
    assert mild.method == "importance"
    sharp = Observation(np.array([0]), [6.0], noise=0.02)
    assert student.tilt(observation=sharp).sample(512).method == "laplace"
    far = student.tilt(reward=lambda x: -200.0 * (x[:, 0] - 6.0) ** 2).sample(512)
    assert far.method == "smc"
    assert abs(far.expectation(lambda x: x[:, 0])[0] - 6.0) < 0.1


def test_functions_without_gradients_are_moved_without(student, grid):
    def plain(x):
        return -2.0 * (np.asarray(x)[:, 0] - 2.0) ** 2

    found = student.tilt(reward=plain).sample(2048, method="smc")
    assert any("without gradients" in note for note in found.notes)
    _, weights = grid.tilted(-2.0 * (grid.x[:, 0] - 2.0) ** 2)
    value, error = found.expectation()
    assert np.all(np.abs(value - weights @ grid.x) < 5 * error)
    with pytest.raises(ArgumentError, match=r"move: expected 'pcn'"):
        student.tilt(reward=plain).sample(64, method="smc", move="mala")


def test_classes_are_tilted_one_at_a_time():
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 2
    data = (rng.normal(size=(600, 2)) * 0.4 + np.where(labels[:, None] == 0, -2.0, 2.0)).astype(np.float32)
    teacher = FlowTeacher((2,), num_classes=2, width=16, depth=1, steps=400, batch_size=64)
    teacher.fit(data, condition=labels, progress=False)
    student = KoopmanDistiller(observables=8, width=16, steps=100, trajectories=256)
    student.fit(teacher, progress=False)
    grid = Quadrature(student, condition=1)
    found = student.tilt(reward=lambda x: x[:, 0], condition=1).sample(4096, method="importance")
    evidence, _ = grid.tilted(grid.x[:, 0])
    assert abs(found.log_evidence - evidence) < 5 * found.log_evidence_error
    for wrong in (None, [0, 1]):
        with pytest.raises(ArgumentError, match="condition"):
            student.tilt(reward=lambda x: x[:, 0], condition=wrong)


def test_samples_come_with_their_densities(student):
    x, log_prob = student.sample(64, log_prob=True, seed=5)
    np.testing.assert_allclose(x, student.sample(64, seed=5), atol=1e-5)
    noise = _core.normal((64, 2), 5)
    module = student.to_torch().double()
    given = torch.from_numpy(noise.astype(np.float64))
    jacobians = torch.func.vmap(torch.func.jacrev(lambda z: module(z[None])[0]))(given)
    exact = -0.5 * (given**2).sum(dim=1) - np.log(2 * np.pi) - torch.linalg.slogdet(jacobians)[1]
    np.testing.assert_allclose(log_prob, exact.detach().numpy(), atol=1e-4)
    covectors = np.random.default_rng(0).normal(size=(64, 3, 2)).astype(np.float32)
    pulled = student._student.pull_back(noise, covectors)
    expected = torch.einsum("bki,bij->bkj", torch.from_numpy(covectors).double(), jacobians)
    np.testing.assert_allclose(pulled, expected.detach().numpy(), atol=1e-4)
    with pytest.raises(ArgumentError, match="modes"):
        student.sample(4, log_prob=True, modes=[0])
    with pytest.raises(ArgumentError, match="steps"):
        student.sample(4, log_prob=True, steps=2)


def test_a_teachers_map_has_the_derivative_of_its_closed_form(gaussian):
    # x = mean + z C^{1/2} for the linear path, whose derivative is the same everywhere.
    values, vectors = np.linalg.eigh(np.array([[2.0, 0.5], [0.5, 1.0]]))
    root = (vectors * np.sqrt(values)) @ vectors.T
    rng = np.random.default_rng(0)
    x0, covectors = rng.normal(size=(5, 2)), rng.normal(size=(5, 3, 2))
    x = gaussian.sample(x0=x0)
    pulled = gaussian.field.pull_back(x, covectors, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(pulled, covectors @ root, atol=1e-4)
    with pytest.raises(ShapeError, match="covectors"):
        gaussian.field.pull_back(x, covectors[:4])


def test_answers_depend_on_the_seed_alone(student):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.rand(3), np.random.rand(3)  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    tilted = student.tilt(reward=curved)
    for method in METHODS:
        one, two = (tilted.sample(256, method=method, seed=7, burn_in=10) for _ in range(2))
        np.testing.assert_array_equal(one.x, two.x)
        np.testing.assert_array_equal(one.log_weights, two.log_weights)
        assert not np.array_equal(one.x, tilted.sample(256, method=method, seed=8, burn_in=10).x)
    assert torch.equal(torch.rand(3), before[0])
    np.testing.assert_array_equal(np.random.rand(3), before[1])  # noqa: NPY002


def test_a_tilt_can_be_distilled_again(gaussian):
    found = gaussian.tilt(reward=lambda x: 2.0 * x[:, 1]).sample(4096, method="importance")
    teacher = FlowTeacher((2,), width=32, depth=2, steps=1500, batch_size=128)
    teacher.fit(found.x, weights=found.weights, progress=False)
    # exp(2 y) moves the mean of a Gaussian by twice its covariance's column.
    np.testing.assert_allclose(teacher.sample(4096).mean(axis=0), [2.0, 0.0], atol=0.25)


def test_targets_of_the_package_can_be_asked_for(student):
    target = energies.gmm40()
    found = student.tilt(energy=target).sample(512, method="importance", reference=target.sample(256))
    # A student of one Gaussian misses nearly all of 40 modes, and the two evidences say so.
    assert not found.reliable
    assert json.dumps(found.verdict)


KINDS = {
    "raw inputs": {"architecture": {"inputs": "raw"}},
    "moving frame": {"architecture": {"frame": "moving"}},
    "dense": {"generator": "dense"},
    "fourier": {"basis": "fourier"},
    "polynomial": {"basis": "polynomial", "observables": None, "architecture": {"degree": 3}},
    "double": {"dtype": "float64"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("converted", [False, True])
def test_densities_of_samples_are_those_of_automatic_derivatives(gaussian, kind, converted):
    student = KoopmanDistiller(
        **{"observables": 8, "width": 16, "steps": 30, "trajectories": 256, **KINDS[kind]}
    )
    student.fit(gaussian, progress=False)
    if converted:
        dense = student.config_["generator"] == "dense"
        student = student.to_spectral() if dense else student.to_dense()
    # Fewer samples than dimensions, and more.
    for count in (1, 9):
        noise = _core.normal((count, 2), 1).astype(student.config_["dtype"])
        _, log_prob, log_determinant, errors = student._student.sample_with_density(noise)
        given = torch.from_numpy(noise.astype(np.float64))
        module = student.to_torch().double()
        whole = torch.autograd.functional.jacobian(lambda z, own=module: own(z).sum(dim=0), given)
        jacobians = whole.transpose(0, 1)
        exact = torch.linalg.slogdet(jacobians)[1].detach().numpy()
        np.testing.assert_allclose(log_determinant, exact, atol=2e-4)
        log_noise = -0.5 * (noise.astype(np.float64) ** 2).sum(axis=1) - np.log(2 * np.pi)
        np.testing.assert_allclose(log_prob, log_noise - exact, atol=2e-4)
        assert not errors.any()
