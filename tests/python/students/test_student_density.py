"""Densities of students: against closed forms, and against finite differences of their own samples."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from koopflow import FlowTeacher, KoopmanDistiller, StudentDensity, Training
from koopflow.exceptions import ArgumentError, NotFittedError, ShapeError

from ..conftest import COV, MEAN

NOISE = np.random.default_rng(5).normal(size=(40, 2)).astype(np.float32)


def small(teacher, **options):
    """A student in float64, fitted a little: a smooth map that is not the teacher's."""
    defaults = {
        "observables": 8,
        "width": 16,
        "depth": 1,
        "steps": 60,
        "trajectories": 128,
        "trajectories__path_steps": 8,
    }
    student = KoopmanDistiller(dtype="float64", seed=1).set_params(**{**defaults, **options})
    return student.fit(teacher, progress=False)


def differences(student, z, condition=None, h=1e-5):
    """log N(z; 0, I) - log |det dS/dz| from central differences of samples."""
    flat = z.reshape(len(z), -1)
    columns = []
    for axis in np.eye(flat.shape[1]):
        ends = [
            student.sample(x0=(flat + sign * h * axis).reshape(z.shape), condition=condition)
            for sign in (1, -1)
        ]
        columns.append((ends[0] - ends[1]).reshape(len(z), -1) / (2 * h))
    log_noise = multivariate_normal(np.zeros(flat.shape[1])).logpdf(flat)
    return log_noise - np.linalg.slogdet(np.stack(columns, axis=-1))[1]


def test_a_student_of_a_gaussian_has_its_density(student):
    x = np.random.default_rng(6).multivariate_normal(MEAN, COV, 500).astype(np.float32)
    exact = multivariate_normal(MEAN, COV).logpdf(x)
    found = student.log_prob(x)
    assert found.shape == (500,)
    assert found.dtype == np.float32
    assert np.abs(found - exact).mean() < 0.15
    assert np.corrcoef(found, exact)[0, 1] > 0.98


@pytest.mark.slow
def test_an_exact_student_of_a_gaussian_has_exactly_its_density():
    # Commuting covariances: a map that a linear readout of affine observables can express.
    teacher = FlowTeacher.gaussian([1.0, -1.0], np.diag([4.0, 0.25]), dtype="float64")
    student = KoopmanDistiller(
        observables=16,
        training=Training(method="refine"),
        width=32,
        depth=2,
        steps=600,
        trajectories=2048,
        dtype="float64",
        seed=0,
    ).fit(teacher, progress=False)
    x = teacher.sample(300, seed=3)
    exact = multivariate_normal([1.0, -1.0], np.diag([4.0, 0.25])).logpdf(x)
    assert np.abs(student.log_prob(x) - exact).mean() < 0.1


def test_density_has_mass_one(student):
    side = np.linspace(-7.0, 7.0, 61)
    offsets = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    with warnings.catch_warnings():
        # Far out, where the student was never trained, nothing may lead to a point of the grid.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = student.density((MEAN + offsets).astype(np.float32))
    reached = found.residuals < 1e-3
    mass = np.exp(found.log_prob[reached].astype(np.float64)).sum() * (side[1] - side[0]) ** 2
    assert abs(mass - 1.0) < 0.03


KINDS = {
    "spectral": {},
    "dense": {"generator": "dense"},
    "one lift": {"architecture__lifts": 1},
    "linear decoder": {"architecture__decoder": "linear"},
    "network decoder": {"architecture__decoder": "network"},
    "fourier": {"basis": "fourier"},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_determinants_are_those_of_finite_differences(gaussian, options):
    student = small(gaussian, **options)
    x = student.sample(x0=NOISE.astype(np.float64))
    found = student.density(x, polish=30)
    assert isinstance(found, StudentDensity)
    assert found.residuals.max() < 1e-6
    np.testing.assert_allclose(student.sample(x0=found.noise), x, atol=1e-6)
    np.testing.assert_allclose(found.log_prob, differences(student, found.noise), atol=1e-5)
    log_noise = multivariate_normal(np.zeros(2)).logpdf(found.noise)
    np.testing.assert_allclose(found.log_prob, log_noise - found.log_determinant, atol=1e-12)
    assert not found.standard_errors.any()
    np.testing.assert_allclose(found.bits_per_dim, -found.log_prob / (2 * np.log(2)), rtol=1e-12)


@pytest.mark.parametrize("basis", ["unet", "hierarchy"])
def test_images(basis):
    teacher = FlowTeacher.gaussian(np.zeros((1, 4, 4)), 0.5 * np.eye(16))
    unet = {"channels": 4, "multipliers": [1, 2], "blocks": 1, "groups": 2}
    student = small(teacher, basis=basis, unet=unet, observables=None, steps=20)
    x0 = np.random.default_rng(2).normal(size=(5, 1, 4, 4))
    x = student.sample(x0=x0)
    with warnings.catch_warnings():
        # Twenty steps leave no inverse to speak of. What is measured is the density where it ends.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = student.density(x, polish=5)
    assert found.noise.shape == x.shape
    np.testing.assert_allclose(found.log_prob, differences(student, found.noise), atol=1e-4)


def test_conditional_students_have_a_density_for_each_class():
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    data = (random.normal(size=(200, 2)) * 0.5 + 3.0 * labels[:, None]).astype(np.float32)
    teacher = FlowTeacher((2,), num_classes=2, width=16, depth=1, steps=200)
    teacher.fit(data, condition=labels, progress=False)
    student = small(teacher, steps=300, trajectories=512)
    z, classes = NOISE.astype(np.float64), np.arange(40) % 2
    x = student.sample(x0=z, condition=classes)
    found = student.density(x, condition=classes, polish=30)
    assert np.median(found.residuals) < 1e-6
    np.testing.assert_allclose(found.log_prob, differences(student, found.noise, classes), atol=1e-4)
    with pytest.raises(ArgumentError, match="condition"):
        student.log_prob(x)


def test_estimates_agree_with_exact_determinants():
    root = np.random.default_rng(3).normal(size=(12, 12)) / 4
    teacher = FlowTeacher.gaussian(np.zeros(12), root @ root.T + 0.3 * np.eye(12))
    student = small(teacher, observables=24, steps=200)
    x = student.sample(x0=np.random.default_rng(4).normal(size=(30, 12)))
    exact = student.density(x, determinant="exact")
    # With as many products as dimensions only the probes are random.
    found = student.density(x, determinant="lanczos", products=12, probes=64)
    errors = (found.log_determinant - exact.log_determinant) / found.standard_errors
    assert abs(errors.mean()) < 1.0
    assert np.abs(errors).max() < 4.5
    assert 0.7 < errors.std() < 1.4
    np.testing.assert_array_equal(found.noise, exact.noise)
    # Too few overestimate the determinant, on the same probes.
    few = student.density(x, determinant="lanczos", products=3, probes=64)
    assert (few.log_determinant > found.log_determinant).all()
    again = student.density(x, determinant="lanczos", products=12, probes=64)
    np.testing.assert_array_equal(found.log_prob, again.log_prob)
    other = student.density(x, determinant="lanczos", products=12, probes=64, seed=1)
    assert not np.array_equal(found.log_prob, other.log_prob)


def test_an_inverse_that_misses_is_told(student):
    far = (MEAN + 40.0 * NOISE[:3]).astype(np.float32)
    with pytest.warns(RuntimeWarning, match=r"inverse of \d of 3 samples misses"):
        found = student.density(far, polish=0)
    assert found.residuals.max() > 0.01 * found.spread
    assert found.spread == pytest.approx(np.sqrt(np.trace(COV)), rel=0.1)
    distance = np.linalg.norm(student.sample(x0=found.noise) - far, axis=1)
    np.testing.assert_allclose(found.residuals, distance, rtol=1e-3)
    # However long it is tried.
    for method in ("newton", "fixed_point"):
        noise, residuals = student.invert(far, polish=150, method=method, residuals=True)
        assert np.isfinite(noise).all()
        assert (residuals <= found.residuals).all()


def test_torch_comes_back_as_torch_and_the_generator_is_left_alone(student):
    x = torch.from_numpy(student.sample(x0=NOISE))
    state = torch.get_rng_state()
    found = student.log_prob(x)
    assert isinstance(found, torch.Tensor)
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_allclose(found, student.log_prob(x.numpy()))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"determinant": "magic"}, "determinant"),
        ({"probes": 1}, "probes"),
        ({"products": 0}, "products"),
        ({"polish": -1}, "polish"),
    ],
)
def test_options_out_of_range_are_named(student, options, name):
    with pytest.raises(ArgumentError, match=name):
        student.log_prob(NOISE, **options)


def test_what_cannot_be_is_refused(gaussian, student):
    with pytest.raises(NotFittedError):
        KoopmanDistiller().log_prob(NOISE)
    with pytest.raises(ShapeError, match="x: "):
        student.log_prob(NOISE[:, :1])
    decoding = small(gaussian, architecture__decoder="network", steps=5)
    x = decoding.sample(x0=NOISE.astype(np.float64))
    with pytest.raises(ArgumentError, match="determinant: expected 'exact' for a student with a decoder"):
        decoding.log_prob(x, determinant="lanczos")
