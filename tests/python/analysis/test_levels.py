"""Directions and signatures of the feature maps of a hierarchy, by NumPy and PyTorch from its observables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colors
from sklearn.linear_model import RidgeCV

from koopflow import KoopmanDistiller, plotting
from koopflow.analysis import find_directions, measure_signatures, permutation_test
from koopflow.exceptions import ArgumentError, NonFiniteError
from koopflow.twins.generator import Observables

FILE = Path(__file__).parents[2] / "fixtures/before_redesign/student_hierarchy.safetensors"
SHAPE = (1, 4, 4)


@pytest.fixture(scope="module")
def student() -> KoopmanDistiller:
    return KoopmanDistiller.load(FILE)


@pytest.fixture(scope="module")
def spec(student):
    return student.spectrum(n=16, seed=3)


@pytest.fixture(scope="module")
def classes() -> tuple[np.ndarray, np.ndarray]:
    """Images that are bright above or below."""
    random, labels = np.random.default_rng(0), np.arange(40) % 2
    x = 0.4 * random.normal(size=(40, *SHAPE))
    x[labels == 0, :, :2] += 1.0
    x[labels == 1, :, 2:] += 1.0
    return x.astype("f4"), labels


def observables(student, x, at: float) -> np.ndarray:
    """g of the paths that end in data."""
    if at < 1.0:
        g = student.encode(1.0, x, direction="backward")
        x = student.readout(student.propagate(g, at - 1.0))
    return np.asarray(student.encode(at, x), dtype="f8")


def columns(spec, maps) -> np.ndarray:
    """Places of whole maps in observables."""
    sizes = [level.channels * level.height * level.width for level in spec]
    starts = 2 + np.cumsum([0, *sizes])
    return np.concatenate([np.arange(starts[index], starts[index + 1]) for index in maps])


def read(student, g: np.ndarray, tau: float) -> np.ndarray:
    """x of observables, carried on by the twin."""
    module, g = student.to_torch().double(), torch.from_numpy(g)
    with torch.no_grad():
        start = Observables(g[:, 1], g[:, :0], g[:, 2:])
        x = module.readout(module.generator(start, torch.tensor([tau], dtype=torch.float64)))
    return x[0].reshape(-1, *SHAPE).numpy()


@pytest.mark.parametrize("at", [0.4, 1.0])
def test_a_direction_of_a_level_moves_that_level_alone(student, spec, classes, at):
    x, labels = classes
    coarse = spec.select(levels=-1)
    directions = find_directions(coarse, x, labels=labels, at=at)
    g = observables(student, x, at)
    own = columns(spec, [2, 3, 4])
    # The pattern of a ridge regression, by what it says of each sample.
    features = g[:, own] - g[:, own].mean(axis=0)
    features /= np.maximum(features.std(axis=0), 1e-12)
    target = (labels == 1).astype(float)
    fitted = RidgeCV(np.logspace(-3, 4, 15)).fit(features, target).predict(features)
    fitted -= fitted.mean()
    pattern = fitted @ (g[:, own] - g[:, own].mean(axis=0)) / (fitted**2).sum()
    moved = np.zeros(g.shape[1])
    moved[own] = pattern
    # The order of columns is the selection's own.
    everywhere = np.zeros(g.shape[1])
    everywhere[coarse._movable()] = directions.shifts[1]
    np.testing.assert_allclose(everywhere, moved, rtol=0, atol=1e-5 * np.abs(moved).max())
    # What the twin makes of them, and data as they are where nothing moves.
    expected = x + read(student, g + 1.5 * moved, 1.0 - at) - read(student, g, 1.0 - at)
    np.testing.assert_allclose(directions.edit(x, 1, 1.5), expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(directions.edit(x, 1, 0.0, project=True), x)
    x0 = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype("f4")
    np.testing.assert_array_equal(directions.sweep(x0=x0, name=0, strengths=[0.0])[0].shape, x0.shape)
    # With the whole regularisation gone it would be the difference of class means: the same sign, about.
    means = g[labels == 1][:, own].mean(axis=0) - g[labels == 0][:, own].mean(axis=0)
    assert np.corrcoef(pattern, means)[0, 1] > 0.9


def test_a_band_of_a_level_leaves_the_rest(student, spec, classes):
    x, labels = classes
    band = spec.select(maps="middle", frequency=(1e-6, 1e9))
    directions = find_directions(band, x, labels=labels, at=1.0)
    moved = directions.edit(x0=x[:4], name=1)
    # Real eigenfunctions of the middle and all other maps are those of the sample.
    level, places = spec[4], band._movable()
    pairs = int((level.frequency > 0).sum())
    pixels = level.height * level.width
    start = columns(spec, [4])[0]
    np.testing.assert_array_equal(np.sort(places), start + np.arange(2 * pairs * pixels))
    g = np.asarray(student.encode(0.0, x[:4]), dtype="f8")
    shift = np.zeros(g.shape[1])
    shift[places] = directions.shifts[1]
    end = np.asarray(student.propagate(g, 1.0), dtype="f8")
    np.testing.assert_allclose(moved, read(student, end + shift, 0.0), rtol=0, atol=2e-5)


def test_the_image_of_a_direction_is_at_the_mean(student, spec, classes):
    x, labels = classes
    part = spec[[0, 4]]
    directions = find_directions(part, x, labels=labels, at=0.6)
    # The mean of all eigenfunctions is where no gain leaves every sample.
    mean = student.edit(x0=x[:1], modes=spec, scale=0.0)
    g = np.concatenate([[1.0, 0.6], *(level.mean_features(0.6) for level in spec)])
    np.testing.assert_allclose(read(student, g[None], 0.4), mean, rtol=0, atol=2e-5)
    shifted = g.copy()
    shifted[part._movable()] += directions.shifts[0]
    expected = read(student, shifted[None], 0.4) - read(student, g[None], 0.4)
    np.testing.assert_allclose(directions.image(0), expected[0], rtol=0, atol=2e-5)


def test_signatures_are_sizes_over_pixels(student, spec, classes):
    x, labels = classes
    part = spec.select(maps=[1, 4], growth=(0.2, 9.0))
    signatures = measure_signatures(part, x, labels, times=(0.5, 1.0))
    assert signatures.magnitudes.shape == (40, 2, len(part.places))
    for place, t in enumerate((0.5, 1.0)):
        states = part.states_at(x, t)
        psi = [part.eigenfunctions(t, states, index) for index in range(2)]
        sizes = np.concatenate([np.sqrt((np.abs(one) ** 2).mean(axis=(2, 3))) for one in psi], axis=1)
        np.testing.assert_allclose(signatures.magnitudes[:, place], sizes, rtol=1e-4, atol=1e-6)
    assert signatures.classify(x[:3]).shape == (3,)
    assert permutation_test(signatures, 19).shape == (2, 2)
    assert plotting.signatures(signatures).get_xticklabels()[0].get_text() in part.indices


def test_pictures_of_levels(spec, student):
    x0 = np.random.default_rng(2).normal(size=(3, *SHAPE)).astype("f4")
    ax = plotting.level_build_up(spec, x0, title="Levels")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2x2", "+ 4x4"]
    drawn = ax.images[0].get_array()
    np.testing.assert_allclose(drawn[1:5, 6:10], student.sample(x0=x0[:1])[0, 0], atol=1e-6)
    coarse = student.sample(x0=x0[1:2], modes=spec.select(levels=-1))
    np.testing.assert_allclose(drawn[6:10, 1:5], coarse[0, 0], atol=1e-6)
    assert len(plotting.level_build_up(spec, x0, by="map").get_xticklabels()) == 5
    assert len(plotting.level_eigenvalues(spec[2:]).get_legend().get_texts()) == 1
    assert plotting.truncation(spec, x0, counts=[0, 4]).get_xlim()[1] > 4
    with pytest.raises(TypeError, match="spectrum: expected a LevelSpectrum, got int"):
        plotting.level_build_up(3, x0)
    with pytest.raises(ArgumentError, match="by"):
        plotting.level_build_up(spec, x0, by="channel")
    # Colour images are drawn in colour.
    sweep = np.zeros((2, 3, 3, 4, 4))
    sweep[:, :, 0] = 1.0
    picture = plotting.edit_strip(sweep).images[0].get_array()
    assert picture.shape == (16, 11, 3)
    np.testing.assert_allclose(picture[1, 1], colors.to_rgb("#ff8080"), atol=0.01)


def test_what_no_direction_is_found_of_is_refused(spec, classes):
    x, labels = classes
    with pytest.raises(NonFiniteError, match="x"):
        find_directions(spec, np.where(x > 1.0, np.nan, x), labels=labels, at=0.5)
    with pytest.raises(TypeError, match="spectrum: expected a Spectrum or FlowSpectrum or LevelSpectrum"):
        find_directions(None, x, labels=labels)
