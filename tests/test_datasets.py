from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from koopflow import datasets

NAMES = sorted(datasets.TWO_DIMENSIONAL)


@pytest.mark.parametrize("name", NAMES)
def test_plane_sets_are_float32_and_fixed_by_their_seed(name):
    draw = datasets.TWO_DIMENSIONAL[name]
    first, again, other = draw(500, seed=1), draw(500, seed=1), draw(500, seed=2)
    assert first.shape == (500, 2)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.isin(first[:, 0], other[:, 0]).any()


@pytest.mark.parametrize("name", NAMES)
def test_plane_sets_refuse_what_makes_no_sense(name):
    draw = datasets.TWO_DIMENSIONAL[name]
    with pytest.raises(ValueError, match="n: expected at least 1"):
        draw(0)
    with pytest.raises(ValueError, match="noise: expected at least 0"):
        draw(10, noise=-1.0)


def test_moons_without_noise_are_two_half_circles():
    points = (datasets.moons(2000, noise=0.0).astype(np.float64) + 1.0) / 3.0
    upper = np.abs(np.hypot(points[:, 0], points[:, 1]) - 1.0) < 1e-5
    lower = np.abs(np.hypot(points[:, 0] - 1.0, points[:, 1] - 0.5) - 1.0) < 1e-5
    assert np.all(upper | lower)
    assert 0.45 < (upper & (points[:, 1] >= 0)).mean() < 0.55


def test_eight_gaussians_have_eight_equal_modes():
    points = datasets.eight_gaussians(16_000, seed=4)
    angle = np.round(np.arctan2(points[:, 1], points[:, 0]) / (np.pi / 4)).astype(int) % 8
    counts = np.bincount(angle, minlength=8)
    assert counts.min() > 1800
    first = points[angle == 0]
    np.testing.assert_allclose(first.mean(axis=0), [5.0, 0.0], atol=0.05)
    np.testing.assert_allclose(first.std(axis=0), 0.1**0.5, atol=0.02)


def test_checkerboard_fills_its_dark_squares_only():
    points = datasets.checkerboard(8000)
    cell = np.floor(points / 2.0).astype(int) + 2
    counts = np.zeros((4, 4), dtype=int)
    np.add.at(counts, (cell[:, 0], cell[:, 1]), 1)
    dark = np.add.outer(np.arange(4), np.arange(4)) % 2 == 0
    assert counts[~dark].sum() == 0
    assert counts[dark].min() > 850


def test_swiss_roll_without_noise_is_a_spiral():
    points = 5.0 * datasets.swiss_roll(1000, noise=0.0).astype(np.float64)
    radius = np.hypot(points[:, 0], points[:, 1])
    np.testing.assert_allclose(np.cos(radius) * radius, points[:, 0], atol=1e-4)


def test_digits_are_those_of_scikit_learn():
    images, labels = datasets.digits()
    bunch = load_digits()
    np.testing.assert_allclose((images + 1.0) * 8.0, bunch.data)
    np.testing.assert_array_equal(labels, bunch.target)
    assert images.dtype == np.float32


def test_split_is_a_partition_that_keeps_rows_together():
    data = np.arange(50)
    train, test, train_names, test_names = datasets.split(data, data * 10, held_out=0.3, seed=7)
    assert len(test) == 15
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), data)
    np.testing.assert_array_equal(train_names, train * 10)
    np.testing.assert_array_equal(test_names, test * 10)
    assert not np.array_equal(test, datasets.split(data, held_out=0.3, seed=8)[1])


@pytest.mark.parametrize("held_out", [0, 10, 0.0, 1.5])
def test_split_refuses_an_empty_part(held_out):
    with pytest.raises(ValueError, match="held_out: expected between 1 and 9"):
        datasets.split(np.arange(10), held_out=held_out)


def test_split_refuses_arrays_of_different_length():
    with pytest.raises(ValueError, match="equal length, got 10 and 9"):
        datasets.split(np.arange(10), np.arange(9))
