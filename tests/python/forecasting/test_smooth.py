"""Filtering and smoothing against dense conditioning of one joint Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import KoopmanForecaster
from koopflow.exceptions import ArgumentError, NonFiniteError, ShapeError

from .reference import STEP, bent, conditioned, driven, fitted, flow, joint, noisy, turning

TRUTH, TIMES = turning()
NOISY, _ = noisy(0.1)
BENT = bent()
# Two paths, some values of which were not seen.
SEEN = bent(2, 9, seed=3)
SEEN[0, 2] = SEEN[0, 5, 1] = SEEN[1, 0, 0] = np.nan


@pytest.fixture(scope="module")
def curve() -> KoopmanForecaster:
    options = {
        "basis": "polynomial",
        "degree": 2,
        "ridge": 1e-8,
        "held_out": 0.0,
        "margin": None,
        "noise": 0.1,
    }
    return fitted(BENT, **options)


@pytest.fixture(scope="module")
def line() -> KoopmanForecaster:
    """A linear model of noisy paths, one step of which has a good deal to add."""
    return fitted(NOISY, TIMES, held_out=0.0, noise=0.05)


def standard(data, x):
    flat = data.reshape(-1, data.shape[-1])
    return (x - flat.mean(axis=0)) / flat.std(axis=0)


def begins(model, data):
    """Mean and covariance of the observables that the data's pairs begin with."""
    g = model.encode(data[:, :-1].reshape(-1, data.shape[-1]))
    return g.mean(axis=0), np.cov(g.T, bias=True)


def observables(model, data, count):
    added = model.covariance_matrix()
    return joint(*begins(model, data), model.transition_matrix(), added, count)


def states(model, noise, count):
    """The same of a linear model's state: noise of both observations is no part of what a step adds."""
    residual = model.covariance_matrix()[1:, 1:]
    values, vectors = np.linalg.eigh(residual - noise**2 * np.eye(2))
    added = (vectors * values.clip((0.1 * noise) ** 2)) @ vectors.T
    drift = np.concatenate([[1.0], np.zeros(2)])
    # 1 and z together, so that the step has a constant.
    whole, extra, spread = np.eye(3), np.zeros((3, 3)), np.zeros((3, 3))
    whole[:, 1:], extra[1:, 1:], spread[1:, 1:] = model.transition_matrix()[:, 1:], added, np.eye(2)
    return joint(drift, spread, whole, extra, count)


READOUT = np.eye(3)[:, 1:]


@pytest.mark.parametrize("filter_only", [False, True])
def test_over_observables_it_is_the_exact_posterior(curve, filter_only):
    found = curve.smooth(SEEN, noise=0.2, re_encode="never", filter_only=filter_only)
    scale = BENT.reshape(-1, 2).std(axis=0)
    centre = BENT.reshape(-1, 2).mean(axis=0)
    mean, covariance = observables(curve, BENT, 9)
    readout = curve.readout_matrix() / scale
    for path in range(2):
        rows = standard(BENT, SEEN[path])
        for last in range(9) if filter_only else [8]:
            known = np.where(np.arange(9)[:, None] <= last, rows, np.nan)
            if not np.isfinite(known).any():
                continue
            expected, deviation, likelihood = conditioned(mean, covariance, readout, known, 0.2)
            place = slice(last, last + 1) if filter_only else slice(None)
            np.testing.assert_allclose(found.mean[place, path], centre + scale * expected[place], atol=1e-6)
            np.testing.assert_allclose(found.std[place, path], scale * deviation[place], atol=1e-6)
        assert found.log_likelihood[path] == pytest.approx(likelihood, abs=1e-6)


@pytest.mark.parametrize("re_encode", ["auto", 1])
def test_over_a_linear_model_s_state_it_is_the_exact_posterior(line, re_encode):
    noise = 0.05
    found = line.smooth(NOISY[:2, :12], TIMES[:12], re_encode=re_encode)
    assert found.noise == noise
    scale, centre = NOISY.reshape(-1, 2).std(axis=0), NOISY.reshape(-1, 2).mean(axis=0)
    mean, covariance = states(line, noise, 12)
    for path in range(2):
        expected, deviation, likelihood = conditioned(
            mean, covariance, READOUT, standard(NOISY, NOISY[path, :12]), noise
        )
        np.testing.assert_allclose(found.mean[:, path], centre + scale * expected, atol=1e-6)
        np.testing.assert_allclose(found.std[:, path], scale * deviation, atol=1e-6)
        assert found.log_likelihood[path] == pytest.approx(likelihood, abs=1e-5)


def test_times_before_between_and_after_what_was_seen(curve):
    """Rows 2, 3 and 6 of nine were seen, and all nine are asked for, in any order."""
    places = np.array([2, 3, 6])
    rows = bent(1, 9, seed=5)[:, places]
    order = np.random.default_rng(0).permutation(9)
    found = curve.smooth(rows, 10.0 + places, at=10.0 + order, noise=0.2, re_encode="never")
    np.testing.assert_array_equal(found.times, 10.0 + order)
    everything = np.full((9, 2), np.nan)
    everything[places] = standard(BENT, rows[0])
    scale, centre = BENT.reshape(-1, 2).std(axis=0), BENT.reshape(-1, 2).mean(axis=0)
    mean, covariance = observables(curve, BENT, 9)
    expected, deviation, likelihood = conditioned(
        mean, covariance, curve.readout_matrix() / scale, everything, 0.2
    )
    np.testing.assert_allclose(found.mean[:, 0], (centre + scale * expected)[order], atol=1e-6)
    np.testing.assert_allclose(found.std[:, 0], (scale * deviation)[order], atol=1e-6)
    assert found.log_likelihood[0] == pytest.approx(likelihood, abs=1e-6)


def test_a_linear_model_answers_between_steps():
    model = fitted(TRUTH, TIMES)
    at = np.array([0.05, 0.32])
    found = model.smooth(TRUTH[:2, :6], TIMES[:6], at=at, re_encode="never", noise=1e-3)
    np.testing.assert_allclose(found.mean, flow(TRUTH[:2, 0], at).swapaxes(0, 1), atol=5e-3)


def test_observables_answer_between_steps():
    model = fitted(TRUTH, TIMES, basis="polynomial", degree=2, margin=None)
    at = np.array([0.05, 0.32])
    found = model.smooth(TRUTH[:2, :6], TIMES[:6], at=at, re_encode="never", noise=1e-3)
    np.testing.assert_allclose(found.mean, flow(TRUTH[:2, 0], at).swapaxes(0, 1), atol=5e-3)


def test_irregular_times_are_smoothed_along_the_flow():
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.05, 0.2, size=60))
    paths = np.stack([flow(x, times) for x in random.normal(size=(8, 2))])
    seen = paths + 0.05 * random.normal(size=paths.shape)
    model = fitted(seen, times, noise=0.05)
    found = model.smooth(seen, times)
    raw, smooth = np.square(seen - paths).mean(), np.square(found.mean.swapaxes(0, 1) - paths).mean()
    assert smooth < 0.4 * raw
    assert 0.75 < found.coverage(paths.swapaxes(0, 1)) <= 1.0


def test_a_mask_is_a_gap(line):
    seen = np.random.default_rng(1).random((2, 12)) < 0.7
    rows = NOISY[:2, :12]
    gaps = line.smooth(np.where(seen[..., None], rows, np.nan), TIMES[:12])
    for mask in (seen, np.repeat(seen[..., None], 2, axis=2), seen.astype(int)):
        found = line.smooth(rows, TIMES[:12], mask=mask)
        np.testing.assert_array_equal(found.mean, gaps.mean)
        np.testing.assert_array_equal(found.std, gaps.std)
    tensors = line.smooth(torch.from_numpy(rows), TIMES[:12], mask=torch.from_numpy(seen))
    assert isinstance(tensors.mean, torch.Tensor)
    np.testing.assert_array_equal(tensors.std.numpy(), gaps.std)


def test_without_noise_the_rows_themselves_are_believed():
    model = fitted(TRUTH, TIMES)
    found = model.smooth(TRUTH[:3], noise=0.0)
    np.testing.assert_allclose(found.mean.swapaxes(0, 1), TRUTH[:3], atol=1e-9)
    assert found.std.max() < 1e-5


def test_smoothing_is_nearer_to_the_truth_than_filtering_and_that_than_rows():
    truth, _ = turning(30, 40, seed=7)
    seen, _ = noisy(0.1, seed=7, count=30)
    model = fitted(NOISY, TIMES, noise=0.1 / NOISY.std())
    wrong = [
        np.square(rows - truth.swapaxes(0, 1)).mean()
        for rows in (model.smooth(seen).mean, model.smooth(seen, filter_only=True).mean, seen.swapaxes(0, 1))
    ]
    assert wrong[0] < 0.8 * wrong[1] < 0.8 * wrong[2]


def test_intervals_hold_what_their_level_says():
    model = fitted(NOISY, TIMES, noise=0.1 / NOISY.std())
    found = model.smooth(NOISY, TIMES)
    low, high = found.interval(0.5)
    np.testing.assert_allclose((high - low) / 2.0, 0.6744897501960817 * found.std, rtol=1e-9)
    np.testing.assert_allclose((high + low) / 2.0, found.mean, atol=1e-12)
    inside = (TRUTH.swapaxes(0, 1) >= low) & (TRUTH.swapaxes(0, 1) <= high)
    truth = TRUTH.swapaxes(0, 1).copy()
    assert found.coverage(truth, 0.5) == inside.mean()
    truth[0] = np.nan
    assert found.coverage(truth, 0.5) == inside[1:].mean()
    for level in (0.0, 1.0, "much"):
        with pytest.raises(ArgumentError, match="^level"):
            found.interval(level)


def test_noise_is_found_where_there_is_some():
    assert fitted(TRUTH, TIMES).noise_ == 0.0
    for noise in (0.05, 0.2):
        seen, _ = noisy(noise, count=20, seed=2)
        assert 0.5 < fitted(seen, TIMES).noise_ / (noise / seen.std()) < 2.0
    assert fitted(NOISY, TIMES, noise=0.123).noise_ == 0.123


def test_noise_is_found_without_held_out_rows_too():
    seen, _ = noisy(0.2, count=20, seed=2)
    assert fitted(seen, TIMES, held_out=0.0).noise_ > 0.0


def test_seconds_since_1970_are_times():
    start, times = 1.7e9, np.arange(4.0)
    model = fitted(TRUTH[:, ::10], times)
    found = model.smooth(TRUTH[:2, :21:10], start + times[:3], at=start + times)
    np.testing.assert_allclose(found.mean.swapaxes(0, 1), TRUTH[:2, ::10], atol=1e-6)


def test_nanoseconds_are_times():
    model = fitted(TRUTH, 1e-9 * TIMES)
    found = model.smooth(TRUTH[:2, :5], 1e-9 * TIMES[:5], at=1e-9 * TIMES[5:7])
    np.testing.assert_allclose(found.mean.swapaxes(0, 1), TRUTH[:2, 5:7], atol=1e-6)


@pytest.mark.parametrize(
    ("observations", "options", "kind", "words"),
    [
        (TRUTH[0], {}, ShapeError, "^observations"),
        (TRUTH[:0], {}, ShapeError, "^observations"),
        (TRUTH[:, :, :1], {}, ShapeError, "^observations"),
        (TRUTH, {"times": TIMES[1:]}, ShapeError, "^times"),
        (TRUTH[:, :2], {"times": [0.0, 0.0]}, ArgumentError, "^times"),
        (TRUTH[:, :2], {"times": [0.0, 0.055]}, ArgumentError, "^times: .*multiples"),
        (TRUTH, {"mask": np.ones((6, 3))}, ShapeError, "^mask"),
        (TRUTH, {"noise": -1.0}, ArgumentError, "^noise"),
        (TRUTH, {"noise": np.nan}, ArgumentError, "^noise"),
        (TRUTH, {"at": [np.nan]}, ArgumentError, "^at"),
        (TRUTH, {"at": []}, ArgumentError, "^times"),
        (TRUTH, {"filter_only": "yes"}, ArgumentError, "^filter_only"),
        (TRUTH, {"condition": [0] * 6}, ShapeError, "^condition"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(line, observations, options, kind, words):
    with pytest.raises(kind, match=words):
        line.smooth(observations, **options)


def test_a_driven_model_is_not_smoothed():
    paths, times, inputs = driven()
    with pytest.raises(ArgumentError, match="without inputs"):
        fitted(paths, times, inputs=inputs).smooth(paths, times)


def test_infinite_observations_are_named(line):
    with pytest.raises(NonFiniteError, match="observations"):
        line.smooth(np.full((1, 3, 2), np.inf))


def test_a_mask_of_fractions_is_refused_as_by_fit(line):
    with pytest.raises(Exception, match="mask"):
        line.smooth(NOISY[:2, :3], STEP * np.arange(3), mask=np.full((2, 3), np.nan))
