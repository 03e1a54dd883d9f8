"""Reports of forecasts against the same by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV

from koopflow import KoopmanForecaster
from koopflow.exceptions import ArgumentError

from .reference import STEP, bent, fitted, noisy, turning

TRAIN = bent()
HELD = bent(3, 14, seed=7)
AHEAD = 4


@pytest.fixture(scope="module")
def curve() -> KoopmanForecaster:
    return fitted(TRAIN, basis="polynomial", degree=2)


def windows(paths, history=1, ahead=AHEAD):
    """Windows ``[S, history, d]`` and what followed ``[S, ahead, d]``."""
    found = [
        (path[row : row + history], path[row + history : row + history + ahead])
        for path in paths
        for row in range(len(path) - history - ahead + 1)
    ]
    return np.stack([own[0] for own in found]), np.stack([own[1] for own in found])


def errors(states, truth, scale):
    return np.sqrt(np.square((states - truth) / scale).mean(axis=(0, 2)))


def test_rows_without_times_are_one_step_of_the_model_apart():
    at = np.arange(TRAIN.shape[1]) * 0.1
    model = KoopmanForecaster(basis="polynomial", degree=2).fit(TRAIN, at, progress=False)
    held = 0.1 * np.arange(HELD.shape[1])
    told, untold = (model.evaluate(HELD, *times, ahead=AHEAD, members=0) for times in ([held], []))
    np.testing.assert_allclose(untold.nrmse["model"], told.nrmse["model"], rtol=1e-12)
    told, untold = (model.spectrum(HELD, *times) for times in ([held], []))
    np.testing.assert_allclose(untold.residuals, told.residuals, rtol=1e-9)
    with pytest.raises(ArgumentError, match=r"times one step of the model \(0\.1\) apart, got none"):
        model.evaluate(HELD, 3 * held, ahead=AHEAD, members=0)


def test_every_number_is_what_it_says(curve):
    report = curve.evaluate(HELD, ahead=AHEAD, members=9, seed=3)
    begin, truth = windows(HELD)
    leads = STEP * 10.0 * np.arange(1, AHEAD + 1)
    np.testing.assert_allclose(report.lead_times, leads)
    assert report.starts == len(begin) == 3 * 10
    flat = TRAIN.reshape(-1, 2)
    scale = flat.std(axis=0)
    states = curve.forecast(begin[:, 0], leads).swapaxes(0, 1)
    np.testing.assert_allclose(report.nrmse["model"], errors(states, truth, scale), atol=1e-10)
    np.testing.assert_allclose(report.nrmse["persistence"], errors(begin, truth, scale), atol=1e-12)
    np.testing.assert_allclose(
        report.nrmse["climatology"], errors(flat.mean(axis=0), truth, scale), atol=1e-12
    )
    library, futures = windows(TRAIN)
    apart = np.square((library[None, :, 0] - begin[:, None, 0]) / scale).sum(axis=2)
    nearest = np.argsort(apart, axis=1)[:, :8]
    np.testing.assert_allclose(
        report.nrmse["analogues"], errors(futures[nearest].mean(axis=1), truth, scale), atol=1e-10
    )
    best = min(np.mean(own) for name, own in report.nrmse.items() if name != "model")
    assert report.skill == pytest.approx(1.0 - report.nrmse["model"].mean() / best)
    # Members in the units of the data: the fair score by its double sum.
    drawn = curve.forecast(begin[:, 0], leads, members=9, seed=3) / scale
    seen = (truth / scale).swapaxes(0, 1)
    near = np.abs(drawn - seen).mean(axis=(0, 2, 3))
    pairs = np.abs(drawn[:, None] - drawn[None]).sum(axis=(0, 1)).mean(axis=(1, 2)) / (9 * 8)
    np.testing.assert_allclose(report.crps, near - 0.5 * pairs, atol=1e-10)
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    inside = ((seen >= low) & (seen <= high)).mean(axis=(1, 2))
    np.testing.assert_allclose(report.coverage, inside, atol=1e-12)
    # The last lead before the error of a start is above 0.4.
    off = np.sqrt(np.square((states - truth) / scale).mean(axis=2))
    valid = [
        next((leads[i - 1] if i else 0.0 for i in range(AHEAD) if row[i] > 0.4), leads[-1]) for row in off
    ]
    np.testing.assert_allclose(report.valid_time["model"], valid)
    assert "median valid time of 30 starts" in str(report)


def test_many_members_of_a_right_model_cover_what_comes():
    paths = bent(30, 30, seed=1)
    model = fitted(paths, basis="polynomial", degree=2, held_out=0.0)
    report = model.evaluate(bent(20, 20, seed=2), ahead=3, members=64)
    assert (np.abs(report.coverage - 0.9) < 0.06).all()
    assert report.skill > 0.05


def test_starts_are_spread_and_are_those_of_their_seed(curve):
    few = curve.evaluate(HELD, ahead=AHEAD, members=0, starts=5, seed=1)
    assert few.starts == 5
    assert few.crps is few.coverage is None
    same = curve.evaluate(HELD, ahead=AHEAD, members=0, starts=5, seed=1)
    np.testing.assert_array_equal(few.nrmse["model"], same.nrmse["model"])
    other = curve.evaluate(HELD, ahead=AHEAD, members=0, starts=5, seed=2)
    assert not np.array_equal(few.nrmse["model"], other.nrmse["model"])
    assert len(curve.evaluate(HELD, members=0).lead_times) == 6


def test_no_window_reaches_over_a_gap(curve):
    gaps = HELD.copy()
    gaps[0, 6] = np.nan
    pieces = [HELD[0, :6], HELD[0, 7:], HELD[1], HELD[2]]
    report = curve.evaluate(gaps, ahead=AHEAD, members=0)
    apart = curve.evaluate(pieces, ahead=AHEAD, members=0)
    assert report.starts == 2 + 3 + 10 + 10
    np.testing.assert_allclose(report.nrmse["model"], apart.nrmse["model"], atol=1e-12)
    mask = np.ones(HELD.shape[:2], dtype=bool)
    mask[0, 6] = False
    masked = curve.evaluate(HELD, ahead=AHEAD, members=0, mask=mask)
    np.testing.assert_array_equal(masked.nrmse["model"], report.nrmse["model"])


def test_windows_hold_the_history():
    model = fitted(TRAIN, history=3, basis="polynomial", degree=1)
    begin, truth = windows(HELD, history=3)
    states = model.forecast(begin, np.arange(1.0, AHEAD + 1)).swapaxes(0, 1)
    expected = errors(states, truth, TRAIN.reshape(-1, 2).std(axis=0))
    np.testing.assert_allclose(
        model.evaluate(HELD, ahead=AHEAD, members=0).nrmse["model"], expected, atol=1e-10
    )


def test_a_score_is_minus_the_mean_error(curve):
    expected = -curve.evaluate(HELD, members=0).nrmse["model"].mean()
    assert curve.score(HELD) == expected < 0.0


def test_a_search_finds_the_nonlinear_model():
    model = KoopmanForecaster(basis="polynomial", margin=None)
    search = GridSearchCV(model, {"degree": [1, 2]}, cv=2, error_score="raise").fit(TRAIN, progress=False)
    assert search.best_params_ == {"degree": 2}
    assert search.best_estimator_.n_observables_ == 6


def test_a_model_from_a_file_has_the_same_score(tmp_path):
    paths, times = noisy(0.2)
    model = fitted(paths, times)
    held = 0.1 * noisy(0.2, seed=4)[0] + 1.0
    model.save(tmp_path / "model.koopflow")
    other = KoopmanForecaster.load(tmp_path / "model.koopflow")
    assert other.score(held, times=times) == pytest.approx(model.score(held, times=times))


@pytest.mark.parametrize(
    ("paths", "options", "words"),
    [
        (HELD, {"times": 0.5 * np.arange(14)}, "paths: .*one step"),
        (HELD[:, :1], {}, "paths: .*more than 1 rows"),
        (HELD, {"ahead": 14}, "^ahead"),
        (HELD, {"ahead": 0}, "^ahead"),
        (HELD, {"starts": 0}, "^starts"),
        (HELD, {"members": -1}, "^members"),
        (HELD, {"seed": "a"}, "^seed"),
        (HELD, {"condition": [0, 1, 0]}, "^condition"),
        (np.where(np.arange(14)[:, None] % 2, HELD, np.nan), {}, "paths: .*completely observed"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(curve, paths, options, words):
    with pytest.raises(ValueError, match=words):
        curve.evaluate(paths, **options)


def test_a_perfect_model_is_valid_to_the_end():
    paths, times = turning()
    report = fitted(paths, times).evaluate(*turning(seed=3), ahead=10)
    np.testing.assert_allclose(report.valid_time["model"], 1.0)
    assert report.skill > 0.999
    assert report.crps.max() < 1e-6
