"""Flows from other laws than noise, on other clocks: against maps and densities in closed form."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.base import clone

from koopflow import FlowTeacher, datasets, reflow
from koopflow.exceptions import ArgumentError, NonFiniteError, ShapeError, TeacherError

START = multivariate_normal([3.0, -1.0], [[0.5, 0.2], [0.2, 0.3]])
GAUSSIAN = FlowTeacher.gaussian(START.mean, START.cov)
ROWS = START.rvs(3000, random_state=0).astype(np.float32)
SHIFT, GROWTH = np.array([2.0, 5.0]), 0.7


def grown(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """dx/dt = GROWTH x + SHIFT."""
    return GROWTH * x + torch.as_tensor(SHIFT, dtype=x.dtype)


def ends(x: np.ndarray, time: float = 1.0) -> np.ndarray:
    """Where :func:`grown` leads in a time."""
    return np.exp(GROWTH * time) * x + SHIFT * np.expm1(GROWTH * time) / GROWTH


class Uniform:
    """On [0, 2]^2, with its density."""

    def __call__(self, n: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).uniform(0.0, 2.0, (n, 2))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return np.where(((x >= 0.0) & (x <= 2.0)).all(axis=1), -np.log(4.0), -np.inf)


@pytest.fixture(scope="module")
def trained() -> FlowTeacher:
    """From the rows to moons, between the times 10 and 20."""
    options = {"width": 32, "depth": 2, "steps": 300, "source": ROWS, "horizon": (10.0, 20.0)}
    return FlowTeacher((2,), **options).fit(datasets.moons(1000), progress=False)


def test_samples_begin_at_rows():
    teacher = FlowTeacher.from_torch(grown, (2,), source=ROWS, dtype="float64")
    begun = teacher.trajectory(n=500, times=[0.0, 1.0], rtol=1e-8, atol=1e-8)
    nearest = np.abs(begun[0][:, None] - ROWS[None, :, :]).max(axis=2).min(axis=1)
    assert nearest.max() == 0.0
    assert len(np.unique(begun[0], axis=0)) > 400
    np.testing.assert_allclose(begun[1], ends(begun[0]), rtol=1e-6)
    np.testing.assert_array_equal(begun[0], teacher.trajectory(n=500, times=[0.0, 0.5])[0])
    other = teacher.trajectory(n=500, times=[0.0, 0.5], seed=1)[0]
    assert not np.array_equal(begun[0], other)


@pytest.mark.parametrize("source", [GAUSSIAN, "sampler"], ids=["flow", "sampler"])
def test_densities_are_those_of_the_source_carried(source):
    class Law:
        def __call__(self, n: int, seed: int) -> np.ndarray:
            return START.rvs(n, random_state=seed % 2**32)

        def log_prob(self, x: np.ndarray) -> np.ndarray:
            return START.logpdf(x)

    source = Law() if source == "sampler" else source
    teacher = FlowTeacher.from_torch(grown, (2,), source=source, dtype="float64")
    x = ends(ROWS[:6].astype(np.float64))
    found = teacher.log_prob(x, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found, START.logpdf(ROWS[:6]) - 2.0 * GROWTH, atol=2e-4)
    samples = teacher.sample(4000)
    np.testing.assert_allclose(samples.mean(axis=0), ends(START.mean), atol=0.1)
    np.testing.assert_allclose(np.cov(samples.T), np.exp(2.0 * GROWTH) * START.cov, atol=0.15)


def test_rows_have_no_density():
    teacher = FlowTeacher.from_torch(grown, (2,), source=ROWS)
    with pytest.raises(ArgumentError, match=r"source: expected one whose density is known.*'rows'"):
        teacher.log_prob(ROWS[:2])
    chained = FlowTeacher.from_torch(grown, (2,), source=teacher)
    with pytest.raises(ArgumentError, match="source"):
        chained.log_prob(ROWS[:2])


def test_training_learns_the_optimal_map_between_gaussians():
    """With minibatch transport the map between two Gaussians is nearly Monge's, which is affine."""
    goal = multivariate_normal([-2.0, 4.0], [[2.0, -0.6], [-0.6, 0.8]])
    data = goal.rvs(4000, random_state=1).astype(np.float32)
    teacher = FlowTeacher((2,), source=ROWS, width=48, depth=2, steps=1000).fit(data, progress=False)
    x0 = START.rvs(500, random_state=2).astype(np.float32)

    def root(matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return vectors * np.sqrt(values) @ vectors.T

    first = root(START.cov)
    map_ = np.linalg.solve(first, root(first @ goal.cov @ first)) @ np.linalg.inv(first)
    exact = goal.mean + (x0 - START.mean) @ map_.T
    error = np.sqrt(np.mean(np.sum((teacher.sample(x0=x0) - exact) ** 2, axis=1)) / np.trace(goal.cov))
    assert error < 0.12


def test_networks_scale_with_both_ends():
    """The same flow in units a thousand times as large trains to the same velocities."""
    data = datasets.moons(500)
    fits = [
        FlowTeacher((2,), source=ROWS * scale, width=16, depth=1, steps=60).fit(data * scale, progress=False)
        for scale in (1.0, 1000.0)
    ]
    x = ROWS[:5]
    np.testing.assert_allclose(
        fits[1].sample(x0=x * 1000.0), fits[0].sample(x0=x) * 1000.0, rtol=0.02, atol=20
    )


def test_the_clock_is_the_users(trained):
    x0 = ROWS[:4]
    path = trained.trajectory(x0, times=[10.0, 15.0, 20.0])
    np.testing.assert_array_equal(path[2], trained.sample(x0=x0))
    # Velocities are per unit of the clock.
    near = trained.trajectory(path[1], times=[15.0, 15.01], rtol=1e-7, atol=1e-7)[1]
    np.testing.assert_allclose((near - path[1]) / 0.01, trained.velocity(15.0, path[1]), atol=2e-2)
    back = trained.trajectory(path[2], times=[20.0, 10.0])[1]
    np.testing.assert_allclose(back, x0, atol=1e-3)
    with pytest.raises(ArgumentError, match=r"t: expected times in \[10, 20\], got 5"):
        trained.velocity(5.0, x0)
    with pytest.raises(ArgumentError, match="times: expected to begin at 10 without x0"):
        trained.trajectory(n=2, times=[11.0, 20.0])


def test_an_attached_model_is_told_its_own_times():
    asked = []

    def model(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        asked.extend(t.tolist())
        return torch.full_like(x, 2.0)

    teacher = FlowTeacher.from_torch(model, (1,), horizon=(5.0, 8.0))
    asked.clear()
    path = teacher.trajectory(np.zeros((1, 1)), times=[5.0, 6.0, 8.0], solver="euler", steps=6)
    np.testing.assert_allclose(path.ravel(), [0.0, 2.0, 6.0], atol=1e-5)
    assert min(asked) >= 5.0 - 1e-6
    assert max(asked) <= 8.0 + 1e-6
    np.testing.assert_allclose(teacher.velocity(6.0, np.zeros((1, 1))), [[2.0]])


def test_files_hold_rows_and_flows(trained, tmp_path):
    path = tmp_path / "teacher.safetensors"
    trained.save(path)
    loaded = FlowTeacher.load(path)
    assert loaded.source == "kept"
    assert (loaded.clock.start, loaded.clock.end) == (10.0, 20.0)
    np.testing.assert_array_equal(loaded.sample(5), trained.sample(5))
    # What was kept is what further training starts from.
    again = loaded.fit(datasets.moons(100), steps=2, progress=False)
    assert again.field.source.kind == "rows"

    flow = FlowTeacher((2,), source=GAUSSIAN, width=8, depth=1, steps=5)
    flow.fit(datasets.moons(100), progress=False).save(path)
    x = ROWS[:3]
    np.testing.assert_array_equal(FlowTeacher.load(path).log_prob(x), flow.log_prob(x))

    attached = FlowTeacher.from_torch(grown, (2,))
    other = FlowTeacher((2,), source=attached, width=8, depth=1, steps=5)
    with pytest.raises(TeacherError, match="'torch' wraps code"):
        other.fit(datasets.moons(100), progress=False).save(path)


def test_another_source_takes_the_place_of_the_first(trained, tmp_path):
    other = trained.starting_from(ROWS[:10] + 5.0)
    other.save(tmp_path / "teacher.safetensors")
    loaded = FlowTeacher.load(tmp_path / "teacher.safetensors")
    np.testing.assert_array_equal(loaded.sample(5), other.sample(5))
    begun = loaded.trajectory(n=20, times=[10.0, 20.0])[0]
    assert np.abs(begun[:, None] - (ROWS[:10] + 5.0)).max(axis=2).min(axis=1).max() == 0.0
    x = ROWS[:3]
    np.testing.assert_array_equal(loaded.velocity(12.0, x), trained.velocity(12.0, x))
    again = FlowTeacher.from_torch_module(other.to_torch())
    np.testing.assert_array_equal(again.sample(5), other.sample(5))


def test_a_function_is_in_no_file(tmp_path):
    teacher = FlowTeacher((2,), source=Uniform(), width=8, depth=1, steps=5)
    teacher.fit(datasets.moons(100), progress=False)
    starts = teacher.trajectory(n=50, times=[0.0, 1.0])[0]
    assert starts.min() >= 0.0
    assert starts.max() <= 2.0
    teacher.save(tmp_path / "teacher.safetensors")
    loaded = FlowTeacher.load(tmp_path / "teacher.safetensors")
    with pytest.raises(ArgumentError, match="x0: expected samples to start from"):
        loaded.sample(3)
    np.testing.assert_array_equal(loaded.sample(x0=ROWS[:3]), teacher.sample(x0=ROWS[:3]))


def test_copies_start_from_the_same(trained):
    expected = trained.sample(4)
    for other in (copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):
        np.testing.assert_array_equal(other.sample(4), expected)
    flow = FlowTeacher((2,), source=GAUSSIAN)
    assert clone(flow).source is GAUSSIAN


def test_twins_speak_the_same_clock(trained):
    module = trained.to_torch()
    t, x = torch.tensor([11.0, 19.0]), torch.as_tensor(ROWS[:2])
    np.testing.assert_allclose(module(t, x).detach(), trained.velocity(t, x), rtol=1e-4, atol=1e-6)
    again = FlowTeacher.from_torch_module(module)
    np.testing.assert_array_equal(again.sample(3), trained.sample(3))


def test_guidance_and_reflow_keep_the_source():
    labels = np.arange(400) % 2
    options = {"width": 8, "depth": 1, "steps": 10, "source": ROWS}
    teacher = FlowTeacher((2,), num_classes=2, label_dropout=0.2, **options)
    teacher.fit(datasets.moons(400), labels, progress=False)
    assert teacher.guided(2.0).field.source.kind == "rows"
    straighter = reflow(FlowTeacher((2,), **options).fit(datasets.moons(400), progress=False), pairs=64)
    nearest = np.abs(straighter.training_data_.noise[:, None] - ROWS).max(axis=2).min(axis=1)
    assert nearest.max() == 0.0


def test_reflow_begins_where_any_teacher_does(trained, tmp_path):
    quick = {"pairs": 64, "progress": False, "width": 8, "depth": 1, "steps": 5}
    trained.save(tmp_path / "teacher.safetensors")
    attached = FlowTeacher.from_torch(grown, (2,), source=ROWS, horizon=(10.0, 20.0))
    for teacher in (attached, FlowTeacher.load(tmp_path / "teacher.safetensors"), trained.window(12.0, 20.0)):
        straighter = reflow(teacher, **quick)
        assert straighter.clock == teacher.clock
        begun = [x.trajectory(n=9, times=[x.clock.start, 20.0])[0] for x in (straighter, teacher)]
        np.testing.assert_array_equal(*begun)
        pickle.loads(pickle.dumps(straighter)).sample(2)
    fresh = clone(FlowTeacher.load(tmp_path / "teacher.safetensors"))
    assert fresh.fit(datasets.moons(50), steps=1, progress=False).field.source.kind == "rows"


def test_training_goes_on_from_the_same_source_only(tmp_path):
    options = {"width": 8, "depth": 1, "steps": 6}
    file, data = tmp_path / "run.safetensors", datasets.moons(100)
    FlowTeacher((2,), source=ROWS, **options).fit(data, progress=False, checkpoint=file, checkpoint_every=3)
    for source in ("normal", ROWS + 1.0):
        with pytest.raises(ArgumentError, match="resume: expected"):
            FlowTeacher((2,), source=source, **options).fit(data, progress=False, resume=file)


def test_conditional_flows_are_no_sources_of_training():
    means = torch.tensor([0.0, 5.0])
    moved = FlowTeacher.from_torch(lambda t, x, y: x * 0 + means[y][:, None], (2,), num_classes=2)
    teacher = FlowTeacher((2,), source=moved, num_classes=2, steps=1)
    with pytest.raises(ArgumentError, match="source: expected an unconditional flow"):
        teacher.fit(datasets.moons(20), np.arange(20) % 2, progress=False)


def test_the_same_field_from_elsewhere_is_trained_alike():
    options = {"width": 8, "depth": 1, "steps": 5, "path": "vp", "coupling": "independent"}
    teacher = FlowTeacher((2,), num_classes=2, label_dropout=0.2, **options)
    teacher.fit(datasets.moons(100), np.arange(100) % 2, progress=False)
    other = teacher.starting_from(ROWS)
    assert other.pairing_ == teacher.pairing_
    assert other.guided(2.0).field.source.kind == "rows"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("uniform", ArgumentError, "source: expected 'normal', rows, a teacher or a function, got 'uniform'"),
        (None, ArgumentError, "source: expected 'normal', rows, a teacher or a function, got None"),
        (7, ArgumentError, "got 7"),
        ("kept", ArgumentError, "got 'kept' without a fitted teacher"),
        (np.zeros((3, 3)), ShapeError, r"source: expected shape \(B, 2\), got \(3, 3\)"),
        (np.zeros((0, 2)), ArgumentError, "source: expected at least one sample"),
        (np.full((4, 2), np.nan), NonFiniteError, "source"),
        (FlowTeacher.gaussian([0.0], [[1.0]]), ShapeError, r"source: expected .*\(2,\)"),
        (lambda n, seed: np.zeros((n, 3)), ShapeError, r"source: expected .*2\), got .*3\)"),
        (lambda n, seed: np.full((n, 2), np.inf), NonFiniteError, "source"),
        (lambda n, seed: 1 / 0, ZeroDivisionError, "division"),
    ],
)
def test_bad_sources_are_named(source, error, message):
    with pytest.raises(error, match=message):
        FlowTeacher((2,), source=source, steps=1).fit(datasets.moons(10), progress=False)


@pytest.mark.parametrize(
    "horizon", [(1.0, 0.0), (0.0,), (0.0, 0.0), (0.0, np.inf), "01", (0.0, np.nan), (1e15, 1e15 + 4.0)]
)
def test_bad_clocks_are_named(horizon):
    with pytest.raises(ArgumentError, match="horizon: expected"):
        FlowTeacher((2,), horizon=horizon, steps=1).fit(datasets.moons(10), progress=False)


def test_models_with_clocks_of_their_own_take_no_other():
    with pytest.raises(ArgumentError, match="horizon"):
        FlowTeacher.from_torch(lambda x, t: x, (2,), convention="diffusers", horizon=(0.0, 2.0))


def test_noise_is_what_it_was():
    """A seed draws what it drew before there were other sources."""
    teacher = FlowTeacher.from_torch(lambda t, x: 0.0 * x, (2,))
    from koopflow import _core

    np.testing.assert_array_equal(teacher.sample(5, seed=3), _core.normal((5, 2), 3))
