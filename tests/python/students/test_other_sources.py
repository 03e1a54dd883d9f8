"""Students of flows from other laws than noise, and on other clocks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from koopflow import FlowTeacher, KoopmanDistiller, baselines, compare, metrics
from koopflow.exceptions import ArgumentError

START = multivariate_normal([3.0, -1.0], [[0.5, 0.2], [0.2, 0.3]])
ROWS = START.rvs(2000, random_state=0).astype(np.float32)
TURN = torch.tensor([[0.0, 0.9], [-0.9, 0.3]])


def turned(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """dx/dt of a linear flow between the times 2 and 4: its map is exp(2 TURN)."""
    return x @ TURN.to(x.dtype)


MAP = torch.linalg.matrix_exp(2.0 * TURN).numpy()
SMALL = {"observables": 16, "width": 32, "depth": 2, "steps": 300, "trajectories": 1024}


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """RMS distance over the total deviation."""
    distance = np.sqrt(np.mean(np.sum((found - exact) ** 2, axis=-1)))
    return float(distance / np.sqrt(np.sum(exact.reshape(-1, 2).var(axis=0))))


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    return FlowTeacher.from_torch(turned, (2,), source=ROWS, horizon=(2.0, 4.0))


@pytest.fixture(scope="module")
def student(teacher) -> KoopmanDistiller:
    return KoopmanDistiller(**SMALL).fit(teacher, progress=False)


def test_samples_are_the_maps(student):
    fresh = START.rvs(500, random_state=1).astype(np.float32)
    assert relative(student.sample(x0=fresh), fresh @ MAP) < 0.1
    assert relative(student.invert(fresh @ MAP), fresh) < 0.1


def test_fresh_samples_start_from_the_source(student, teacher):
    begun = student.sample_path(200, times=[2.0, 4.0], seed=4)
    np.testing.assert_array_equal(begun[1], student.sample(200, seed=4))
    expected = teacher.trajectory(n=200, times=[2.0, 4.0], seed=4)
    assert relative(begun[1], expected[1]) < 0.1
    assert np.abs(expected[0][:, None] - ROWS).max(axis=2).min(axis=1).max() == 0.0


def test_paths_are_on_the_teachers_clock(student, teacher):
    x0 = ROWS[:50]
    middle = student.sample_path(x0, times=[3.0])[0]
    assert relative(middle, x0 @ torch.linalg.matrix_exp(TURN).numpy()) < 0.1
    g = student.encode(3.0, middle)
    np.testing.assert_allclose(g[:, 1], 0.5, atol=1e-6)
    rate = student.encode_with_tangent(3.0, middle, teacher.velocity(3.0, middle))[1]
    # The state's own rate is the velocity, over the whole flow as the unit of time.
    np.testing.assert_allclose(rate[:, 2:4], 2.0 * teacher.velocity(3.0, middle), rtol=1e-5)
    with pytest.raises(ArgumentError, match=r"expected times in \[2, 4\], got 1"):
        student.encode(1.0, middle)


def test_reports_and_metrics_know_the_clock(student, teacher):
    report = student.evaluate(teacher, n=400)
    assert report.endpoint_error < 0.1
    assert report.path_error < 0.1
    noise = teacher.field.source.draw(400, 5)
    assert metrics.path_error(student, teacher, noise).value < 0.1
    assert metrics.straightness(teacher, noise).value > 0.01
    solver = baselines.OdeSolver(solver="midpoint", steps=8).fit(teacher)
    assert metrics.path_error(solver, teacher, noise).value < 0.1
    assert np.abs(solver.sample(5)).max() > 0.0


def test_files_and_copies_keep_source_and_clock(student, tmp_path):
    student.save(tmp_path / "student.safetensors")
    loaded = KoopmanDistiller.load(tmp_path / "student.safetensors")
    for other in (loaded, copy.deepcopy(student), student.to_dense(), student.use_weights("ema")):
        assert (other.clock.start, other.clock.end) == (2.0, 4.0)
        np.testing.assert_allclose(other.sample(5, seed=2), student.sample(5, seed=2), atol=1e-4)
    module = student.to_torch()
    path = module.path(torch.as_tensor(ROWS[:3]), [2.0, 3.0, 4.0]).detach()
    np.testing.assert_allclose(path, student.sample_path(ROWS[:3], times=[2.0, 3.0, 4.0]), atol=1e-5)
    again = KoopmanDistiller.from_torch_module(module)
    np.testing.assert_allclose(again.sample(4), student.sample(4), atol=1e-5)


def test_checkpoints_go_on_from_the_same_source(teacher, tmp_path):
    path = tmp_path / "run.safetensors"
    options = {**SMALL, "steps": 40}
    whole = KoopmanDistiller(**options).fit(teacher, progress=False)
    KoopmanDistiller(**{**options, "steps": 40}).fit(
        teacher, progress=False, checkpoint=path, checkpoint_every=10
    )
    resumed = KoopmanDistiller(**options).fit(teacher, progress=False, resume=path)
    np.testing.assert_allclose(resumed.sample(5), whole.sample(5), atol=1e-5)
    assert resumed._fitted().source.kind == "rows"


def test_densities_need_a_density(student):
    with pytest.raises(ArgumentError, match="source: expected one whose density is known"):
        student.log_prob(ROWS[:2])
    flow = FlowTeacher.from_torch(turned, (2,), source=FlowTeacher.gaussian(START.mean, START.cov))
    other = KoopmanDistiller(**SMALL).fit(flow, progress=False)
    whole = torch.linalg.matrix_exp(TURN).numpy()
    x = ROWS[:100] @ whole
    exact = START.logpdf(ROWS[:100]) - np.log(np.linalg.det(whole))
    np.testing.assert_allclose(other.log_prob(x), exact, atol=0.25)
    samples, densities = other.sample(50, log_prob=True)
    back = samples @ np.linalg.inv(whole)
    np.testing.assert_allclose(densities, START.logpdf(back) - np.log(np.linalg.det(whole)), atol=0.25)


def test_what_weighs_noise_says_so(student):
    with pytest.raises(ArgumentError, match="source: expected 'normal'"):
        student.tilt(reward=lambda x: x.sum(dim=1)).sample(10)
    between = student.interpolate(ROWS[:2] @ MAP, ROWS[2:4] @ MAP, weights=[0.5])
    middle = 0.5 * (ROWS[:2] + ROWS[2:4]) @ MAP
    np.testing.assert_allclose(between[0], middle, atol=0.2)


def test_spectra_start_from_the_source(student, teacher):
    spectrum = student.spectrum(teacher)
    assert np.isfinite(spectrum.energy).all()
    flow = student.edit(x0=ROWS[:3], modes=0, scale=1.0)
    np.testing.assert_allclose(flow, student.sample(x0=ROWS[:3]), atol=1e-3)


@pytest.mark.slow
def test_comparisons_start_from_the_source(teacher):
    methods = ["koopflow", "Euler, 20 steps", "plain network"]
    found = compare(teacher, ROWS @ MAP, methods=methods, n=200, steps=200, trajectories=512, progress=False)
    errors = {row["method"]: row for row in found.rows}
    assert set(methods) < set(errors)
    # Noise instead of rows, or another clock, would be far off.
    assert errors["koopflow"]["endpoint_error"] < 0.3
    assert errors["Euler, 20 steps"]["path_error"] < 0.3


def test_baselines_are_on_the_teachers_clock(teacher, tmp_path):
    x0 = ROWS[:20]
    exact = teacher.trajectory(x0, times=[2.0, 3.0, 4.0])
    solver = baselines.OdeSolver(solver="rk4", steps=40).fit(teacher)
    np.testing.assert_allclose(solver.sample_path(x0, times=[2.0, 3.0, 4.0]), exact, atol=1e-3)
    small = baselines.MeanVelocity(width=8, depth=1, steps=5, trajectories=64)
    small.fit(teacher, progress=False).save(tmp_path / "model.safetensors")
    loaded = baselines.load(tmp_path / "model.safetensors")
    assert (loaded.clock.start, loaded.clock.end) == (2.0, 4.0)
    with pytest.raises(ArgumentError, match=r"times: expected times in \[2, 4\], got 1"):
        loaded.sample_path(x0, times=[1.0])


def test_edits_are_on_the_teachers_clock(student):
    x0 = ROWS[:5]
    late, middle = (student.edit(x0=x0, scale=0.5, at=at, project=True) for at in (4.0, 3.0))
    plain = student.edit(x0=x0, modes=0, shift=0.5)
    np.testing.assert_array_equal(plain, student.edit(x0=x0, modes=0, shift=0.5, at=2.0))
    assert np.abs(late - middle).max() > 1e-4
    with pytest.raises(ArgumentError, match=r"at: expected times in \[2, 4\], got 0"):
        student.edit(x0=x0, modes=0, shift=0.5, at=0.0)


def test_trained_baselines_ask_for_the_source(teacher):
    plain = baselines.PlainNetwork(width=16, depth=1, steps=20, trajectories=128).fit(teacher, progress=False)
    with pytest.raises(ArgumentError, match="x0: expected samples of the teacher's source, 'rows'"):
        plain.sample(3)
    assert plain.sample(x0=ROWS[:3]).shape == (3, 2)


def test_trajectory_files_tell_sources_apart(teacher, tmp_path):
    from koopflow.exceptions import CheckpointError

    file = tmp_path / "trajectories.safetensors"
    options = {**SMALL, "steps": 2, "trajectories": 64}
    KoopmanDistiller(**options).fit(teacher, progress=False, trajectory_file=file)
    other = teacher.starting_from(ROWS + 1.0)
    with pytest.raises(CheckpointError, match="another teacher"):
        KoopmanDistiller(**options).fit(other, progress=False, trajectory_file=file)
