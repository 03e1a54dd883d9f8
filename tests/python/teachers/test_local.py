"""Local flow matching: the noising process, blocks and their chain."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import FlowTeacher, datasets
from koopflow.exceptions import ArgumentError
from koopflow.metrics import wasserstein2
from koopflow.teachers.local import _Noising

SMALL = {"width": 32, "depth": 2, "block_steps": 300, "progress": False}


def test_noising_is_the_ornstein_uhlenbeck_process():
    rows = np.random.default_rng(0).normal([5.0, -1.0], [0.5, 2.0], (5000, 2)).astype(np.float32)
    copies, noised = _Noising(rows, 0)(rows, 0.4)
    assert noised.shape == (copies * 5000, 2)
    assert copies >= 13
    scale = np.sqrt(rows.var(0).mean())
    mean = rows.mean(0)
    np.testing.assert_allclose(noised.mean(0), mean, atol=0.03)
    variance = np.exp(-0.8) * rows.var(0) + scale**2 * (1.0 - np.exp(-0.8))
    np.testing.assert_allclose(noised.var(0), variance, rtol=0.03)
    # Each copy of a row keeps exp(-g) of it.
    kept = ((noised.reshape(copies, 5000, 2) - mean) * (rows - mean)).mean((0, 1)) / rows.var(0)
    np.testing.assert_allclose(kept, np.exp(-0.4), rtol=0.03)


@pytest.fixture(scope="module")
def local() -> FlowTeacher:
    return FlowTeacher.local(datasets.moons(4000), steps=[0.2, 0.5], **SMALL)


def test_the_chain_leads_from_noise_to_data(local):
    assert local.field.kind == "chain"
    assert local.field.source.kind == "normal"
    assert local.field.breaks == pytest.approx([1 / 3, 2 / 3])
    assert len(local.history_["blocks"]) == 3
    assert local.history_["steps"] == 900
    assert [block["config"]["seed"] for block in local.history_["blocks"]] == [0, 1, 2]
    held_out, samples = datasets.moons(2000, seed=1), local.sample(2000)
    floor = wasserstein2(held_out, datasets.moons(2000, seed=2))
    noise = np.random.default_rng(0).multivariate_normal(held_out.mean(0), np.cov(held_out.T), 2000)
    assert wasserstein2(samples, held_out) < floor + 0.5 * (wasserstein2(noise, held_out) - floor)


@pytest.mark.slow
def test_states_between_blocks_are_ever_more_noised(local):
    data = datasets.moons(2000, seed=1)
    states = local.trajectory(data, times=[1.0, 2 / 3, 1 / 3, 0.0])
    scale, mean = np.sqrt(data.var(0).mean()), data.mean(0)
    noise = np.random.default_rng(1).standard_normal(data.shape)
    shares = [np.exp(-g) for g in (0.0, 0.2, 0.7)]
    for state, kept in zip(states[:3], shares, strict=True):
        # Their law is about that of the noised data.
        noised = mean + kept * (data - mean) + scale * np.sqrt(1 - kept**2) * noise
        assert wasserstein2(state, noised) < 0.7
    np.testing.assert_allclose(states[-1].std(0), 1.0, atol=0.15)


def test_the_next_network_begins_with_the_weights_of_the_last():
    data = datasets.moons(500)
    first = FlowTeacher((2,), width=8, depth=1, steps=30).fit(data, progress=False)
    options = {"width": 8, "depth": 1, "steps": 1, "learning_rate": 1e-12}
    second = FlowTeacher((2,), **options, seed=5).fit(data + 1.0, initial=first, progress=False)
    for name, weight in first.state_dict().items():
        np.testing.assert_allclose(second.state_dict()[name], weight, atol=1e-6)


@pytest.mark.parametrize(
    "initial",
    [
        FlowTeacher.gaussian(np.zeros(2), np.eye(2)),
        lambda: FlowTeacher((2,), width=9, depth=1, steps=1).fit(datasets.moons(50), progress=False),
    ],
)
def test_initial_weights_that_do_not_fit_are_named(initial):
    initial = initial if isinstance(initial, FlowTeacher) else initial()
    with pytest.raises(ArgumentError, match="initial: expected a network of the same shape, a perceptron"):
        FlowTeacher((2,), width=8, depth=1, steps=1).fit(datasets.moons(50), initial=initial, progress=False)
    with pytest.raises(TypeError, match="initial: expected a FlowTeacher"):
        FlowTeacher((2,), steps=1).fit(datasets.moons(50), initial="last", progress=False)


def test_conditions_stay_with_their_rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    data = (np.array([[-3.0, 0.0], [3.0, 0.0]])[labels] + 0.3 * rng.standard_normal((2000, 2))).astype("f4")
    teacher = FlowTeacher.local(data, steps=[0.3], condition=labels, num_classes=2, **SMALL)
    for label, centre in ((0, -3.0), (1, 3.0)):
        samples = teacher.sample(500, condition=np.full(500, label))
        assert abs(np.median(samples[:, 0]) - centre) < 0.5
    assert teacher.history_["classes"] == [0, 1]


def test_clock_time_and_seed_are_those_of_the_whole():
    options = {**SMALL, "block_steps": 3, "horizon": (0.0, 4.0), "seed": 7, "max_seconds": 100}
    teacher = FlowTeacher.local(datasets.moons(100), steps=[0.5], **options)
    assert (teacher.clock.start, teacher.clock.end) == (0.0, 4.0)
    assert [block["config"]["max_seconds"] for block in teacher.history_["blocks"]] == [50.0, 50.0]
    again = FlowTeacher.local(datasets.moons(100), steps=[0.5], **options)
    np.testing.assert_array_equal(teacher.sample(5), again.sample(5))


@pytest.mark.parametrize("steps", [[], [0.0], [0.3, -0.1], [np.inf], 500, "short"])
def test_steps_that_are_none_are_named(steps):
    with pytest.raises(ArgumentError, match="steps: expected"):
        FlowTeacher.local(datasets.moons(50), steps=steps)


def test_other_options_are_checked():
    with pytest.raises(ArgumentError, match="source: expected none"):
        FlowTeacher.local(datasets.moons(50), steps=[0.3], source="normal")
    with pytest.raises(ArgumentError, match="block_steps"):
        FlowTeacher.local(datasets.moons(50), steps=[0.3], block_steps=0)
