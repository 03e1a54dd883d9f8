"""Particles: energies by double loops, symmetries, and samples against what calculus says of any density."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from koopflow import energies
from koopflow.exceptions import ArgumentError


def double_well_by_loops(x: np.ndarray) -> float:
    places = x.reshape(-1, 2)
    total = 0.5 * len(places) * float((places.mean(axis=0) ** 2).sum())
    for i in range(len(places)):
        for j in range(len(places)):
            if i != j:
                away = math.dist(places[i], places[j]) - 4.0
                # Half of the sum over ordered pairs, with tau = 1.
                total += 0.5 * (-4.0 * away**2 + 0.9 * away**4)
    return total


def lennard_jones_by_loops(x: np.ndarray) -> float:
    places = x.reshape(-1, 3)
    total = 0.5 * float((places**2).sum())
    for i in range(len(places)):
        for j in range(len(places)):
            if i != j:
                distance = math.dist(places[i], places[j])
                total += 0.5 * (distance**-12 - 2.0 * distance**-6)
    return total


def cluster(seed: int = 0) -> np.ndarray:
    """Thirteen particles that are neither far apart nor within 0.7 of one another."""
    corners = np.array(list(itertools.product([-1.0, 0.0, 1.0], repeat=3)))[:13]
    return (corners + np.random.default_rng(seed).uniform(-0.1, 0.1, corners.shape)).reshape(1, -1)


def configuration(name: str, seed: int = 0) -> tuple[energies.PairEnergy, torch.Tensor]:
    if name == "dw":
        places = np.random.default_rng(seed).normal(0.0, 2.5, (3, 8))
        return energies.double_well(), torch.from_numpy(places)
    return energies.lennard_jones(), torch.from_numpy(np.concatenate([cluster(k) for k in range(3)]))


def without_spring(target: energies.PairEnergy, x: torch.Tensor) -> torch.Tensor:
    places = x.reshape(len(x), target.particles, target.dimension)
    return target(x) - 0.5 * target.particles * places.mean(dim=1).square().sum(dim=1)


def assert_virial(target: energies.Energy, samples: np.ndarray) -> None:
    """The mean of x dE/dx is the dimension for any density: integrate by parts."""
    x = samples.astype(np.float64)
    virial = (x * target.gradient(x)).sum(axis=1)
    error = virial.std() / math.sqrt(len(x))
    assert abs(virial.mean() - x.shape[1]) < 4.0 * error


def test_energies_are_those_of_double_loops():
    target, x = configuration("dw")
    np.testing.assert_allclose(
        target(x.numpy()), [double_well_by_loops(row) for row in x.numpy()], rtol=1e-10
    )
    target, x = configuration("lj")
    np.testing.assert_allclose(
        target(x.numpy()), [lennard_jones_by_loops(row) for row in x.numpy()], rtol=1e-10
    )


def test_strength_counts_pairs_twice():
    x = cluster()
    single = energies.lennard_jones()(x)
    double = energies.lennard_jones(strength=2.0)(x)
    np.testing.assert_allclose(double - 0.5 * (x**2).sum(), 2.0 * (single - 0.5 * (x**2).sum()), rtol=1e-12)


@pytest.mark.parametrize("name", ["dw", "lj"])
def test_shifts_rotations_and_permutations_change_nothing(name):
    target, x = configuration(name)
    places = x.reshape(3, target.particles, target.dimension)
    expected = without_spring(target, x)
    shift = torch.arange(1.0, target.dimension + 1.0, dtype=torch.float64)
    torch.testing.assert_close(without_spring(target, (places + shift).reshape(3, -1)), expected)
    order = torch.from_numpy(np.random.default_rng(1).permutation(target.particles))
    torch.testing.assert_close(target(places[:, order].reshape(3, -1)), target(x))
    # With the spring too, and with a reflection.
    normal = np.random.default_rng(2).normal(size=(target.dimension, target.dimension))
    rotation = torch.from_numpy(np.linalg.qr(normal)[0])
    for turn in (rotation, -rotation):
        torch.testing.assert_close(target((places @ turn).reshape(3, -1)), target(x))


@pytest.mark.parametrize("name", ["dw", "lj"])
def test_particles_in_one_place_have_finite_energies_and_forces(name):
    target, x = configuration(name)
    places = x.reshape(3, target.particles, target.dimension)
    places[:, 1] = places[:, 0]
    for dtype in (torch.float32, torch.float64):
        for point in (places.reshape(3, -1), torch.zeros_like(x)):
            assert torch.isfinite(target(point.to(dtype))).all()
            assert torch.isfinite(target.gradient(point.to(dtype))).all()


@pytest.mark.parametrize(("name", "nearest"), [("dw", 0.5), ("lj", 0.7)])
def test_the_parabola_meets_the_pair_function(name, nearest):
    target = energies.double_well(2) if name == "dw" else energies.lennard_jones(2)

    def at(distance: float) -> tuple[float, float]:
        x = torch.zeros((1, target.event_shape[0]), dtype=torch.float64)
        x[0, 0] = distance
        return target(x).item(), target.gradient(x)[0, 0].item()

    (below, slope_below), (above, slope_above) = at(nearest - 1e-7), at(nearest + 1e-7)
    assert below == pytest.approx(above, abs=1e-3)
    assert slope_below == pytest.approx(slope_above, rel=1e-4)
    # Repulsive all the way down.
    heights = [at(distance)[0] for distance in np.linspace(0.0, nearest, 20)]
    assert all(np.diff(heights) < 0)


def test_log_z_of_four_double_wells_is_that_of_a_plain_average():
    # Three particles around a fourth: distances and angles are drawn uniformly, then weighted.
    rng = np.random.default_rng(0)
    n = 1_000_000
    radius, angle = rng.uniform(1.0, 7.0, (3, n)), rng.uniform(0.0, 2.0 * np.pi, (3, n))
    places = radius * np.exp(1j * angle)
    pairs = [radius[0], radius[1], radius[2]]
    pairs += [np.abs(places[i] - places[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    energy = sum(-4.0 * (pair - 4.0) ** 2 + 0.9 * (pair - 4.0) ** 4 for pair in pairs)
    weights = np.exp(-energy) * radius.prod(axis=0)
    error = weights.std() / weights.mean() / math.sqrt(n)
    assert error < 0.05
    # The centre of mass is a Gaussian of variance 1/4 in two directions.
    value = math.log(weights.mean() * (6.0 * 2.0 * math.pi) ** 3) + math.log(2.0 * math.pi / 4.0)
    target = energies.double_well()
    assert target.log_z == pytest.approx(value, abs=4.0 * error)
    assert target.log_z_error == 0.0
    assert math.isnan(energies.double_well(3).log_z)


def test_samples_of_four_double_wells_are_those_of_weighted_draws():
    samples = energies.double_well().sample(4000, seed=1)
    target = energies.double_well()
    assert_virial(target, samples)
    rng = np.random.default_rng(1)
    radius, angle = rng.uniform(1.0, 7.0, (3, 400_000)), rng.uniform(0.0, 2.0 * np.pi, (3, 400_000))
    places = radius * np.exp(1j * angle)
    inner = [np.abs(places[i] - places[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    energy = sum(-4.0 * (pair - 4.0) ** 2 + 0.9 * (pair - 4.0) ** 4 for pair in [*radius, *inner])
    weights = np.exp(-energy + energy.min()) * radius.prod(axis=0)
    weights /= weights.sum()
    spots = samples.astype(np.float64).reshape(-1, 4, 2)
    # Any pair is as good as any other: the share of near ones, and the mean distance.
    for one, other in itertools.combinations(range(4), 2):
        apart = np.linalg.norm(spots[:, one] - spots[:, other], axis=1)
        for found, drawn in (((apart < 4.0) * 1.0, (radius[0] < 4.0) * 1.0), (apart, radius[0])):
            expected = (weights * drawn).sum()
            error = np.hypot(
                found.std() / math.sqrt(len(found)),
                math.sqrt((weights**2 * (drawn - expected) ** 2).sum()),
            )
            assert abs(found.mean() - expected) < 4.0 * error
    centre = spots.mean(axis=1)
    assert np.abs(centre.mean(axis=0)).max() < 4.0 * 0.5 / math.sqrt(len(centre))
    assert np.abs((centre**2).mean(axis=0) - 0.25).max() < 4.0 * 0.25 * math.sqrt(2.0 / len(centre))


def test_samples_of_lennard_jones_have_the_virial_and_the_centre_of_calculus():
    target = energies.lennard_jones()
    samples = target.sample(100, seed=1)
    assert_virial(target, samples)
    centre = samples.astype(np.float64).reshape(-1, 13, 3).mean(axis=1)
    squares = 13.0 * (centre**2).sum(axis=1)
    assert abs(squares.mean() - 3.0) < 4.0 * math.sqrt(6.0 / len(squares))


def test_samples_of_two_double_wells_are_those_of_one_distance():
    samples = energies.double_well(2).sample(500, seed=1).astype(np.float64).reshape(-1, 2, 2)
    apart = np.linalg.norm(samples[:, 0] - samples[:, 1], axis=1)
    radius = np.linspace(0.0, 9.0, 9001)
    weights = radius * np.exp(4.0 * (radius - 4.0) ** 2 - 0.9 * (radius - 4.0) ** 4)
    weights /= weights.sum()
    far = weights[radius > 4.0].sum()
    assert abs((apart > 4.0).mean() - far) < 4.0 * math.sqrt(far * (1.0 - far) / 500)
    assert abs(apart.mean() - (weights * radius).sum()) < 4.0 * apart.std() / math.sqrt(500)


def test_senseless_particles_are_refused():
    for particles in (1, 2.5, -4):
        with pytest.raises(ArgumentError, match="particles: expected an integer of at least 2"):
            energies.double_well(particles)
        with pytest.raises(ArgumentError, match="particles: expected an integer of at least 2"):
            energies.lennard_jones(particles)
    with pytest.raises(ArgumentError, match="strength: expected a positive number"):
        energies.lennard_jones(strength=0.0)


@pytest.mark.slow
def test_log_z_of_particles_is_that_of_other_chains():
    gas, drop = energies.lennard_jones(), energies.lennard_jones(strength=2.0)
    for target, deviation in ((energies.double_well(), 2.5), (gas, 1.0), (drop, 1.0)):
        value, error = energies.annealed_log_z(target, 256, 256, seed=11, deviation=deviation)
        assert error < 0.3
        assert abs(value - target.log_z) < 4.0 * math.hypot(error, target.log_z_error)


@pytest.mark.slow
def test_samples_of_a_drop_have_the_virial_of_calculus():
    target = energies.lennard_jones(strength=2.0)
    assert_virial(target, target.sample(300, seed=1))
    assert target.name == "LJ13 of strength 2"
