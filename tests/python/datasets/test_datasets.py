from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from koopflow import datasets
from koopflow.exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError

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
    for n in (0, -3, 2.5):
        with pytest.raises(ArgumentError, match="n: expected an integer of at least 1"):
            draw(n)
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


def test_tree_without_noise_lies_on_its_branches():
    points = datasets.tree(20_000, noise=0.0).astype(np.float64)
    trunk = points[points[:, 1] < -0.9 - 1e-5]
    np.testing.assert_allclose(trunk[:, 0], 0.0, atol=1e-5)
    # Of length 2.1, and each level of branches has 4/3 the length of the one before.
    share = 2.1 / sum(2.1 * (4.0 / 3.0) ** level for level in range(7))
    assert abs(len(trunk) / 20_000 - share) < 0.01
    np.testing.assert_allclose(points[:, 0].mean(), 0.0, atol=0.05)


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


def test_digits_as_images_keep_their_pixels_and_their_means():
    flat, labels = datasets.digits()
    small, same = datasets.digits(size=8)
    np.testing.assert_array_equal(small, flat.reshape(1797, 1, 8, 8))
    np.testing.assert_array_equal(same, labels)
    for size in (16, 28):
        images, _ = datasets.digits(size=size)
        assert images.shape == (1797, 1, size, size)
        assert images.dtype == np.float32
        assert images.min() >= -1.0
        assert images.max() <= 1.0
        # Upscaling keeps the light of each image, but for overshoot that is cut off, and is smooth: no pixel
        # is a plain copy of the one beside it.
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), flat.mean(axis=1), atol=0.05)
        assert np.corrcoef(images[:, 0, size // 2, size // 2], small[:, 0, 4, 4])[0, 1] > 0.8
    bright = datasets.digits(size=16)[0][0, 0, 8]
    assert len(np.unique(bright)) > 8


@pytest.mark.parametrize("size", [7, 0, 16.0, True])
def test_digits_refuse_other_sizes(size):
    with pytest.raises(ArgumentError, match="size: expected an integer of at least 8"):
        datasets.digits(size=size)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32])
def test_numpy_integers_are_integers(kind):
    assert datasets.digits(size=kind(16))[0].shape == (1797, 1, 16, 16)
    images = np.zeros((2, 1, 8, 8), np.float32)
    assert datasets.resize(images, kind(4)).shape == (2, 1, 4, 4)
    assert datasets.resize(images, (kind(4), kind(6))).shape == (2, 1, 4, 6)
    assert datasets.resize(images, [4, 6]).shape == (2, 1, 4, 6)
    for own, given in ((25, kind(25)), (0.25, np.float32(0.25))):
        expected = datasets.split(np.arange(100), held_out=own)
        parts = datasets.split(np.arange(100), held_out=given)
        assert [len(part) for part in parts] == [75, 25]
        np.testing.assert_array_equal(parts[1], expected[1])
    np.testing.assert_array_equal(datasets.moons(kind(5), seed=kind(3)), datasets.moons(5, seed=3))


def test_bytes_come_back():
    levels = np.arange(256, dtype=np.uint8).reshape(2, 2, 8, 8)
    images = levels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)
    for given in (images, torch.from_numpy(images), images.astype(np.float64)):
        back = datasets.to_uint8(given)
        assert back.dtype == np.uint8
        np.testing.assert_array_equal(back, np.moveaxis(levels, 1, 3))
    beyond = datasets.to_uint8(np.array([-7.0, 7.0]).reshape(1, 1, 1, 2))
    assert beyond.ravel().tolist() == [0, 255]


@pytest.mark.parametrize(
    ("images", "kind", "message"),
    [
        (np.zeros((2, 8, 8)), ShapeError, r"images: expected shape \(N, C, H, W\)"),
        (np.zeros((0, 1, 8, 8)), ShapeError, "none of them 0"),
        (np.zeros((2, 1, 8, 8), np.uint8), DtypeError, "floating-point array, got uint8"),
        (np.full((2, 1, 8, 8), np.nan), NonFiniteError, "images: expected finite"),
    ],
)
def test_to_uint8_refuses_what_are_no_images(images, kind, message):
    with pytest.raises(kind, match=message):
        datasets.to_uint8(images)


def test_resize_by_boxes_takes_means():
    images = np.random.default_rng(0).uniform(-1, 1, (1500, 2, 4, 6)).astype(np.float32)
    small = datasets.resize(images, (2, 3), resample="box")
    np.testing.assert_allclose(small, images.reshape(1500, 2, 2, 2, 3, 2).mean(axis=(3, 5)), atol=1e-6)
    large = datasets.resize(torch.from_numpy(images[:2]), (8, 12), resample="box")
    np.testing.assert_array_equal(large.numpy(), images[:2].repeat(2, axis=2).repeat(2, axis=3))


def test_smooth_resizing_follows_a_ramp_and_stays_in_range():
    ramp = np.linspace(-1, 1, 32, dtype=np.float32) * np.ones((1, 1, 32, 1), np.float32)
    # Centres of the new pixels, in the old ones; two at each end feel the edge.
    centres = np.interp((np.arange(8) + 0.5) * 4 - 0.5, np.arange(32), ramp[0, 0, 0])
    small = datasets.resize(ramp, 8)
    np.testing.assert_allclose(small[0, 0, 4, 2:-2], centres[2:-2], atol=1e-3)
    step = np.where(np.arange(8) < 4, -1.0, 1.0) * np.ones((1, 3, 8, 1))
    large = datasets.resize(step, 20)
    assert large.dtype == np.float64
    assert (large.min(), large.max()) == (-1.0, 1.0)


def test_resizing_cuts_the_middle_out_of_another_shape():
    wide = np.arange(12.0).reshape(1, 1, 2, 6) / 12
    np.testing.assert_allclose(datasets.resize(wide, 2, resample="box"), wide[:, :, :, 2:4])
    np.testing.assert_allclose(
        datasets.resize(wide.swapaxes(2, 3), 2, resample="box")[0, 0], wide[0, 0, :, 2:4].T
    )
    np.testing.assert_allclose(
        datasets.resize(wide, (1, 3), resample="box").ravel(), [3.5 / 12, 5.5 / 12, 7.5 / 12]
    )


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (0, {}, "size: expected an integer of at least 1"),
        ((4, 4, 4), {}, "size: expected"),
        (4.0, {}, "size: expected"),
        ("44", {}, "size: expected"),
        (4, {"resample": "sinc"}, "resample: expected 'bicubic' or 'box', got 'sinc'"),
    ],
)
def test_resize_names_a_wrong_option(size, options, message):
    with pytest.raises(ArgumentError, match=message):
        datasets.resize(np.zeros((1, 1, 8, 8)), size, **options)


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
