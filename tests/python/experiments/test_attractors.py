"""The part of the bench of forecasts on attractors: its integration, analogues and tables, without dysts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from experiments.benches.flow_spectrum.tables import plain
from experiments.benches.forecasting import attractors
from experiments.benches.forecasting.adapters.integration import halving, integrated, near
from experiments.benches.forecasting.analogues import analogues
from experiments.benches.forecasting.rivals import Rivals
from experiments.benches.forecasting.systems import lorenz63, rk4

SCALE = np.array([8.0, 9.0, 8.5])


def lorenz(state: np.ndarray, time: float) -> np.ndarray:
    return lorenz63(state)


def test_paths_agree_with_another_method():
    """Short steps of Runge and Kutta's method, over half a Lyapunov time."""
    begin = near(np.array([1.0, 2.0, 20.0]), SCALE, 3, seed=0)
    found = integrated(lorenz, begin, SCALE, 0.05, 11, 1e-10)
    np.testing.assert_allclose(found, rk4(lorenz63, begin, 0.05, 11, 200), atol=1e-6)
    np.testing.assert_array_equal(found[:, 0], begin)


def test_a_finer_tolerance_tells_errors():
    """It sees an error that is put in, in deviations, and next to none without."""
    paths = integrated(lorenz, np.array([[1.0, 2.0, 20.0]]), SCALE, 0.05, 20, 1e-10)
    assert halving(lorenz, paths, SCALE, 0.05, 1e-10) < 1e-8
    paths[:, -1, 1] += 0.9
    assert halving(lorenz, paths, SCALE, 0.05, 1e-10) == pytest.approx(0.1, rel=1e-4)


def test_what_leaves_within_a_finite_time_is_not_a_path():
    """x' = x² from 1 is infinite at 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = integrated(lambda x, time: x**2, np.ones((1, 1)), np.ones(1), 0.5, 5, 1e-10)
    assert not np.isfinite(found[0, -1, 0])


def test_starts_are_near_and_follow_their_seed():
    begin = np.array([1.0, 2.0, 20.0])
    found = near(begin, SCALE, 2000, seed=4)
    np.testing.assert_array_equal(found, near(begin, SCALE, 2000, seed=4))
    assert not np.array_equal(found, near(begin, SCALE, 2000, seed=5))
    np.testing.assert_allclose(found.mean(axis=0), begin, atol=5e-3)
    np.testing.assert_allclose(found.std(axis=0), 0.01 * SCALE, rtol=0.1)


def test_analogues_move_as_their_neighbours_did():
    """Beside a loop over all rows; and rows that all move alike are followed exactly."""
    random = np.random.default_rng(0)
    paths, starts = random.normal(size=(3, 40, 2)) * [1.0, 50.0], random.normal(size=(4, 2))
    found = analogues(paths, starts, 2, count=3)
    spread, x = paths.std(axis=(0, 1)), starts.copy()
    now, after = paths[:, :-1].reshape(-1, 2), paths[:, 1:].reshape(-1, 2)
    for row in range(2):
        for place, state in enumerate(x):
            nearest = np.argsort((((now - state) / spread) ** 2).sum(axis=1))[:3]
            x[place] = state + (after[nearest] - now[nearest]).mean(axis=0)
        np.testing.assert_allclose(found[row], x)
    drift = np.arange(20.0)[None, :, None] * [1.0, -2.0] + np.array([[[0.0, 0.0]], [[3.0, 1.0]]])
    np.testing.assert_allclose(analogues(drift, np.zeros((1, 2)), 5)[-1], [[5.0, -10.0]])


@pytest.fixture(scope="module")
def given() -> attractors.Data:
    begin = near(np.array([1.0, 2.0, 20.0]), SCALE, 9, seed=0)
    paths = integrated(lorenz, begin, SCALE, 0.05, 240, 1e-8)[:, 100:]
    return attractors.divided(paths, fitted=6, rows=120, ahead=30, dt=0.05, exponent=0.9056)


def test_paths_are_divided(given):
    assert (given.paths.shape, given.contexts.shape, given.truth.shape) == (
        (6, 120, 3),
        (3, 40, 3),
        (30, 3, 3),
    )
    np.testing.assert_allclose(given.paths.std(axis=(0, 1)), 1.0)
    np.testing.assert_allclose(given.leads[[0, -1]], [0.05, 1.5])
    # What follows begins where contexts end: in a row, Lorenz' system does not go far.
    assert np.abs(given.truth[0] - given.contexts[:, -1]).max() < 1.0


def test_how_far_rows_are_apart():
    """Steps of 1, and of 3 once in five, of a coordinate whose deviation is known."""
    path = np.cumsum(np.tile([1.0, 1.0, 1.0, 1.0, 3.0], 20))[None, :, None]
    given = attractors.Data(path, path, path, dt=1.0, exponent=1.0)
    assert given.jump == pytest.approx(3.0 / path.std())


def test_a_perfect_forecast_is_valid_to_the_end(given):
    row = attractors.scored(given.truth, given)
    assert row["median"] == row["mean"] == row["furthest"] == pytest.approx(1.5 * 0.9056)
    assert row["to the end"] == 1.0
    assert attractors.scored(given.truth + 10.0, given)["median"] == 0.0


def test_forecasters_are_compared(given):
    rows = dict(attractors.compared(given, 0, Rivals(names=()), quick=True))
    assert list(rows) == ["koopflow", "eight nearest analogues"]
    still = attractors.scored(np.broadcast_to(given.contexts[:, -1], given.truth.shape), given)
    assert min(row["mean"] for row in rows.values()) > still["mean"]


def test_medians_by_forecaster():
    """Seeds stay apart, a forecaster that could not has no number, and how far was forecast comes last."""
    row = {"median": 1.0, "furthest": 9.0}
    tables = {
        "A": {"koopflow": [row, row | {"median": 3.0}], "other: overflows": [{}]},
        "B": {"koopflow": [row | {"furthest": 7.0}], "other": [row | {"median": 2.0}]},
    }
    found = attractors.medians(tables)
    assert found["koopflow"] == [{"A": 1.0, "B": 1.0}, {"A": 3.0}]
    assert found["other"] == [{"B": 2.0}]
    assert list(found) == ["koopflow", "other", "furthest"]
    assert "| koopflow | 2.000 (1.000 to 3.000) | 1.000 |" in plain(found)
