"""Targets that quadrature knows: constants and moments against SciPy, published numbers and plain sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from koopflow import energies
from koopflow.exceptions import ArgumentError, NonFiniteError, ShapeError


def muller_brown(x: float, y: float) -> float:
    """The potential as Müller and Brown print it."""
    return (
        -200 * math.exp(-((x - 1) ** 2) - 10 * y**2)
        - 100 * math.exp(-(x**2) - 10 * (y - 0.5) ** 2)
        - 170 * math.exp(-6.5 * (x + 0.5) ** 2 + 11 * (x + 0.5) * (y - 1.5) - 6.5 * (y - 1.5) ** 2)
        + 15 * math.exp(0.7 * (x + 1) ** 2 + 0.6 * (x + 1) * (y - 1) + 0.7 * (y - 1) ** 2)
    )


def well(x: float) -> float:
    return x**4 - 6 * x**2 - 0.5 * x


def assert_means(samples: np.ndarray, expected: np.ndarray) -> None:
    """The means of independent rows are within four standard errors of what they should be."""
    error = samples.std(axis=0) / math.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(axis=0) - expected) < 4.0 * error)


class TestMullerBrown:
    def test_it_is_the_printed_formula(self):
        points = np.random.default_rng(0).uniform(-1.5, 1.5, (20, 2))
        expected = [muller_brown(x, y) / 20 for x, y in points]
        np.testing.assert_allclose(energies.muller_brown()(points), expected, rtol=1e-12)

    def test_minima_and_passes_are_where_the_documentation_says(self):
        target = energies.muller_brown(1.0)
        places = np.array([[-0.558, 1.442], [0.623, 0.028], [-0.050, 0.467], [-0.822, 0.624], [0.212, 0.293]])
        np.testing.assert_allclose(target(places), [-146.7, -108.2, -80.8, -40.7, -72.2], atol=0.1)
        assert np.abs(target.gradient(places)).max() < 2.0

    @pytest.mark.parametrize("temperature", [5.0, 20.0])
    def test_log_z_is_that_of_an_adaptive_quadrature(self, temperature):
        def density(y: float, x: float) -> float:
            return math.exp(-(muller_brown(x, y) + 146.7) / temperature)

        value = sum(
            integrate.dblquad(density, x, x + 1.0, -1.5, 3.5, epsabs=1e-8, epsrel=1e-8)[0]
            for x in (-3.0, -2.0, -1.0, 0.0, 1.0)
        )
        assert energies.muller_brown(temperature).log_z == pytest.approx(
            math.log(value) + 146.7 / temperature, abs=1e-6
        )
        assert energies.muller_brown(temperature).log_z_error == 0.0

    def test_samples_have_the_moments_of_a_plain_sum(self):
        x = np.linspace(-3.5, 2.0, 551)
        y = np.linspace(-1.5, 3.5, 501)
        weights = np.exp([[-muller_brown(a, b) / 20 for b in y] for a in x])
        weights /= weights.sum()
        a, b = np.meshgrid(x, y, indexing="ij")
        functions = [
            lambda a, b: a,
            lambda a, b: b,
            lambda a, b: a * a,
            lambda a, b: a * b,
            lambda a, b: b * b,
        ]
        # The share on the side of the deepest minimum.
        functions.append(lambda a, b: (b > 0.8 + 0.5 * a) * 1.0)
        samples = energies.muller_brown().sample(40_000, seed=2).astype(np.float64)
        found = np.stack([function(*samples.T) for function in functions], axis=1)
        assert_means(found, np.array([(weights * function(a, b)).sum() for function in functions]))

    def test_tails_go_on_as_tangents(self):
        target = energies.muller_brown()
        # The exponent of the last term is 0.7 t^2 at (t - 1, 1).
        for exponent in (19.999, 20.001):
            place = torch.tensor([[math.sqrt(exponent / 0.7) - 1.0, 1.0]], dtype=torch.float64)
            assert target(place).item() == pytest.approx(15.0 / 20.0 * math.exp(exponent), rel=1e-5)
            slope = 2.0 * math.sqrt(0.7 * exponent) * 15.0 / 20.0 * math.exp(exponent)
            assert target.gradient(place)[0, 0].item() == pytest.approx(slope, rel=2e-3)

    def test_senseless_temperatures_are_refused(self):
        for temperature in (0.5, -1.0, math.nan, math.inf):
            with pytest.raises(ArgumentError, match="temperature: expected"):
                energies.muller_brown(temperature)


class TestManyWell:
    def test_it_is_the_printed_formula(self):
        points = np.random.default_rng(0).uniform(-2.0, 2.0, (5, 6))
        expected = [sum(well(p[i]) + 0.5 * p[i + 1] ** 2 for i in (0, 2, 4)) for p in points]
        np.testing.assert_allclose(energies.many_well(6)(points), expected, rtol=1e-12)

    def test_log_z_is_that_of_an_adaptive_quadrature_and_of_fab(self):
        found = energies.many_well(32)
        one = integrate.quad(lambda x: math.exp(-well(x)), -5.0, 5.0, epsabs=1e-10, points=[-1.7, 0, 1.7])[0]
        gaussian = 0.5 * math.log(2 * math.pi)
        assert found.log_z == pytest.approx(16 * (math.log(one) + gaussian), abs=1e-9)
        # The constant in FAB's code.
        assert found.log_z == pytest.approx(16 * (math.log(11784.50927) + gaussian), abs=1e-6)
        assert found.log_z_error == 0.0

    def test_samples_have_the_moments_of_quadrature(self):
        samples = energies.many_well(4).sample(40_000, seed=1).astype(np.float64)
        total = integrate.quad(lambda x: math.exp(-well(x)), -5.0, 5.0)[0]
        moments = [
            integrate.quad(lambda x, k=k: x**k * math.exp(-well(x)), -5.0, 5.0)[0] / total
            for k in (1, 2, 3, 4)
        ]
        right = integrate.quad(lambda x: math.exp(-well(x)), 0.0, 5.0)[0] / total
        for first in (samples[:, 0], samples[:, 2]):
            assert_means(np.stack([first**k for k in (1, 2, 3, 4)], axis=1), np.array(moments))
            assert_means((first[:, None] > 0).astype(np.float64), np.array([right]))
        assert_means(samples[:, [1, 3]], np.zeros(2))
        assert_means(samples[:, [1, 3]] ** 2, np.ones(2))
        # The wells are independent of one another.
        assert_means((samples[:, :1] > 0) * (samples[:, 2:3] > 0.0) * 1.0, np.array([right**2]))

    def test_odd_dimensions_are_refused(self):
        for dimension in (3, 0, 2.5):
            with pytest.raises(ArgumentError, match="dimension: expected"):
                energies.many_well(dimension)


class TestMixture:
    def test_the_forty_modes_are_those_of_published_lists(self):
        target = energies.gmm40()
        listed = [[-0.2995, 21.4577], [-32.9218, -29.4376], [-15.4062, 10.7263], [-0.7925, 31.7156]]
        listed += [[-3.5498, 10.5845], [-12.0885, -7.8626], [-38.2139, -26.4913], [-16.4889, 1.4817]]
        np.testing.assert_allclose(target.means[:8], listed, atol=1e-4)
        assert target.means.shape == (40, 2)
        assert np.abs(target.means).max() <= 40.0
        assert target.deviation == pytest.approx(1.3133, abs=1e-4)

    def test_it_is_minus_a_log_density_of_torch(self):
        target = energies.gmm40()
        choice = torch.distributions.Categorical(torch.ones(40, dtype=torch.float64))
        normal = torch.distributions.Normal(torch.from_numpy(target.means), target.deviation)
        mixture = torch.distributions.MixtureSameFamily(choice, torch.distributions.Independent(normal, 1))
        x = torch.from_numpy(np.random.default_rng(0).uniform(-45.0, 45.0, (50, 2)))
        torch.testing.assert_close(target(x), -mixture.log_prob(x), rtol=1e-12, atol=1e-12)

    def test_log_z_is_zero_by_a_plain_sum(self):
        target = energies.gmm40()
        ticks = np.arange(-50.0, 50.0, 0.5)
        grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
        assert math.log(np.exp(-target(grid)).sum() * 0.25) == pytest.approx(0.0, abs=1e-9)
        assert (target.log_z, target.log_z_error) == (0.0, 0.0)

    def test_samples_have_the_moments_of_the_means(self):
        target = energies.GaussianMixture([[-3.0, 0.0, 1.0], [4.0, 1.0, 1.0]], 0.5)
        samples = target.sample(20_000, seed=1).astype(np.float64)
        assert_means(samples, target.means.mean(axis=0))
        second = target.means.T @ target.means / 2 + 0.25 * np.eye(3)
        products = (samples[:, :, None] * samples[:, None]).reshape(-1, 9)
        assert_means(products, second.ravel())

    def test_senseless_mixtures_are_refused(self):
        with pytest.raises(ShapeError, match="means: expected"):
            energies.GaussianMixture([1.0, 2.0])
        with pytest.raises(NonFiniteError, match="means: "):
            energies.GaussianMixture([[math.nan]])
        with pytest.raises(ArgumentError, match="deviation: expected a positive number"):
            energies.GaussianMixture([[0.0]], 0.0)
