"""Given pairs of noise and data, and flows trained on another flow's pairs."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, Objective, _core, datasets, reflow
from koopflow.exceptions import ArgumentError, NonFiniteError, ShapeError

SMALL = {"width": 48, "depth": 2, "batch_size": 128, "learning_rate": 5e-3}
RANDOM = np.random.default_rng(8)
NOISE = RANDOM.normal(size=(2000, 2)).astype(np.float32)


def curvature(teacher, n=400, condition=None):
    """The straightness of rectified flow's paper, over the squared displacement: the mean over time of
    ||(x1 - x0) - v(t, x_t)||^2 along the flow. 0 for straight lines."""
    x0 = np.random.default_rng(1).normal(size=(n, 2)).astype(np.float32)
    times = np.linspace(0.0, 1.0, 21)
    path = teacher.trajectory(x0, times=times, condition=condition)
    chord = path[-1] - path[0]
    gaps = [
        ((chord - teacher.velocity(t, x, condition)) ** 2).sum(axis=1)
        for t, x in zip(times, path, strict=True)
    ]
    return float(np.mean(gaps) / (chord**2).sum(axis=1).mean())


@pytest.fixture(scope="module")
def bent():
    """A teacher of randomly paired moons, whose paths bend."""
    teacher = FlowTeacher((2,), coupling="independent", steps=800, seed=0, **SMALL)
    return teacher.fit(datasets.moons(4000), progress=False)


@pytest.fixture(scope="module")
def straight(bent):
    return reflow(bent, pairs=4096, seed=3, steps=800, progress=False)


# --- given pairs ----------------------------------------------------------------------------------


def test_a_flow_of_given_pairs_carries_each_noise_to_its_data():
    # x1 = 2 x0 + (1, -3): lines that do not cross, so that one Euler step follows them.
    data = (2.0 * NOISE + [1.0, -3.0]).astype(np.float32)
    teacher = FlowTeacher((2,), steps=600, **SMALL).fit(data, noise=NOISE, progress=False)
    fresh = np.random.default_rng(2).normal(size=(500, 2)).astype(np.float32)
    for options in ({}, {"solver": "euler", "steps": 1}):
        error = teacher.sample(x0=fresh, **options) - (2.0 * fresh + [1.0, -3.0])
        assert np.sqrt((error**2).mean()) < 0.1
    # Any other pairing of these data leaves a variance that no velocity explains.
    assert teacher.history_["loss"][-1][1] < 0.01
    assert teacher.history_["config"]["coupling"] == "given"


def test_given_pairs_have_torch_arrays_conditions_and_files(tmp_path):
    labels = np.arange(2000) % 2
    data = torch.from_numpy(NOISE + 10.0 * labels[:, None].astype(np.float32))
    options = {**SMALL, "num_classes": 2, "steps": 300}
    noise = torch.from_numpy(NOISE)
    fit = {"noise": noise, "condition": labels, "progress": False}
    teacher = FlowTeacher((2,), **options).fit(data, **fit)
    for label in (0, 1):
        ends = teacher.sample(x0=noise[:200], condition=np.full(200, label))
        assert float((ends - noise[:200] - 10.0 * label).square().mean()) < 0.1
    path = tmp_path / "teacher.safetensors"
    FlowTeacher((2,), **options).fit(data, steps=20, checkpoint=path, **fit)
    assert FlowTeacher.load(path).pairing_["coupling"] == "given"
    assert FlowTeacher((2,), **options).fit(data, steps=30, resume=path, **fit).history_["steps"] == 30
    with pytest.raises(ArgumentError, match="coupling"):
        FlowTeacher((2,), **options).fit(data, steps=30, resume=path, condition=labels, progress=False)


@pytest.mark.parametrize(
    ("noise", "options", "error", "name"),
    [
        (NOISE[:, :1], {}, ShapeError, "noise"),
        (NOISE[:50], {}, ShapeError, "noise"),
        (np.full_like(NOISE, np.nan), {}, NonFiniteError, "noise"),
        (None, {"coupling": "given"}, ArgumentError, "noise"),
    ],
)
def test_noise_that_does_not_go_with_the_data_is_refused(noise, options, error, name):
    with pytest.raises(error, match=f"^{name}: "):
        FlowTeacher((2,), steps=2, width=8, **options).fit(NOISE, noise=noise, progress=False)


def test_mirrored_pairs_are_refused():
    images = np.zeros((8, 1, 4, 4), dtype=np.float32)
    with pytest.raises(ArgumentError, match="^flip: "):
        FlowTeacher((1, 4, 4), steps=2, width=8, flip=True).fit(images, noise=images, progress=False)


# --- reflow ---------------------------------------------------------------------------------------


def test_paths_become_straighter_and_end_where_they_did(bent, straight):
    before, after = curvature(bent), curvature(straight)
    assert before > 0.02
    assert after < 0.35 * before
    x0 = RANDOM.normal(size=(1000, 2)).astype(np.float32)
    ends, same = bent.sample(x0=x0), straight.sample(x0=x0)
    # The coupling is kept, not only the law: each noise goes where it went.
    spread = np.sqrt(ends.var(axis=0).sum())
    assert np.sqrt(((ends - same) ** 2).sum(axis=1).mean()) < 0.15 * spread
    one = {"solver": "euler", "steps": 1}
    held_out = datasets.moons(1000, seed=1)
    far = _core.wasserstein2(bent.sample(x0=x0, **one), held_out)
    near = _core.wasserstein2(straight.sample(x0=x0, **one), held_out)
    assert near < 0.6 * far


def test_rounds_go_on_from_each_other(bent):
    options = {"pairs": 512, "steps": 60, "width": 16, "depth": 1, "progress": False}
    twice = reflow(bent, 2, seed=5, **options)
    again = reflow(bent, rounds=2, seed=5, **options)
    np.testing.assert_array_equal(twice.sample(x0=NOISE[:9]), again.sample(x0=NOISE[:9]))
    other = reflow(bent, 2, seed=6, **options)
    assert not np.array_equal(twice.sample(x0=NOISE[:9]), other.sample(x0=NOISE[:9]))
    once = reflow(bent, 1, seed=5, **options)
    assert not np.array_equal(twice.training_data_.noise, once.training_data_.noise)
    np.testing.assert_allclose(once.training_data_.data, bent.sample(x0=once.training_data_.noise), atol=1e-5)
    assert twice.history_["config"]["seed"] == 5
    # What the caller did not say is as it was in the first teacher.
    assert twice.history_["config"]["batch_size"] == SMALL["batch_size"]


def test_a_teacher_in_closed_form_is_rectified_too(gaussian):
    teacher = reflow(gaussian, pairs=2048, steps=400, **SMALL, progress=False)
    exact = gaussian.sample(x0=NOISE[:300])
    # Between Gaussians of one frame of axes the coupling is the optimal one: one step is enough.
    assert np.sqrt(((teacher.sample(x0=NOISE[:300], solver="euler", steps=1) - exact) ** 2).mean()) < 0.2


def test_conditions_are_carried_along():
    labels = np.arange(1000) % 2
    data = (0.5 * NOISE[:1000] + 8.0 * labels[:, None] - 4.0).astype(np.float32)
    teacher = FlowTeacher((2,), num_classes=2, steps=200, **SMALL).fit(data, condition=labels, progress=False)
    straighter = reflow(teacher, pairs=1000, progress=False)
    drawn = straighter.training_data_.condition
    assert np.bincount(drawn).tolist() == [500, 500]
    for label in (0, 1):
        x = straighter.sample(200, condition=np.full(200, label))
        assert np.abs(x.mean(axis=0) - (8.0 * label - 4.0)).max() < 0.5
    only = reflow(teacher, pairs=16, steps=2, condition=np.array([1]), progress=False)
    assert (only.training_data_.condition == 1).all()
    vectors = (labels[:, None] - 0.5).astype(np.float32)
    teacher = FlowTeacher((2,), condition_dim=1, steps=5, **SMALL).fit(
        data, condition=vectors, progress=False
    )
    assert set(reflow(teacher, pairs=64, steps=2, progress=False).training_data_.condition.ravel()) == {
        -0.5,
        0.5,
    }
    teacher.training_data_ = None
    with pytest.raises(ArgumentError, match=r"condition: expected the vectors"):
        reflow(teacher, pairs=8, progress=False)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"rounds": 0}, "rounds"), ({"pairs": 0}, "pairs"), ({"condition": np.zeros(3)}, "condition")],
)
def test_arguments_out_of_range_are_named(gaussian, options, name):
    with pytest.raises(ArgumentError, match=f"^{name}: "):
        reflow(gaussian, progress=False, **options)


def test_an_unknown_option_is_refused_before_any_pair_is_solved(gaussian):
    before = gaussian.evaluations
    with pytest.raises(TypeError, match="'widht'"):
        reflow(gaussian, progress=False, widht=8)
    assert gaussian.evaluations == before


# --- distilling a rectified flow ------------------------------------------------------------------


def only_consistency():
    names = json.loads(_core.student_defaults(2))["weights"]
    return {name: float(name == "consistency") for name in names}


def test_simulation_free_points_lie_between_the_given_pairs(straight):
    options = {
        "observables": 16,
        "width": 32,
        "depth": 2,
        "steps": 600,
        "objective": {"weights": only_consistency()},
    }
    before = straight.evaluations
    student = KoopmanDistiller(seed=0, **options).fit(straight, progress=False)
    # One evaluation a step and one for the held-out points: no flow was solved.
    assert straight.evaluations - before == 601
    assert student.config_["coupling"] == "given"
    x0 = RANDOM.normal(size=(500, 2)).astype(np.float32)
    ends = straight.sample(x0=x0)
    error = np.sqrt(((student.sample(x0=x0) - ends) ** 2).sum(axis=1).mean() / ends.var(axis=0).sum())
    assert error < 0.35


def test_without_the_pairs_points_of_trajectories_serve(straight, tmp_path):
    straight.save(tmp_path / "teacher.safetensors")
    loaded = FlowTeacher.load(tmp_path / "teacher.safetensors")
    options = {"observables": 4, "width": 8, "depth": 1, "steps": 2, "trajectories": 32}
    student = KoopmanDistiller(objective=Objective(weights=only_consistency()), **options)
    with pytest.warns(UserWarning, match="does not hold the pairs"):
        student.fit(loaded, progress=False)
    assert student.history_["trajectories"] == 32
    with pytest.raises(ArgumentError, match=r"data: expected none for a teacher of given pairs"):
        KoopmanDistiller(objective=Objective(weights=only_consistency()), **options).fit(
            loaded, data=NOISE, progress=False
        )
    # Whoever names another coupling means it.
    other = KoopmanDistiller(objective=Objective(weights=only_consistency(), coupling="ot"), **options)
    assert other.fit(straight, progress=False).config_["coupling"] == "ot"


def test_the_usual_student_of_a_rectified_flow(straight):
    student = KoopmanDistiller(observables=16, width=32, depth=2, steps=300, trajectories=512, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        student.fit(straight, progress=False)
    x0 = RANDOM.normal(size=(500, 2)).astype(np.float32)
    ends = straight.sample(x0=x0)
    error = np.sqrt(((student.sample(x0=x0) - ends) ** 2).sum(axis=1).mean() / ends.var(axis=0).sum())
    assert error < 0.3
