"""Hybrid Monte Carlo and annealing on densities that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from koopflow import energies
from koopflow.exceptions import ArgumentError

COVARIANCE = torch.tensor([[2.0, 0.9, 0.0], [0.9, 1.0, 0.2], [0.0, 0.2, 0.3]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


class Gaussian(energies.Energy):
    """A correlated Gaussian that is off the origin, with a height of its own."""

    HEIGHT = 3.0

    def __init__(self) -> None:
        super().__init__("Gaussian", (3,))

    @property
    def log_z(self) -> float:
        return self.HEIGHT + 0.5 * torch.logdet(2.0 * math.pi * COVARIANCE).item()

    def _energy(self, x: torch.Tensor) -> torch.Tensor:
        away = x - MEAN.to(x)
        return 0.5 * (away @ torch.linalg.inv(COVARIANCE).to(x) * away).sum(dim=1) - self.HEIGHT

    def _draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return rng.multivariate_normal(MEAN.numpy(), COVARIANCE.numpy(), n)


def test_hybrid_monte_carlo_has_the_mean_and_covariance_of_a_gaussian():
    start = torch.zeros((400, 3), dtype=torch.float64)
    chains = energies.hybrid_monte_carlo(Gaussian(), start, moves=200, burn_in=100, every=10, seed=1)
    assert chains.shape == (20, 400, 3)
    away = chains - MEAN
    # Chains are independent of one another: their means tell the error.
    means = away.mean(dim=0)
    assert (means.mean(dim=0).abs() < 4.0 * means.std(dim=0) / 20.0).all()
    products = (away[..., :, None] * away[..., None, :]).mean(dim=0)
    error = products.std(dim=0) / 20.0
    assert ((products.mean(dim=0) - COVARIANCE).abs() < 4.0 * error).all()
    assert error.max() < 0.1


def test_a_step_that_is_too_long_is_only_rejected():
    # Leapfrog is unstable here; what is accepted is right nevertheless.
    start = torch.ones((3, 1), dtype=torch.float64)

    def quartic(x: torch.Tensor) -> torch.Tensor:
        return x.pow(4).sum(dim=1)

    chains = energies.hybrid_monte_carlo(quartic, start, moves=3, burn_in=0, leapfrog=20, step=50.0, seed=0)
    assert torch.equal(chains, start.expand(3, 3, 1))


def test_chains_take_any_event_shape_and_are_fixed_by_their_seed():
    def image(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x.flatten(1).square().sum(dim=1)

    start = torch.zeros((5, 2, 3), dtype=torch.float64)
    first, again, other = (
        energies.hybrid_monte_carlo(image, start, moves=4, burn_in=2, seed=seed) for seed in (1, 1, 2)
    )
    assert first.shape == (4, 5, 2, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert energies.hybrid_monte_carlo(image, start, moves=1, every=2).shape == (0, 5, 2, 3)


def test_senseless_chains_are_refused():
    start = torch.zeros((5, 3), dtype=torch.float64)
    for name, value in [("moves", 0), ("every", 0), ("burn_in", -1), ("leapfrog", 0), ("seed", -1)]:
        with pytest.raises(ArgumentError, match=f"{name}: expected"):
            energies.hybrid_monte_carlo(Gaussian(), start, **{"moves": 1, name: value})
    for name, value in [("n", 0), ("temperatures", 1), ("leapfrog", 0), ("seed", -1), ("deviation", 0.0)]:
        with pytest.raises(ArgumentError, match=f"{name}: expected"):
            energies.annealed_log_z(Gaussian(), **{name: value})


def test_annealing_finds_log_z_of_a_gaussian():
    target = Gaussian()
    value, error = energies.annealed_log_z(target, 1024, 48, seed=1, deviation=1.5)
    assert error < 0.03
    assert abs(value - target.log_z) < 4.0 * error


def test_annealing_finds_log_z_of_many_well():
    target = energies.many_well(4)
    value, error = energies.annealed_log_z(target, 2048, 64, seed=1, deviation=1.5)
    assert error < 0.05
    assert abs(value - target.log_z) < 4.0 * error


def test_errors_of_annealing_are_those_of_repeated_runs():
    target = Gaussian()
    runs = [energies.annealed_log_z(target, 128, 12, seed=seed, deviation=1.5) for seed in range(16)]
    misses = np.array([(value - target.log_z) / error for value, error in runs])
    assert 0.5 < misses.std() < 1.6
    assert abs(misses.mean()) < 1.0


def test_annealing_is_fixed_by_its_seed():
    first, again, other = (energies.annealed_log_z(Gaussian(), 16, 4, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert math.isnan(energies.annealed_log_z(Gaussian(), 1, 4)[1])
