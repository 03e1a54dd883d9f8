"""The lattice: symmetries, the action by loops, and a small torus whose integral is a trace."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from koopflow import energies
from koopflow.exceptions import ArgumentError


def by_loops(field: np.ndarray, mass: float, coupling: float) -> float:
    side, total = len(field), 0.0
    for i in range(side):
        for j in range(side):
            here = field[i, j]
            total += (field[(i + 1) % side, j] - here) ** 2 + (field[i, (j + 1) % side] - here) ** 2
            total += mass * here**2 + coupling * here**4
    return total


def test_the_action_is_that_of_loops():
    fields = np.random.default_rng(0).normal(size=(3, 5, 5))
    target = energies.phi4(5, -3.0, 2.0)
    expected = [by_loops(field, -3.0, 2.0) for field in fields]
    np.testing.assert_allclose(target(fields.reshape(3, 25)), expected, rtol=1e-12)


def test_the_sign_shifts_and_turns_change_nothing():
    fields = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 8, 8)))
    target = energies.phi4()
    expected = target(fields.flatten(1))
    others = [-fields, fields.roll((3, 5), (1, 2)), fields.transpose(1, 2), fields.flip(1)]
    for other in others:
        torch.testing.assert_close(target(other.flatten(1)), expected)


def small_torus(power: int = 0) -> float:
    """The integral over the fields of a 2 x 2 torus, with a power of one site: the trace of a matrix.

    The torus is a ring of four sites, and two links join neighbours.
    """
    x = np.linspace(-2.5, 2.5, 401)
    site = np.exp(4.0 * x**2 - 8.0 * x**4) * (x[1] - x[0])
    link = np.exp(-2.0 * (x[:, None] - x[None, :]) ** 2)
    step = np.sqrt(site)[:, None] * link * np.sqrt(site)
    return float(np.trace(np.diag(x**power) @ np.linalg.matrix_power(step, 4)))


def test_log_z_of_a_small_torus_is_a_trace():
    value, error = energies.annealed_log_z(energies.phi4(2), 1024, 24, seed=1, deviation=0.4)
    assert error < 0.03
    assert abs(value - math.log(small_torus())) < 4.0 * error
    assert math.isnan(energies.phi4(2).log_z)


def test_samples_of_a_small_torus_have_the_moments_of_a_trace():
    samples = energies.phi4(2).sample(1000, seed=1).astype(np.float64)
    for power in (2, 4):
        found = (samples**power).mean(axis=1)
        expected = small_torus(power) / small_torus()
        assert abs(found.mean() - expected) < 4.0 * found.std() / math.sqrt(len(found))


def test_samples_have_the_virial_of_calculus_and_both_signs():
    target = energies.phi4()
    x = target.sample(400, seed=1).astype(np.float64)
    virial = (x * target.gradient(x)).sum(axis=1)
    assert abs(virial.mean() - 64.0) < 4.0 * virial.std() / math.sqrt(len(x))
    means = x.mean(axis=1)
    assert abs(means.mean()) < 4.0 * means.std() / math.sqrt(len(x))


def test_more_samples_than_chains_go_on_along_them():
    target = energies.phi4(2)
    x = target.sample(2500, seed=2).astype(np.float64)
    assert len(np.unique(x, axis=0)) > 2400
    # Sites of the same chain, one reading later.
    for site in range(4):
        assert abs(np.corrcoef(x[:1024, site], x[1024:2048, site])[0, 1]) < 0.15


def test_log_z_is_that_of_integrating_the_links():
    """From sites without links, of which quadrature knows the integral, to the lattice, link by link."""
    x = np.linspace(-3.0, 3.0, 6001)
    alone = 64.0 * math.log(np.exp(4.0 * x**2 - 8.0 * x**4).sum() * (x[1] - x[0]))

    def links(field: torch.Tensor) -> torch.Tensor:
        square = field.reshape(-1, 8, 8)
        return sum((square.roll(1, axis) - square).square().sum(dim=(1, 2)) for axis in (1, 2))

    nodes, weights = np.polynomial.legendre.leggauss(6)
    value, variance = alone, 0.0
    state = 0.4 * torch.randn((128, 64), generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for node, weight in zip(0.5 * (nodes + 1.0), 0.5 * weights, strict=True):

        def potential(field: torch.Tensor, node: float = node) -> torch.Tensor:
            squares = field.square()
            return node * links(field) + (squares * (8.0 * squares - 4.0)).sum(dim=1)

        chain = energies.hybrid_monte_carlo(potential, state, moves=40, burn_in=30, every=2, leapfrog=6)
        means = torch.stack([links(field) for field in chain]).mean(dim=0)
        value -= weight * means.mean().item()
        variance += weight**2 * means.var().item() / len(means)
        state = chain[-1]
    target = energies.phi4()
    assert math.sqrt(variance) < 0.1
    assert abs(value - target.log_z) < 4.0 * math.hypot(math.sqrt(variance), target.log_z_error)
    assert 0.0 < target.log_z_error < 0.02


def test_senseless_lattices_are_refused():
    with pytest.raises(ArgumentError, match="side: expected an integer of at least 2"):
        energies.phi4(1)
    with pytest.raises(ArgumentError, match="coupling: expected a positive number"):
        energies.phi4(coupling=0.0)
    with pytest.raises(ArgumentError, match="mass: expected a finite number"):
        energies.phi4(mass=math.inf)
