"""Flows in phase space: the conditional law, the exact rate of positions, samples, twins and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, datasets
from koopflow.exceptions import ArgumentError, ShapeError
from koopflow.metrics import wasserstein2

SMALL = {"width": 48, "depth": 2, "steps": 800, "progress": False}


@pytest.fixture(scope="module")
def moons() -> FlowTeacher:
    return FlowTeacher.phase(datasets.moons(4000) / 3.0, **SMALL)


def test_positions_move_by_their_velocities(moons):
    states = np.random.default_rng(0).standard_normal((50, 2, 2)).astype(np.float32)
    times = np.linspace(0.0, 1.0, 50)
    rates = moons.velocity(times, states)
    np.testing.assert_allclose(rates[:, 0], states[:, 1], atol=1e-5)
    assert moons.event_shape_ == (2, 2)
    assert moons.training_data_ is None


def test_positions_end_at_the_data(moons):
    held_out = datasets.moons(2000, seed=1) / 3.0
    floor = wasserstein2(held_out, datasets.moons(2000, seed=2) / 3.0)
    samples = moons.sample(2000)[:, 0]
    assert wasserstein2(samples, held_out) < floor + 0.15


def test_the_field_of_one_point_is_its_own_curve():
    """Of a single datum the state alone tells the acceleration, 3 (q - p - (1 - t) w) / (1 - t)^2."""
    datum = np.array([[0.7, -0.4]], dtype=np.float32)
    teacher = FlowTeacher.phase(datum, width=64, depth=2, steps=3000, progress=False)
    rng = np.random.default_rng(0)
    start = rng.standard_normal((400, 2, 2)).astype(np.float32)
    jump = datum - start[:, 0] - start[:, 1]
    for t in (0.25, 0.5, 0.75):
        position = start[:, 0] + t * start[:, 1] + (3 * t**2 - t**3) / 2 * jump
        velocity = start[:, 1] + (3 * t - 1.5 * t**2) * jump
        states = np.stack([position, velocity], axis=1)
        exact = 3.0 * (1.0 - t) * jump
        again = 3.0 * (datum - position - (1.0 - t) * velocity) / (1.0 - t) ** 2
        np.testing.assert_allclose(again, exact, atol=1e-4)
        gap = teacher.velocity(t, states)[:, 1] - exact
        assert np.sqrt((gap**2).mean() / (exact**2).mean()) < 0.25


def test_twins_and_files_answer_alike(moons, tmp_path):
    states, times = moons.sample(20), np.linspace(0.0, 1.0, 20)
    module = moons.to_torch()
    twin = module(torch.from_numpy(times).float(), torch.from_numpy(states)).detach()
    np.testing.assert_allclose(twin, moons.velocity(times, states), atol=1e-4)
    moons.save(tmp_path / "phase.safetensors")
    again = FlowTeacher.load(tmp_path / "phase.safetensors")
    np.testing.assert_array_equal(again.velocity(times, states), moons.velocity(times, states))


@pytest.mark.parametrize(
    ("options", "name"),
    [({"path": "vp"}, "path"), ({"source": np.zeros((5, 2))}, "source"), ({"network": "unet"}, "network")],
)
def test_options_without_a_use_are_named(options, name):
    with pytest.raises(ArgumentError, match=f"{name}: expected"):
        FlowTeacher.phase(datasets.moons(50), **options)


def test_data_are_checked():
    with pytest.raises(ShapeError, match="data: expected shape"):
        FlowTeacher.phase(np.zeros(5))
