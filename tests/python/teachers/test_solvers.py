"""Multistep solvers and grids from Python, and what a teacher expects of the pair behind a state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, baselines
from koopflow.analysis import flow_spectrum
from koopflow.exceptions import ArgumentError

MULTISTEP = ("ab2", "ab3", "dpm2m")
COV = np.array([[2.0, 0.5], [0.5, 1.0]])


@pytest.fixture(scope="module")
def exact():
    return FlowTeacher.gaussian([1.0, -2.0], COV, dtype="float64")


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(size=(50, 2))


@pytest.mark.parametrize("solver", MULTISTEP)
def test_multistep_solvers_take_one_evaluation_a_step_and_come_near(exact, noise, solver):
    before = exact.evaluations
    ends = exact.sample(x0=noise, solver=solver, steps=40)
    assert exact.evaluations - before == 40
    # The flow of a Gaussian is affine: mean + x0 C^(1/2).
    values, vectors = np.linalg.eigh(COV)
    wanted = [1.0, -2.0] + noise @ (vectors * np.sqrt(values)) @ vectors.T
    np.testing.assert_allclose(ends, wanted, atol=0.02)
    back = exact.trajectory(ends, times=[1.0, 0.4, 0.0], solver=solver, steps=40)
    np.testing.assert_allclose(back[-1], noise, atol=0.05)


def adams_bashforth_3(field, x, times):
    """In the textbook's form for equal steps, after a trapezium by Euler's guess and one step of order 2."""
    slopes, h = [], times[1] - times[0]
    for t in times[:-1]:
        slopes.append(field(t, x))
        if len(slopes) == 2:
            x = x + h / 2 * (slopes[1] - slopes[0])
        weights = [[1.0], [1.5, -0.5], [23 / 12, -16 / 12, 5 / 12]][min(len(slopes), 3) - 1]
        x = x + h * sum(w * slope for w, slope in zip(weights, reversed(slopes), strict=False))
    return x


def test_ab3_with_equal_steps_is_that_of_textbooks(exact, noise):
    wanted = adams_bashforth_3(exact.velocity, noise, np.linspace(0, 1, 9))
    found = exact.sample(x0=noise, solver="ab3", steps=8, grid="tau")
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_dpm2m_is_that_of_the_paper(exact, noise):
    """Algorithm 2 of arXiv 2211.01095 on the linear path, between times where lambda is finite."""
    times = np.linspace(0.1, 0.9, 21)
    lam, x, before = np.log(times / (1 - times)), noise, None
    for i in range(1, len(times)):
        h = lam[i] - lam[i - 1]
        data = exact.denoise(times[i - 1], x)
        line = data
        if before is not None:
            r = (lam[i - 1] - lam[i - 2]) / h
            line = (1 + 1 / (2 * r)) * data - before / (2 * r)
        x = (1 - times[i]) / (1 - times[i - 1]) * x - times[i] * np.expm1(-h) * line
        before = data
    found = exact.trajectory(noise, times=[0.1, 0.9], solver="dpm2m", grid=times)
    np.testing.assert_allclose(found[-1], x, atol=1e-12)


def mixture(z, log_snr):
    """E[x1|z] of eight narrow Gaussians on a circle, for alpha^2 = sigmoid(log_snr)."""
    angles = torch.arange(8, dtype=z.dtype) * (np.pi / 4)
    centres = torch.stack([angles.cos(), angles.sin()], 1)
    alpha, sigma = torch.sigmoid(log_snr).sqrt()[:, None], torch.sigmoid(-log_snr).sqrt()[:, None]
    variance = (alpha * 0.1) ** 2 + sigma**2
    squares = (z[:, None] - alpha[..., None] * centres).square().sum(-1)
    mean = (-squares / (2 * variance)).softmax(1) @ centres
    return mean + alpha * 0.01 / variance * (z - alpha * mean)


def test_multistep_solvers_of_few_steps_are_never_worse_than_euler(noise):
    options = {"parametrisation": "x0", "schedule": "vp", "noise_argument": "log_snr", "dtype": "float64"}
    teacher = FlowTeacher.from_diffusion(mixture, (2,), **options)
    ends = teacher.sample(x0=noise, rtol=1e-8, atol=1e-8)

    def error(**how):
        return np.sqrt(np.mean(np.square(teacher.sample(x0=noise, **how) - ends)))

    for steps in (4, 5, 6):
        euler = min(error(solver="euler", steps=steps, grid=grid) for grid in ("uniform", "tau", "log_snr"))
        for solver in ("ab2", "ab3"):
            assert error(solver=solver, steps=steps) <= euler
    # Half of the evaluations of Heun's method, and fewer than Euler's, by default.
    third = error(solver="ab3", steps=12)
    assert third <= error(solver="heun", steps=12)
    assert third <= error(solver="euler", steps=32)


def test_grids_reach_every_place_that_takes_a_solver(exact, noise):
    how = {"solver": "ab3", "steps": 60, "grid": "tau"}
    np.testing.assert_allclose(
        exact.log_prob(noise, **how), exact.log_prob(noise, rtol=1e-9, atol=1e-9), atol=2e-2
    )
    tilted = exact.tilt(reward=lambda x: x[:, 0], **how)
    assert tilted.sample(8, progress=False) is not None
    spectrum = flow_spectrum(exact, n=64, solver="ab3", steps=128, grid=np.linspace(0, 1, 129))
    assert spectrum.affine > 0.999


@pytest.mark.parametrize("grid", [None, "tau", "log_snr", [0.0, 0.3, 0.7, 1.0]])
def test_the_path_of_a_solver_ends_where_it_samples(grid):
    teacher = FlowTeacher.gaussian([300.0, 0.0], [[1e4, 0.0], [0.0, 1e4]], dtype="float64")
    x0 = np.random.default_rng(1).normal(size=(5, 2))
    solver = baselines.OdeSolver(solver="ab2", steps=3, grid=grid).fit(teacher)
    path = solver.sample_path(x0, times=[0.0, 0.5, 1.0])
    np.testing.assert_allclose(path[-1], solver.sample(x0=x0), rtol=1e-9)


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ({"solver": "ab4"}, "solver"),
        ({"solver": "euler", "grid": "karras"}, "grid"),
        ({"solver": "euler", "grid": [0.0, 1.0, 0.5]}, "grid"),
        ({"solver": "euler", "grid": [0.2, 1.0]}, "grid"),
        ({"solver": "euler", "grid": 3}, "grid"),
        ({"grid": "tau"}, "grid"),
    ],
)
def test_bad_solvers_and_grids_are_named(exact, how, name):
    with pytest.raises(ArgumentError, match=f"^{name}:"):
        exact.sample(2, **how)


def test_grids_that_need_a_path_are_refused_outside_of_it(exact, noise):
    with pytest.raises(ArgumentError, match="^grid:"):
        exact.trajectory(noise, times=[0.0, 1.2], solver="euler", grid="tau", extrapolate=True)
    with pytest.raises(ArgumentError, match="^solver:"):
        exact.trajectory(noise, times=[0.0, 1.2], solver="dpm2m", extrapolate=True)
    with pytest.raises(ArgumentError, match="^solver:"):
        exact.log_prob(noise, solver="dpm2m")


def test_a_teacher_expects_what_a_gaussian_does(exact, noise):
    t = np.linspace(0, 1, len(noise))[:, None]
    spread = t[..., None] ** 2 * COV + (1 - t[..., None]) ** 2 * np.eye(2)
    white = np.linalg.solve(spread, (noise - t * [1.0, -2.0])[..., None])[..., 0]
    np.testing.assert_allclose(exact.denoise(t[:, 0], noise), [1.0, -2.0] + t * (white @ COV), atol=1e-10)
    found = exact.denoise(t[:, 0], noise, of="noise")
    np.testing.assert_allclose(found, (1 - t) * white, atol=1e-10)
    assert isinstance(exact.denoise(0.5, torch.zeros(2, 2)), torch.Tensor)
    np.testing.assert_array_equal(exact.denoise(1.0, noise), noise)
    np.testing.assert_array_equal(exact.denoise(0.0, noise, of="noise"), noise)


def test_a_diffusion_model_expects_what_it_predicts(noise):
    options = {"parametrisation": "x0", "schedule": "vp", "noise_argument": "log_snr", "dtype": "float64"}
    teacher = FlowTeacher.from_diffusion(mixture, (2,), **options)
    for t in (0.0, 0.3, 1.0):
        r = min(max(1 - t, 1e-3), 1 - 1e-3)
        integral = 0.1 * r + 9.95 * r**2
        log_snr = -integral - np.log(-np.expm1(-integral))
        wanted = mixture(torch.as_tensor(noise), torch.full((len(noise),), log_snr, dtype=torch.float64))
        np.testing.assert_allclose(teacher.denoise(t, noise), wanted, atol=1e-9)


def test_bad_questions_are_named(exact, noise):
    with pytest.raises(ArgumentError, match="^of:"):
        exact.denoise(0.5, noise, of="velocity")
    with pytest.raises(ArgumentError, match="^t:"):
        exact.denoise(1.5, noise)
