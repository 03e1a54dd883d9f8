"""Forecasts against flows in closed form and NumPy's regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import logm

from koopflow import KoopmanForecaster
from koopflow.exceptions import ArgumentError, DivergenceError, NonFiniteError, NotFittedError, ShapeError

from .reference import STEP, TURN, bent, fitted, flow, noisy, quadratic, regression, starts, turning

PATHS, TIMES = turning()
X = PATHS[:3, -1]
BENT = bent()
#: What re-encodes is not held to a box here, and nothing is chosen.
PLAIN = {"basis": "polynomial", "degree": 2, "margin": None, "ridge": 0.0, "held_out": 0.0}


@pytest.fixture(scope="module")
def turn() -> KoopmanForecaster:
    return fitted(PATHS, TIMES)


@pytest.fixture(scope="module")
def noisy_turn() -> KoopmanForecaster:
    return fitted(*noisy(0.1), noise=0.2)


@pytest.fixture(scope="module")
def curve() -> KoopmanForecaster:
    return fitted(BENT, **PLAIN)


def test_a_linear_flow_is_exact_at_any_times(turn):
    times = [1.0, 0.0, 0.123, 3.7, 0.1, 1.0, 25.0]
    found = turn.forecast(X, times)
    np.testing.assert_allclose(found, flow(X, times).swapaxes(0, 1), atol=1e-10)
    np.testing.assert_array_equal(found[0], found[5])
    np.testing.assert_allclose(found[1], X, atol=1e-14)
    np.testing.assert_allclose(turn.forecast(X, 0.1)[0], found[4], atol=0.0)


def test_irregular_times_give_the_same_flow():
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.03, 0.3, size=(6, 40)), axis=1)
    paths = np.stack([flow(x, own - own[0]) for x, own in zip(starts(), times, strict=True)])
    model = fitted(paths, times)
    assert model.step_ == pytest.approx(np.median(np.diff(times, axis=1)), abs=0.02)
    ahead = [0.0, 0.017, 1.0, 10.0]
    np.testing.assert_allclose(model.forecast(X, ahead), flow(X, ahead).swapaxes(0, 1), atol=1e-5)


def test_the_generator_is_the_logarithm_of_a_step(turn):
    expected = logm(turn.transition_matrix()).real / turn.step_
    np.testing.assert_allclose(turn.generator_matrix(), expected, atol=1e-10)
    # Standardised rows turn by the same matrix in other units.
    scale = PATHS.std(axis=(0, 1))
    np.testing.assert_allclose(turn.generator_matrix()[1:, 1:].T, TURN * scale / scale[:, None], atol=1e-9)


def test_a_step_without_a_logarithm_has_no_generator():
    flip = np.array([(-0.9) ** np.arange(30.0), 0.5 * (-0.9) ** np.arange(30.0)])[..., None]
    model = fitted(flip)
    np.testing.assert_allclose(model.forecast(np.array([[2.0]]), [3.0]), [[[2.0 * (-0.9) ** 3]]], atol=1e-9)
    with pytest.raises(ArgumentError, match="no logarithm"):
        model.generator_matrix()
    with pytest.raises(ArgumentError, match="times: expected multiples of the data's step 1"):
        model.forecast(np.array([[2.0]]), [0.5])
    assert "no generator" in model.summary()


def test_the_closed_form_is_least_squares(curve):
    """Its forecasts do not depend on the coordinates that the observables are written in."""
    before, after = BENT[:, :-1].reshape(-1, 2), BENT[:, 1:].reshape(-1, 2)
    step = regression(quadratic(before), quadratic(after))
    x = BENT[:5, 3]
    expected = [x]
    for _ in range(3):
        expected.append((quadratic(expected[-1]) @ step)[:, 1:3])
    np.testing.assert_allclose(curve.forecast(x, [1, 2, 3], re_encode=1), expected[1:], atol=1e-9)
    carried = [(quadratic(x) @ np.linalg.matrix_power(step, k))[:, 1:3] for k in (1, 2, 3)]
    np.testing.assert_allclose(curve.forecast(x, [1, 2, 3], re_encode="never"), carried, atol=1e-9)
    # Two steps carried, then one of a new encoding.
    again = (quadratic(carried[1]) @ step)[:, 1:3]
    np.testing.assert_allclose(curve.forecast(x, [3], re_encode=2)[0], again, atol=1e-9)
    assert np.abs(carried[2] - expected[3]).max() > 1e-4


@pytest.mark.parametrize("basis", ["fourier", "kernel"])
def test_a_ridge_leads_to_a_state_that_stays(basis):
    ridge = 1e-2
    model = fitted(BENT, basis=basis, observables=7, lengths=(1.0, 1.0), ridge=ridge, held_out=0.0)
    g = model.encode(BENT.reshape(-1, 2)).reshape(8, 30, -1)
    before, after = g[:, :-1].reshape(232, -1), g[:, 1:].reshape(232, -1)
    gram = before.T @ before / 232
    stays = np.zeros_like(gram)
    stays[1:3, 1:3] = np.eye(2)
    shrunk = gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    expected = np.linalg.solve(shrunk, before.T @ (after - before @ stays) / 232) + stays
    found = model.transition_matrix()
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], atol=1e-9)
    np.testing.assert_array_equal(found[:, 0], np.eye(len(gram))[0])
    off = after - before @ found
    np.testing.assert_allclose(model.covariance_matrix(), off.T @ off / 232, atol=1e-9)


def test_history_is_a_regression_on_the_last_rows_and_never_reaches_over_a_gap():
    random = np.random.default_rng(0)
    series = random.normal(size=(5, 60))
    for row in range(2, 60):
        series[:, row] += 1.2 * series[:, row - 1] - 0.7 * series[:, row - 2]
    series[:, 20] = np.nan
    whole = [(s[k], s[k - 1], s[k + 1]) for s in series for k in range(1, 59)]
    table = np.array([row for row in whole if np.isfinite(row).all()])
    left = np.column_stack([np.ones(len(table)), table[:, :2]])
    weights = regression(left, table[:, 2:])[:, 0]
    model = fitted(list(series), history=2, ridge=0.0, held_out=0.0)
    assert model.history_["pairs"] == len(table) == 5 * (60 - 2 - 3)
    found = model.forecast(np.array([[0.3, -1.0]]), [1.0, 2.0])[:, 0]
    first = weights @ [1.0, -1.0, 0.3]
    np.testing.assert_allclose(found, [first, weights @ [1.0, first, -1.0]], atol=1e-9)


def test_forecasts_are_of_the_kind_of_the_rows(turn):
    assert turn.forecast(X.astype(np.float32), [1.0]).dtype == np.float32
    assert turn.forecast(X, [1.0]).dtype == np.float64
    tensor = turn.forecast(torch.from_numpy(X), torch.tensor([1.0]))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), turn.forecast(X, [1.0]))
    with pytest.warns(UserWarning, match="without gradients"):
        turn.forecast(torch.from_numpy(X).requires_grad_(), [1.0])


def errors_of_starts(model):
    """Mean square errors of forecasts from noisy rows: of the last of thirty, and of all of them."""
    truth, _ = turning(100, 30, seed=5)
    seen, _ = noisy(0.1, seed=5, count=100, length=30)
    ahead = flow(truth[:, -1], [0.5])[:, 0]
    gap = np.where(np.arange(30)[:, None] == 29, np.nan, seen)
    return [np.square(model.forecast(rows, [0.5])[0] - ahead).mean() for rows in (seen[:, -1], seen, gap)]


def test_more_rows_than_are_read_are_filtered_where_there_is_noise(turn):
    np.testing.assert_array_equal(turn.forecast(PATHS[:3, -5:], [1.0]), turn.forecast(X, [1.0]))
    one, many, gap = errors_of_starts(fitted(*noisy(0.1), noise=0.2, method="refine"))
    assert many < 0.5 * one
    assert gap < one


def test_more_rows_are_no_worse_than_the_last_one():
    rows, times = noisy(0.1, count=20)
    one, many, _ = errors_of_starts(fitted(rows, times, noise=0.1 / rows.std()))
    assert many < one


def test_gaps_at_the_end_of_exact_rows_are_bridged(turn):
    rows = PATHS[:3, 10:20].copy()
    rows[:, -2:] = np.nan
    np.testing.assert_allclose(turn.forecast(rows, [STEP])[0], PATHS[:3, 20], atol=1e-9)


def test_members_are_those_of_their_seed_and_add_what_steps_add(noisy_turn):
    first = noisy_turn.forecast(X, [STEP, 0.5], members=400, seed=1)
    assert first.shape == (400, 2, 3, 2)
    np.testing.assert_array_equal(first, noisy_turn.forecast(X, [STEP, 0.5], members=400, seed=1))
    assert not np.array_equal(first, noisy_turn.forecast(X, [STEP, 0.5], members=400, seed=2))
    scale = noisy(0.1)[0].std(axis=(0, 1))
    added = noisy_turn.covariance_matrix()[1:, 1:] * np.outer(scale, scale)
    # 1,200 draws of one step about its mean.
    off = (first - noisy_turn.forecast(X, [STEP, 0.5]))[:, 0].reshape(-1, 2)
    np.testing.assert_allclose(np.cov(off.T), added, atol=0.15 * added.max())
    # And of five: sum of F^k Q F'^k.
    step = noisy_turn.transition_matrix()[1:, 1:] * scale / scale[:, None]
    expected = sum(
        np.linalg.matrix_power(step.T, k) @ added @ np.linalg.matrix_power(step, k) for k in range(5)
    )
    off = (first - noisy_turn.forecast(X, [STEP, 0.5]))[:, 1].reshape(-1, 2)
    np.testing.assert_allclose(np.cov(off.T), expected, atol=0.15 * expected.max())
    # Members of a path do not depend on the paths beside it.
    np.testing.assert_array_equal(
        noisy_turn.forecast(X[:1], [STEP], members=400, seed=1)[:, 0], first[:, 0, :1]
    )


def test_members_spread_between_steps_too(noisy_turn):
    assert noisy_turn.forecast(X, [0.5 * STEP], members=50).std(axis=0).min() > 1e-3


def test_a_box_holds_nonlinear_models_and_never_linear_ones():
    line = 0.3 * np.arange(50.0) + 2.0
    for margin in (None, 0.1):
        model = fitted([line], margin=margin)
        np.testing.assert_allclose(
            model.forecast(line[-1:], [10, 100])[:, 0], line[-1] + [3.0, 30.0], atol=1e-6
        )
    grown = flow(starts(), TIMES, np.array([[0.5, 1.0], [-1.0, 0.5]]))
    held = fitted(grown, basis="polynomial", degree=2, margin=0.1).forecast(grown[:, -1], [5.0], re_encode=1)
    low, high = grown.min(axis=(0, 1)), grown.max(axis=(0, 1))
    room = 0.1 * (high - low)
    assert (held >= low - room - 1e-9).all()
    assert (held <= high + room + 1e-9).all()
    free = fitted(grown, basis="polynomial", degree=2, margin=None).forecast(grown[:, -1], [5.0], re_encode=1)
    assert (np.abs(free) > np.abs(held).max()).any()


def test_growth_without_bound_is_an_error():
    rate = np.array([[0.5, 1.0], [-1.0, 0.5]])
    grown = flow(starts(), TIMES, rate)
    model = fitted(grown, TIMES)
    np.testing.assert_allclose(model.forecast(X, [10.0])[0], flow(X, [10.0], rate)[:, 0], rtol=1e-7)
    with pytest.raises(DivergenceError, match="grows without bound"):
        model.forecast(X, [2000.0])


@pytest.mark.parametrize(
    ("x", "times", "options", "kind", "words"),
    [
        (np.full((2, 2), np.nan), [1.0], {}, NonFiniteError, "^x"),
        (np.full((2, 2), np.inf), [1.0], {}, NonFiniteError, "^x"),
        (X[0], [1.0], {}, ShapeError, "^x"),
        (X[:0], [1.0], {}, ShapeError, "^x"),
        (PATHS[:3, :0], [1.0], {}, ShapeError, "^x"),
        (np.ones((2, 3)), [1.0], {}, ShapeError, "^x"),
        (X, [], {}, ArgumentError, "^times"),
        (X, [[1.0]], {}, ArgumentError, "^times"),
        (X, [-0.1], {}, ArgumentError, "^times"),
        (X, [np.nan], {}, ArgumentError, "^times"),
        (X, ["soon"], {}, ArgumentError, "^times"),
        (X, [1.0], {"members": -1}, ArgumentError, "^members"),
        (X, [1.0], {"members": 1.5}, ArgumentError, "^members"),
        (X, [1.0], {"re_encode": 0}, ArgumentError, "^re_encode"),
        (X, [1.0], {"re_encode": "often"}, ArgumentError, "^re_encode"),
        (X, [1.0], {"seed": -1}, ArgumentError, "^seed"),
        (X, [1.0], {"inputs": np.ones((3, 10, 1))}, ShapeError, "^inputs"),
        (X, [1.0], {"condition": [0, 1, 0]}, ShapeError, "^condition"),
    ],
)
def test_what_cannot_be_forecast_is_refused(turn, x, times, options, kind, words):
    with pytest.raises(kind, match=words):
        turn.forecast(x, times, **options)


def test_what_is_not_fitted_says_so():
    for ask in (
        lambda model: model.forecast(X, [1.0]),
        lambda model: model.smooth(PATHS),
        lambda model: model.spectrum(),
        lambda model: model.transition_matrix(),
        lambda model: model.evaluate(PATHS),
        lambda model: model.prior(),
        lambda model: model.save("nowhere"),
    ):
        with pytest.raises(NotFittedError, match="call fit"):
            ask(KoopmanForecaster())


def test_one_row_of_history_may_have_an_axis(turn):
    np.testing.assert_array_equal(turn.encode(X[:, None]), turn.encode(X))
    with pytest.raises(ShapeError, match=r"^x: expected \(B, \*\(2,\)\)"):
        turn.encode(PATHS[:3, -5:])
