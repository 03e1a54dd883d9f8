"""The pure parts of the bench of flow spectra: controls, optima, and what it counts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.linalg import expm

from experiments.benches.flow_spectrum import agreement, edits, models, tables, truncation
from experiments.benches.flow_spectrum.__main__ import parsed
from koopflow.analysis import flow_spectrum


def comparison(first, second):
    """The groups of a comparison, which is all that chance needs."""
    return SimpleNamespace(first=[np.asarray(x) for x in first], second=[np.asarray(x) for x in second])


# --- known flows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("eigenvalues", agreement.LINEAR)
def test_a_matrix_has_the_eigenvalues_that_it_was_made_of(eigenvalues):
    matrix = agreement.with_eigenvalues(eigenvalues, np.random.default_rng(0))
    found = np.linalg.eigvals(matrix)
    gaps = np.abs(np.asarray(eigenvalues)[:, None] - found)
    assert gaps.min(axis=0).max() < 1e-10
    assert gaps.min(axis=1).max() < 1e-10
    assert not np.allclose(matrix @ matrix.T, matrix.T @ matrix)
    assert np.allclose(agreement.exponential(matrix, 0.7), expm(0.7 * matrix))


def test_the_error_of_rates_is_the_worst_eigenvalues():
    matrix = agreement.with_eigenvalues((-0.5 + 2j, -0.5 - 2j), np.random.default_rng(1))
    noise, times = np.random.default_rng(2).normal(size=(128, 2)), np.linspace(0.0, 1.0, 9).tolist()
    spectrum = flow_spectrum(np.stack([noise @ expm(t * matrix) for t in times]), times=times)
    assert agreement.rate_error(spectrum, (-0.5 + 2j, -0.5 - 2j)) < 1e-6
    off = agreement.rate_error(spectrum, (-0.5 + 2.2j, -0.5 - 2.2j))
    assert off == pytest.approx(0.2 / abs(-0.5 + 2.2j), rel=1e-4)
    assert agreement.rate_error(spectrum, (1.0,)) == 1.0


# --- controls -------------------------------------------------------------------------------------


def test_turned_modes_have_the_cosine_of_chance():
    modes = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0][:5].reshape(5, 2, 12)
    found = comparison([[0, 1], [2, 3, 4]], [[0, 1, 2], [3, 4]])
    turned = agreement.turned_cosine(modes, modes, found, draws=400)
    # A pair of unit vectors in 24 dimensions has 1 / 24; two by three of them, over the larger group.
    assert turned == pytest.approx([2 / 24, 2 / 24], rel=0.1)


def test_shuffled_amplitudes_have_the_correlation_of_chance():
    random, n = np.random.default_rng(0), 50
    a, b = random.normal(size=(n, 2)), random.normal(size=(n, 3))
    a, b = (x - x.mean(axis=0) for x in (a, b))
    a, b = (x / np.linalg.norm(x, axis=0) for x in (a, b))
    seen = [((a.T @ b[random.permutation(n)]) ** 2).sum() / 3 for _ in range(4000)]
    chance = agreement.shuffled_chance(comparison([[0, 1]], [[0, 1, 2]]), n)
    assert np.mean(seen) == pytest.approx(chance[0], rel=0.05)


def test_means_weigh_groups_by_their_energy():
    assert agreement.weighted(np.array([1.0, 0.0]), np.array([0.3, 0.1])) == pytest.approx(0.75)


def test_affine_flows_are_compared_without_modes(gaussian):
    spectrum = flow_spectrum(gaussian, n=128)
    row = agreement.compared(spectrum, spectrum, shuffles=9)
    assert row["affine_points"] == row["rates"] == 0.0
    assert np.isnan([row["found"], row["cosine"], row["amplitude"]]).all()


# --- truncation -----------------------------------------------------------------------------------


def test_the_optimum_is_the_best_of_all_approximations_by_components():
    random = np.random.default_rng(0)
    times = np.array([0.0, 0.2, 0.5, 1.0])
    weights = truncation.trapezium(times)
    assert weights == pytest.approx([0.1, 0.25, 0.4, 0.25])
    rest = random.normal(size=(4, 30, 3)) * np.array([3.0, 1.0, 0.2])
    counts = (0, 1, 3, 8, 12)
    errors = truncation.optimum(rest, weights, counts)
    assert errors[0] == 1.0
    assert errors[-1] < 1e-6
    flat = (rest * np.sqrt(weights)[:, None, None]).transpose(1, 0, 2).reshape(30, 12)
    for k, error in zip(counts[1:4], errors[1:4], strict=True):
        left, values, right = np.linalg.svd(flat, full_matrices=False)
        best = flat - (left[:, :k] * values[:k]) @ right[:k]
        assert error == pytest.approx(np.linalg.norm(best) / np.linalg.norm(flat))
        other = np.linalg.qr(random.normal(size=(12, k)))[0]
        assert error < np.linalg.norm(flat - flat @ other @ other.T) / np.linalg.norm(flat)
    # The same from the other side, with fewer samples than dimensions.
    assert truncation.optimum(rest[:, :5], weights, (5,))[0] < 1e-6


def test_the_fewest_modes_are_the_first_within_the_bar():
    assert truncation.fewest([0, 2, 4], [1.0, 0.3, 0.1], 0.3) == 2.0
    assert np.isnan(truncation.fewest([0, 2], [1.0, 0.3], 0.1))


def test_errors_over_time_are_zero_with_all_modes_and_one_with_none():
    random, times = np.random.default_rng(0), np.linspace(0.0, 1.0, 9).tolist()
    noise = random.normal(size=(400, 2))
    bent = np.stack([noise + t * noise**2 @ np.array([[0.4, 0.1], [0.0, 0.3]]) for t in times])
    spectrum = flow_spectrum(bent, times=times)
    base = np.stack([spectrum.base(noise, t=t) for t in times])
    errors = truncation.over_time(
        spectrum, bent - base, spectrum.amplitudes_of_paths(bent), [0, 1, len(spectrum)]
    )
    assert errors[0] == pytest.approx(1.0)
    assert errors[-1] < 0.05
    assert errors[0] > errors[1] >= errors[-1]


# --- edits, tables, options -----------------------------------------------------------------------


def test_values_at_an_equal_change_lie_between_those_measured():
    x, y = np.array([0.0, 1.0, 3.0]), np.array([0.1, 0.5, 0.9])
    assert edits.at_equal(x, y, 2.0) == pytest.approx(0.7)
    assert edits.at_equal(x, y, 0.0) == pytest.approx(0.1)
    assert np.isnan(edits.at_equal(x, y, 4.0))


def test_a_cell_says_when_its_worst_number_misses_what_was_aimed_at():
    row = tables.Row("rates", tables.at("teachers", "rates"), bar=tables.each("<=", 0.05, 0.2))
    found = {"teachers": {"rates": [0.01, 0.1]}}
    assert row.cell("moons", found) == "**0.055 (0.010 to 0.100); aimed at <= 0.05**"
    assert row.cell("digits", found) == "0.055 (0.010 to 0.100)"
    assert row.cell("moons", {}) == "-"
    least = tables.Row("found", tables.at("teachers", "rates"), min, tables.each(">=", 0.05))
    assert least.cell("moons", found).startswith("**")


def test_errors_above_the_optimum_are_listed_by_count():
    above = tables.excess([[0.5, 0.11], [0.4, 0.1]], [[0.5, 0.1], [0.4, 0.1]])
    assert np.asarray(above) == pytest.approx(np.array([[0.0, 0.0], [0.1, 0.0]]))


def test_a_model_is_trained_once_and_kept(tmp_path):
    problem = models.Problem("line", lambda: np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32))
    first = models.Models(problem, tmp_path, teacher_steps=2, n=64).teacher(3)
    assert [file.name for file in tmp_path.iterdir()] == ["line-teacher-3-2.safetensors"]
    again = models.Models(problem, tmp_path, teacher_steps=2, n=64)
    noise = np.ones((1, 2), dtype=np.float32)
    assert np.array_equal(again.teacher(3).sample(x0=noise), first.sample(x0=noise))
    assert again.spectrum(3) is again.spectrum(3)


def test_a_quick_run_is_shorter():
    quick, whole = parsed(["--quick"]), parsed([])
    assert quick.n < whole.n
    assert whole.seeds == [0, 1, 2]
    assert len(quick.seeds) == 2
