"""Spectra of sequences against direct computations from encodings."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import KoopmanForecaster
from koopflow.exceptions import ArgumentError, ShapeError

from .reference import STEP, bent, fitted, flow, noisy, quadratic, regression, starts, turning

TRUTH, TIMES = turning()
BENT = bent()


@pytest.fixture(scope="module")
def turn() -> KoopmanForecaster:
    return fitted(TRUTH, TIMES)


@pytest.fixture(scope="module")
def curve() -> KoopmanForecaster:
    return fitted(BENT, basis="polynomial", degree=2, ridge=0.0, held_out=0.0)


def test_rates_are_those_of_the_flow(turn):
    spectrum = turn.spectrum()
    turning_ones = np.sort_complex(spectrum.eigenvalues[np.abs(spectrum.frequency) > 0.5])
    np.testing.assert_allclose(turning_ones, [-0.1 - 1.0j, -0.1 + 1.0j], atol=1e-8)
    assert spectrum.residuals.max() < 1e-6
    assert not spectrum.spurious.any()
    np.testing.assert_allclose(spectrum[spectrum.frequency > 0.5].period, 2.0 * np.pi, rtol=1e-7)
    np.testing.assert_allclose(spectrum[spectrum.frequency > 0.5].lifetime, 10.0, rtol=1e-6)
    assert spectrum.verdict.startswith("100% of the energy")


def test_eigenvalues_are_those_of_the_regression(curve):
    before, after = BENT[:, :-1].reshape(-1, 2), BENT[:, 1:].reshape(-1, 2)
    step = regression(quadratic(before), quadratic(after))
    found = np.exp(curve.spectrum().eigenvalues * curve.step_)
    expected = np.linalg.eigvals(step)
    nearest = np.abs(found[:, None] - expected).min(axis=0)
    assert nearest.max() < 1e-7
    assert len(found) == len(expected) == 6


def test_facts_are_those_of_encodings_along_the_paths(curve):
    paths = bent(5, 20, seed=9)
    spectrum = curve.spectrum(paths)
    g = curve.encode(paths.reshape(-1, 2)).reshape(5, 20, -1)
    psi = g @ spectrum.weights
    now, then = psi[:, :-1].reshape(95, -1), psi[:, 1:].reshape(95, -1)
    multipliers = np.exp(spectrum.eigenvalues * curve.step_)
    power = np.square(np.abs(now)).mean(axis=0)
    off = np.square(np.abs(then - multipliers * now)).mean(axis=0)
    np.testing.assert_allclose(spectrum.residuals, np.sqrt(off / power), atol=1e-6)
    # What each adds to the state, in deviations of the data of the fit.
    scale = BENT.reshape(-1, 2).std(axis=0)
    parts = now[:, :, None] * (spectrum.modes / scale)[None]
    centred = parts - parts.mean(axis=0)
    np.testing.assert_allclose(spectrum.energy, np.square(np.abs(centred)).mean(axis=(0, 2)), atol=1e-8)
    whole = np.square(np.abs(centred.sum(axis=1))).mean()
    for count in range(1, len(spectrum) + 1):
        last = count == len(spectrum)
        if not last and np.isclose(spectrum.eigenvalues[count - 1], spectrum.eigenvalues[count].conj()):
            continue
        left = np.square(np.abs(centred[:, count:].sum(axis=1))).mean()
        assert spectrum.explained[count - 1] == pytest.approx(1.0 - left / whole, abs=1e-7)


def test_all_modes_together_are_the_state(curve):
    spectrum = curve.spectrum()
    x = BENT[:, 4]
    psi = spectrum.eigenfunctions(x)
    mean = BENT.reshape(-1, 2).mean(axis=0)
    np.testing.assert_allclose(mean + (psi @ spectrum.modes).real, x, atol=1e-7)
    np.testing.assert_allclose(mean + curve.encode(x) @ curve.readout_matrix(), x, atol=1e-12)
    # And multiplied by mu they are the forecast of one encoding.
    ahead = (psi * np.exp(3.0 * spectrum.eigenvalues)) @ spectrum.modes
    np.testing.assert_allclose(mean + ahead.real, curve.forecast(x, [3.0], re_encode="never")[0], atol=1e-7)


def test_eigenvectors_are_those_of_the_step(curve):
    spectrum = curve.spectrum()
    w = spectrum.weights
    multipliers = np.exp(spectrum.eigenvalues)
    np.testing.assert_allclose(curve.transition_matrix() @ w, w * multipliers, atol=1e-8)
    rows = np.linalg.inv(w)
    expected = np.linalg.norm(w, axis=0) * np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(spectrum.condition_numbers, expected, rtol=1e-5)


def test_the_largest_motion_stands_first():
    rates = np.diag([-0.2, -0.7])
    paths = flow(starts(12) * [10.0, 1.0], TIMES, rates) @ np.array([[1.0, 0.2], [0.3, 1.0]])
    spectrum = fitted(paths, TIMES).spectrum()
    assert spectrum.growth[0] == pytest.approx(-0.2, abs=1e-6)
    assert (np.diff(spectrum.explained) > -1e-9).all()
    assert spectrum.explained[-1] == pytest.approx(1.0, abs=1e-9)


def test_noise_has_no_modes_to_believe():
    random = np.random.default_rng(0).normal(size=(10, 50, 2))
    spectrum = fitted(random).spectrum()
    moving = np.abs(spectrum.eigenvalues) > 1e-9
    assert spectrum.residuals[moving].min() > 0.9
    assert spectrum.spurious[moving].all()
    assert "no such point spectrum" in spectrum.verdict


def test_noise_has_no_modes_to_believe_whatever_the_unit_of_time():
    random = np.random.default_rng(0)
    paths = random.normal(size=(10, 50, 2))
    times = 1e4 * np.cumsum(random.uniform(0.5, 1.5, size=(10, 50)), axis=1)
    spectrum = fitted(paths, times).spectrum()
    assert spectrum.residuals[spectrum.energy > 1e-6].min() > 0.5


def test_modes_that_are_kept_explain_no_more_than_they_can():
    paths, times = noisy(0.5)
    model = fitted(paths, times, basis="polynomial", degree=2, rank=1, held_out=0.0)
    rows = paths[:, :-1].reshape(-1, 2)
    mean, scale = paths.reshape(-1, 2).mean(axis=0), paths.reshape(-1, 2).std(axis=0)
    left = (rows - mean - model.encode(rows) @ model.readout_matrix()) / scale
    assert left.var(axis=0).mean() > 0.2
    assert model.spectrum().explained[-1] == pytest.approx(1.0 - left.var(axis=0).mean(), abs=0.05)


def test_rows_that_are_not_a_step_apart_are_refused(turn):
    try:
        found = turn.spectrum(TRUTH[:, ::2], TIMES[::2])
    except ArgumentError:
        return
    assert found.residuals.max() < 1e-6


def test_paths_of_another_shape_are_refused(turn):
    with pytest.raises(ShapeError, match="^paths"):
        turn.spectrum(TRUTH[:, :, :1], TIMES)
    with pytest.raises(ArgumentError, match="^times"):
        turn.spectrum(TRUTH[:, :1], TIMES[:1])


def test_without_paths_nothing_is_said_of_them(turn, tmp_path):
    turn.save(tmp_path / "model.koopflow")
    spectrum = KoopmanForecaster.load(tmp_path / "model.koopflow").spectrum()
    assert spectrum.residuals is spectrum.energy is spectrum.explained is spectrum.spurious is None
    assert "not checked" in spectrum.verdict
    assert spectrum.records()[0]["residual"] is None
    own = turn.spectrum()
    assert own.records()[0]["residual"] == own.residuals[0]
    np.testing.assert_allclose(np.sort_complex(spectrum.eigenvalues), np.sort_complex(own.eigenvalues))


def test_selections_keep_what_belongs_together(turn):
    spectrum = turn.spectrum()
    two = spectrum[spectrum.frequency != 0]
    assert len(two) == 2
    np.testing.assert_array_equal(two.eigenvalues, spectrum.eigenvalues[spectrum.frequency != 0])
    np.testing.assert_array_equal(two.modes, spectrum.modes[spectrum.frequency != 0])
    np.testing.assert_array_equal(
        two.eigenfunctions(TRUTH[0])[:, 0], spectrum.eigenfunctions(TRUTH[0])[:, :2][:, 0]
    )
    assert len(spectrum.to_frame()) == len(spectrum) == 3
    assert "3 modes of 3 observables, step 0.1" in spectrum.summary()


def test_irregular_times_have_the_rates_of_the_flow():
    random = np.random.default_rng(0)
    times = np.cumsum(random.uniform(0.05, 0.2, size=(6, 40)), axis=1)
    paths = np.stack([flow(x, own) for x, own in zip(starts(), times, strict=True)])
    spectrum = fitted(paths, times).spectrum()
    found = np.sort_complex(spectrum.eigenvalues[spectrum.frequency != 0])
    np.testing.assert_allclose(found, [-0.1 - 1.0j, -0.1 + 1.0j], atol=1e-4)
    assert spectrum.residuals.max() < 0.02


def test_modes_of_series_of_numbers_have_no_axis_of_their_own():
    series = [np.cos(0.3 * np.arange(50.0) + phase) for phase in (0.0, 1.0, 2.0)]
    spectrum = fitted(series, STEP * np.arange(50), history=2).spectrum()
    assert spectrum.modes.shape == (len(spectrum),)


def test_what_is_encoded_anew_may_be_finer_than_the_spectrum(tmp_path):
    """The state's own columns have less of a ridge than K, which is one regression with one ridge."""
    random = np.random.default_rng(0)
    x = random.uniform(-1.5, 1.5, size=(40, 2))
    rows = [x]
    for _ in range(40):
        for _ in range(10):
            # Symplectic: a pendulum.
            x = x + 0.005 * np.stack([x[:, 1], np.zeros(40)], axis=1)
            x = x - 0.01 * np.stack([np.zeros(40), np.sin(x[:, 0])], axis=1)
            x = x + 0.005 * np.stack([x[:, 1], np.zeros(40)], axis=1)
        rows.append(x)
    paths = np.stack(rows, axis=1)
    options = {"basis": "fourier", "observables": 250, "lengths": (0.5, 5.0), "re_encode": 1}
    fine, coarse = (fitted(paths, ridge=ridge, **options) for ridge in (1e-24, 1e-12))
    g = fine.encode(paths.reshape(-1, 2)).reshape(40, 41, -1)
    before, after = g[:, :-1].reshape(1600, -1), g[:, 1:].reshape(1600, -1)
    # Towards a state that stays, in units of a mean square.
    guess = np.zeros((g.shape[-1], g.shape[-1]))
    guess[[1, 2], [1, 2]] = 1.0
    gram = before.T @ before
    ridge = 1e-12 * np.trace(gram) / len(gram) * np.eye(len(gram))
    expected = guess + np.linalg.solve(gram + ridge, before.T @ (after - before @ guess))
    now = g[:5, 0]
    # Normal equations have no more digits.
    np.testing.assert_allclose(now @ fine.transition_matrix(), now @ expected, atol=5e-4)
    np.testing.assert_allclose(fine.transition_matrix(), coarse.transition_matrix(), atol=1e-12)
    ahead = 4
    truth = paths[:, ahead]
    found = [model.forecast(paths[:, 0], [ahead * fine.step_])[0] for model in (fine, coarse)]
    errors = [np.abs(states - truth).max() for states in found]
    assert errors[0] < errors[1] / 10.0
    fine.save(tmp_path / "fine.safetensors")
    loaded = KoopmanForecaster.load(tmp_path / "fine.safetensors")
    again = loaded.forecast(paths[:, 0], [ahead * fine.step_])
    np.testing.assert_array_equal(again, fine.forecast(paths[:, 0], [ahead * fine.step_]))
