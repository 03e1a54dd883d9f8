"""The bench of forecasts: its systems and scores beside independent facts, its parts at tiny sizes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import norm

from experiments.benches.flow_spectrum.tables import plain
from experiments.benches.forecasting import chaos, linear, oscillators, rivals, series, size
from experiments.benches.forecasting.__main__ import gathered, parsed
from experiments.benches.forecasting.environments import Unavailable, interpreter, last_line
from experiments.benches.forecasting.scores import (
    crps_of_members,
    crps_of_normal,
    eigenvalue_error,
    seasonal_scale,
    squared,
    valid_times,
)
from experiments.benches.forecasting.systems import OSCILLATORS, lorenz63, rk4


def test_the_pendulum_keeps_its_energy():
    path = OSCILLATORS["pendulum"].paths(20, 200, 0.1, seed=0)
    energy = path[..., 1] ** 2 / 2 - np.cos(path[..., 0])
    assert np.abs(energy - energy[:, :1]).max() < 1e-6
    assert np.ptp(path[..., 0]) > 1.0


def test_the_integrator_is_of_order_four():
    """Halving its step divides the error by sixteen, beside the solution of x' = x."""
    begin = np.ones((1, 1))
    errors = [abs(rk4(lambda x: x, begin, 1.0, 2, n)[0, -1, 0] - np.e) for n in (4, 8)]
    assert errors[0] / errors[1] == pytest.approx(16.0, rel=0.15)
    # The origin is a fixed point of Lorenz's system, and so are two others.
    c = np.sqrt(8 / 3 * 27)
    np.testing.assert_allclose(lorenz63(np.array([[0.0, 0, 0], [c, c, 27], [-c, -c, 27]])), 0.0, atol=1e-12)


def test_valid_times_of_known_errors():
    leads = np.array([0.1, 0.2, 0.3])
    truth = np.zeros((3, 4, 2))
    forecast = np.zeros((3, 4, 2))
    forecast[0, 0] = forecast[2, 1] = 1.0
    forecast[1, 2] = np.nan
    np.testing.assert_allclose(valid_times(forecast, truth, leads, 1.0), [0.0, 0.2, 0.1, 0.3])
    # An error of sqrt(2) in units of 4 is below the threshold of 0.4.
    np.testing.assert_allclose(valid_times(forecast, truth, leads, 4.0), [0.3, 0.3, 0.1, 0.3])
    assert squared(forecast, truth) == float("inf")


def test_probability_scores_agree():
    """Members of a normal distribution score as the distribution does; no spread scores as the error."""
    members = norm.ppf((np.arange(400) + 0.5) / 400, 1.0, 2.0)[:, None]
    exact = crps_of_normal(np.array([1.0]), np.array([2.0]), np.array([2.5]))
    np.testing.assert_allclose(crps_of_members(members, np.array([2.5])), exact, rtol=0.01)
    np.testing.assert_allclose(crps_of_members(np.full((5, 1), 3.0), np.array([2.5])), [0.5])


def test_eigenvalues_are_paired():
    truth = np.array([1.0 + 1j, 1.0 - 1j])
    assert eigenvalue_error(np.array([0.0, 1.0 - 1j, 1.0 + 1j]), truth) == 0.0
    assert eigenvalue_error(np.array([1.0 - 1j, 1.0 + 2j]), truth) == pytest.approx(1 / np.sqrt(2))
    assert eigenvalue_error(truth[:1], truth) == float("inf")
    found = np.linalg.eigvals(linear.matrix(0))
    assert eigenvalue_error(found, linear.EIGENVALUES) < 1e-12


def test_mase_of_what_is_known():
    rows = np.arange(30.0)
    assert seasonal_scale(rows, 3) == 3.0
    given = series.of(rows + 0.1 * np.sin(rows), 3)
    # The difference from a season before is the unit, so seasonal naive has a MASE of about one.
    assert series.naive(given)["MASE"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["Lorenz-63, dt 0.1, 1% noise"])
def test_chaos_is_quick(name):
    rows = chaos.measure(name, 0, quick=True)
    assert {"koopflow", "koopflow, refine", "koopflow, from 40 noisy rows"} <= set(rows)
    assert all(np.isfinite(list(row.values())).all() for row in rows.values())
    assert "| koopflow |" in plain(gathered([rows]))


def test_other_parts_are_quick():
    inside = oscillators.measure("pendulum", 0, quick=True)["koopflow"]["log10 MSE inside"]
    assert inside < -2.0
    rows = linear.measure(0, quick=True)
    assert all(row[linear.OFF] < 20.0 for row in rows.values())
    at = np.arange(130)
    waves = series.of(np.sin(2 * np.pi * at / 11) + 0.01 * np.cos(7.0 * at), 11)
    assert series.koopflow(waves, series.MODELS["koopflow, linear"](11), 0)["MASE"] < 5.0


def test_a_large_fit_says_what_it_took():
    row = size.fitted(10, 30, 0)
    assert json.loads(json.dumps(row)) == row
    assert row["peak, GiB"] >= row["peak before the fit, GiB"] > 0.0


def test_a_rival_that_cannot_says_why(tmp_path):
    place = tmp_path / "pydmd"
    place.mkdir()
    (place / "failed.txt").write_text("not installed: no such package")
    with pytest.raises(Unavailable, match="no such package"):
        interpreter("pydmd", tmp_path)
    task = rivals.Task(np.zeros((1, 3, 2)), 0.1, np.zeros((4, 1, 2)), np.array([0.1]))
    answers = list(rivals.Rivals(("pydmd",), tmp_path).forecasts(task))
    assert len(answers) == len(rivals.CONFIGURATIONS["pydmd"])
    assert all(forecast is None and "no such package" in label for label, forecast, _ in answers)
    assert "| no such package |" not in plain(gathered([{label: {} for label, _, _ in answers}]))
    assert last_line("warning\nERROR: No matching | distribution\nhint", "x").startswith("ERROR: No matching")


def test_quick_takes_one_seed():
    options = parsed(["--quick", "--rivals", "--seeds", "3", "4"])
    assert options.seeds == [3]
    assert options.rivals == []
