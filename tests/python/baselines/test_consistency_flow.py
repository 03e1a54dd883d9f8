"""Consistency flow matching: its loss against NumPy's own, and what it samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, _core, baselines, datasets
from koopflow.baselines import ConsistencyFlow
from koopflow.exceptions import ArgumentError, CheckpointError, NotFittedError, ShapeError

SMALL = {"width": 48, "depth": 2, "batch_size": 128, "learning_rate": 5e-3}
RANDOM = np.random.default_rng(4)


@pytest.fixture(scope="module")
def teacher():
    """Its data count, not what it learnt."""
    return FlowTeacher((2,), width=8, depth=1, steps=2).fit(datasets.moons(4000), progress=False)


# --- the loss -------------------------------------------------------------------------------------


def loss_of_a_step(x0, x1, **consistency):
    """The loss of the first step over many times, and the field that it is of: nothing is learnt."""
    config = {
        "objective": {"consistency": consistency},
        "coupling": "given",
        "width": 16,
        "depth": 2,
        "steps": 1,
        "batch_size": 65_520,
        "learning_rate": 1e-30,
        "dtype": "float64",
        "seed": 3,
    }
    field, history = _core.train_teacher(x1, json.dumps(config), noise=x0)
    return field, json.loads(history)["loss"][0][1]


def expected_loss(field, x0, x1, *, segments, delta, alpha, boundary, points=8190):
    """The same by the midpoint rule, for each pair of rows."""
    unit = np.sqrt(np.maximum(x1.std(axis=0), 0.02) ** 2 + 1.0)
    total = 0.0
    for start, end in zip(x0, x1, strict=True):
        t = ((np.arange(points) + 0.5) / points)[:, None]
        stop = (np.floor(t * segments) + 1) / segments
        r = np.minimum(t + delta, stop)
        x_t, x_r, x_stop = (s * end + (1 - s) * start for s in (t, r, stop))
        v, later = field.velocity(t.ravel(), x_t), field.velocity(r.ravel(), x_r)
        f = x_t + (stop - t) * v
        inside = stop - r > (1 - boundary) / segments
        target = np.where(inside, x_r + (stop - r) * later, x_stop)
        velocities = np.where(inside, v - later, 0.0)
        total += (((f - target) / unit) ** 2 + alpha * (velocities / unit) ** 2).mean()
    return total / len(x0)


# Times are spread evenly over all rows together: with several of them, each has a random part.
@pytest.mark.parametrize(("rows", "tolerance"), [(1, 2e-3), (3, 2e-2)])
@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("boundary", [1.0, 0.8])
def test_loss_is_that_of_the_paper(rows, tolerance, segments, boundary):
    x0, x1 = RANDOM.normal(size=(rows, 2)), 3.0 * RANDOM.normal(size=(rows, 2)) + 1.0
    options = {"segments": segments, "delta": 0.05, "alpha": 0.3, "boundary": boundary}
    field, loss = loss_of_a_step(x0, x1, anchoring=0.0, **options)
    np.testing.assert_allclose(loss, expected_loss(field, x0, x1, **options), rtol=tolerance)


def test_anchored_loss_is_that_of_the_pairs_own_ends():
    x0, x1 = RANDOM.normal(size=(1, 2)), 3.0 * RANDOM.normal(size=(1, 2)) + 1.0
    options = {"segments": 2, "delta": 0.05, "alpha": 0.3}
    field, loss = loss_of_a_step(x0, x1, anchoring=0.5, boundary=0.9, **options)
    expected = expected_loss(field, x0, x1, boundary=0.0, **options)
    np.testing.assert_allclose(loss, expected, rtol=2e-3)


def test_one_point_is_reached_from_everywhere_without_loss(teacher):
    # v = (x1 - x) / (1 - t) makes f = x1 wherever it starts: the minimum is zero.
    data = np.tile(np.array([[2.0, -1.0]], dtype=np.float32), (64, 1))
    model = ConsistencyFlow(steps=800, **SMALL).fit(teacher, data=data, progress=False)
    first, last = model.history_["loss"][0][1], model.history_["loss"][-1][1]
    assert last < 1e-3 * max(first, 0.1)
    error = model.sample(500) - data[:1]
    assert np.sqrt((error**2).sum(axis=1).mean()) < 0.1


# --- what it samples ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(teacher):
    return ConsistencyFlow(steps=20, seed=0, **SMALL).fit(teacher, progress=False)


@pytest.mark.slow
def test_one_step_is_better_than_one_step_of_flow_matching(teacher):
    # Of independent pairs, whose flow bends: one Euler step of it ends in the middle of everything.
    options = {"coupling": "independent", "steps": 1500, **SMALL}
    flow = FlowTeacher((2,), **options).fit(teacher.training_data_.data, progress=False)
    straight = ConsistencyFlow(**options).fit(teacher, progress=False)
    held_out = datasets.moons(1000, seed=1)
    x0 = RANDOM.normal(size=(1000, 2)).astype(np.float32)
    ours = _core.wasserstein2(straight.sample(x0=x0), held_out)
    theirs = _core.wasserstein2(flow.sample(x0=x0, solver="euler", steps=1), held_out)
    assert ours < 0.4 * theirs
    # By optimal transport, about what two sets of data are apart and half as much again.
    paired = ConsistencyFlow(steps=1500, seed=0, **SMALL).fit(teacher, progress=False)
    assert _core.wasserstein2(paired.sample(x0=x0), held_out) < 0.5


def test_segments_take_a_step_each(teacher):
    model = ConsistencyFlow(steps=600, segments=2, **SMALL).fit(teacher, progress=False)
    x0 = RANDOM.normal(size=(9, 2)).astype(np.float32)
    before = model.evaluations
    x = model.sample(x0=x0)
    assert model.evaluations - before == 2
    field = model._fitted()
    middle = x0 + 0.5 * field.velocity(0.0, x0)
    np.testing.assert_allclose(x, middle + 0.5 * field.velocity(0.5, middle), atol=1e-5)
    np.testing.assert_allclose(model.sample(x0=x0, steps=1), x0 + field.velocity(0.0, x0), atol=1e-5)


def test_a_model_is_counted_seeded_and_leaves_the_generator_alone(teacher, model):
    state = torch.get_rng_state()
    fresh = ConsistencyFlow(steps=20, seed=7, **SMALL)
    before = fresh.fit(teacher, progress=False).evaluations
    assert before == 0
    again = ConsistencyFlow(steps=20, seed=7, **SMALL).fit(teacher, progress=False)
    other = ConsistencyFlow(steps=20, seed=8, **SMALL).fit(teacher, progress=False)
    x0 = RANDOM.normal(size=(5, 2)).astype(np.float32)
    np.testing.assert_array_equal(fresh.sample(x0=x0), again.sample(x0=x0))
    assert not np.array_equal(fresh.sample(x0=x0), other.sample(x0=x0))
    assert torch.equal(state, torch.get_rng_state())
    assert isinstance(fresh.sample(x0=torch.from_numpy(x0)), torch.Tensor)
    assert fresh.event_shape_ == (2,)
    assert fresh.history_["config"]["objective"]["consistency"]["segments"] == 1
    assert not model.has_path
    assert not model.has_inverse


def test_conditions(teacher):
    labels = np.arange(1000) % 2
    data = (RANDOM.normal(size=(1000, 2)) * 0.3 + 6.0 * labels[:, None] - 3.0).astype(np.float32)
    conditional = FlowTeacher((2,), num_classes=2, width=8, depth=1, steps=2)
    conditional.fit(data, condition=labels, progress=False)
    model = ConsistencyFlow(steps=500, **SMALL).fit(conditional, progress=False)
    for label in (0, 1):
        x = model.sample(200, condition=np.full(200, label))
        assert np.abs(x.mean(axis=0) - (6.0 * label - 3.0)).max() < 0.5


def test_files(model, teacher, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    loaded = ConsistencyFlow.load(path)
    np.testing.assert_array_equal(loaded.sample(50, seed=2), model.sample(50, seed=2))
    assert loaded.history_ == model.history_
    assert repr(loaded) == repr(model)
    assert repr(baselines.load(path)) == repr(model)
    loaded.save(path)
    teacher.save(path)
    with pytest.raises(CheckpointError, match="holds a teacher, expected a baseline"):
        ConsistencyFlow.load(path)
    baselines.OdeSolver().fit(teacher).save(path)
    with pytest.raises(CheckpointError, match="holds a baseline OdeSolver, expected ConsistencyFlow"):
        ConsistencyFlow.load(path)
    with pytest.raises(FileNotFoundError):
        ConsistencyFlow.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"segments": 0}, "segments"),
        ({"delta": 0.0}, "delta"),
        ({"segments": 2, "delta": 0.5}, "delta"),
        ({"alpha": -1.0}, "alpha"),
        ({"boundary": 0.0}, "boundary"),
        ({"anchoring": 1.0}, "anchoring"),
        ({"steps": 0}, "steps"),
    ],
)
def test_options_out_of_range_are_named(teacher, options, name):
    with pytest.raises(ArgumentError, match=f"^{name}: "):
        ConsistencyFlow(**options).fit(teacher, progress=False)


def test_what_is_missing_is_said(gaussian, teacher):
    with pytest.raises(NotFittedError, match=r"call fit\(teacher\) first"):
        ConsistencyFlow().sample(3)
    with pytest.raises(ArgumentError, match=r"data: expected the teacher's training data"):
        ConsistencyFlow().fit(gaussian, progress=False)
    with pytest.raises(ShapeError):
        ConsistencyFlow(steps=2).fit(teacher, data=np.zeros((5, 3), dtype=np.float32), progress=False)
    config = {"objective": {"consistency": {}}, "path": "vp"}
    with pytest.raises(ArgumentError, match="^path: "):
        _core.train_teacher(np.zeros((5, 2)), json.dumps(config))


def test_default_steps_are_twice_a_teachers(teacher):
    model = ConsistencyFlow(width=4, depth=1, max_seconds=0.01)
    config = model.fit(teacher, progress=False).history_["config"]
    assert config["steps"] == 12_000
    assert config["objective"]["consistency"]["delta"] == model.delta
