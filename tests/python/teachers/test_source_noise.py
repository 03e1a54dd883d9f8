"""Rows with noise as a source: their kernel density, draws, files; and functions that are no sources."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import kstest, norm
from sklearn.base import clone

from koopflow import FlowTeacher, KoopmanDistiller, datasets, reflow
from koopflow.exceptions import ArgumentError

NOISE = 0.3
ROWS = np.random.default_rng(3).normal([2.0, -5.0], [1.0, 0.5], (40, 2)).astype(np.float32)
QUICK = {"width": 8, "depth": 1, "steps": 5}
RATE = 0.7


def still(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return 0.0 * x


def grown(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return RATE * x


def kernel_density(x: np.ndarray, rows: np.ndarray, noise: float) -> np.ndarray:
    """Of isotropic kernels on rows."""
    x, rows = (np.asarray(a, float).reshape(len(a), -1) for a in (x, rows))
    each = norm.logpdf(x[:, None], rows[None], noise).sum(axis=2)
    return logsumexp(each, axis=1) - np.log(len(rows))


@pytest.fixture(scope="module")
def trained() -> FlowTeacher:
    teacher = FlowTeacher((2,), source=ROWS, source_noise=NOISE, horizon=(1.0, 3.0), **QUICK)
    return teacher.fit(datasets.moons(300), progress=False)


def test_densities_are_those_of_kernels_carried_along():
    teacher = FlowTeacher.from_torch(grown, (2,), source=ROWS, source_noise=NOISE, dtype="float64")
    start = np.concatenate([ROWS[:5] + 0.1, ROWS[:3] + [[4.0, 0.0]]]).astype(float)
    found = teacher.log_prob(start * np.exp(RATE), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found, kernel_density(start, ROWS, NOISE) - 2.0 * RATE, atol=1e-6)


def test_densities_far_from_zero_and_of_many_rows():
    """By differences, in float64, in several chunks: 3,000 rows, 3,000 states of shape (1, 4)."""
    random = np.random.default_rng(0)
    rows = 5000.0 + random.normal(size=(3000, 1, 4))
    teacher = FlowTeacher.from_torch(still, (1, 4), source=rows, source_noise=0.05, dtype="float64")
    x = rows[::-1] + 0.02 * random.normal(size=rows.shape)
    np.testing.assert_allclose(
        teacher.log_prob(x, solver="euler", steps=1), kernel_density(x, rows, 0.05), atol=1e-5
    )


def test_draws_are_rows_with_normal_noise():
    teacher = FlowTeacher.from_torch(
        still, (2,), source=np.array([[0.0, 0.0], [100.0, 50.0]]), source_noise=NOISE
    )
    drawn = teacher.sample(6000, solver="euler", steps=1)
    second = drawn[:, 0] > 50.0
    assert abs(second.mean() - 0.5) < 0.03
    left = (drawn - second[:, None] * [100.0, 50.0]) / NOISE
    # Normal in every coordinate, independent of the other, of the row and of other samples.
    for values in (left[:, 0], left[:, 1], left[second, 0], left[~second, 1]):
        assert kstest(values, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(left.T)[0, 1]) < 0.05
    np.testing.assert_array_equal(drawn, teacher.sample(6000, solver="euler", steps=1))
    assert np.abs(drawn - teacher.sample(6000, solver="euler", steps=1, seed=1)).min() > 0.0


def test_rows_without_noise_are_drawn_as_they_were():
    """No noise takes no random numbers: the same rows as before there was any."""
    plain = FlowTeacher.from_torch(still, (2,), source=ROWS)
    none = FlowTeacher.from_torch(still, (2,), source=ROWS, source_noise=0.0)
    noisy = FlowTeacher.from_torch(still, (2,), source=ROWS, source_noise=1e-4)
    draws = [t.sample(200, solver="euler", steps=1) for t in (plain, none, noisy)]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_allclose(draws[2], draws[0], atol=6e-4)
    assert np.abs(draws[2] - draws[0]).max() > 0.0
    with pytest.raises(ArgumentError, match="source: expected one whose density is known.*source_noise"):
        none.log_prob(ROWS[:2])


def test_files_copies_and_twins_keep_the_noise(trained, tmp_path):
    file = tmp_path / "teacher.safetensors"
    trained.save(file)
    loaded = FlowTeacher.load(file)
    assert (loaded.source, loaded.source_noise) == ("kept", NOISE)
    x = datasets.moons(4)
    twin = FlowTeacher.from_torch_module(trained.to_torch())
    unfitted = clone(loaded)
    assert unfitted.source_noise == NOISE
    for other in (loaded, copy.deepcopy(trained), pickle.loads(pickle.dumps(trained)), twin):
        assert other.field.source.noise == other.source_noise == NOISE
        np.testing.assert_array_equal(other.sample(7), trained.sample(7))
        np.testing.assert_array_equal(other.log_prob(x), trained.log_prob(x))
    # What was kept is what further training starts from, with the noise that is set then.
    fit = {"progress": False}
    assert unfitted.fit(x, steps=1, **fit).field.source.noise == NOISE
    assert loaded.set_params(source_noise=0.1).fit(x, steps=1, **fit).field.source.noise == 0.1
    assert loaded.set_params(source_noise=0.0).fit(x, steps=1, **fit).field.source.noise == 0.0


def test_another_source_with_noise(trained, tmp_path):
    other = trained.starting_from(ROWS + 9.0, noise=0.1)
    assert other.source_noise == 0.1
    begun = other.trajectory(n=50, times=[1.0, 3.0])[0]
    assert begun.min(axis=0)[1] > 0.0
    other.save(tmp_path / "teacher.safetensors")
    loaded = FlowTeacher.load(tmp_path / "teacher.safetensors")
    np.testing.assert_array_equal(loaded.sample(5), other.sample(5))
    assert loaded.source_noise == 0.1
    assert trained.starting_from("kept", noise=0.2).field.source.noise == 0.2
    assert trained.window(1.0, 2.0).source_noise == NOISE
    assert trained.reversed().source_noise == 0.0
    normal = trained.starting_from("normal")
    assert (normal.field.source.kind, normal.source) == ("normal", "normal")
    normal.save(tmp_path / "normal.safetensors")
    np.testing.assert_array_equal(
        FlowTeacher.load(tmp_path / "normal.safetensors").sample(5), normal.sample(5)
    )


def test_training_sees_noise_on_every_row():
    """Coordinates of the network at the source's end are those of rows and noise."""
    teacher = FlowTeacher((2,), source=ROWS, source_noise=2.0, **QUICK).fit(
        datasets.moons(300), progress=False
    )
    tensors = dict(teacher.field.tensors())
    np.testing.assert_allclose(tensors["origin.mean"], ROWS.mean(axis=0), atol=0.08)
    expected = np.sqrt(ROWS.var(axis=0).astype(float).mean() + 4.0)
    np.testing.assert_allclose(
        np.sqrt(np.square(np.asarray(tensors["origin.scale"])).mean()), expected, rtol=0.05
    )


def test_students_and_reflow_start_alike(trained, tmp_path):
    student = KoopmanDistiller(observables=8, width=16, steps=3, trajectories=64).fit(trained, progress=False)
    start = student.sample_path(9, times=[1.0])[0]
    np.testing.assert_allclose(start, trained.trajectory(n=9, times=[1.0, 3.0])[0], atol=1e-5)
    student.save(tmp_path / "student.safetensors")
    loaded = KoopmanDistiller.load(tmp_path / "student.safetensors")
    np.testing.assert_array_equal(loaded.sample(9), student.sample(9))
    assert np.isfinite(loaded.log_prob(student.sample(3))).all()
    straighter = reflow(trained, pairs=64, progress=False)
    assert straighter.field.source.noise == NOISE


def test_training_goes_on_with_the_same_noise_only(tmp_path):
    file, data = tmp_path / "run.safetensors", datasets.moons(100)
    options = {**QUICK, "steps": 6, "source": ROWS}
    whole = FlowTeacher((2,), source_noise=NOISE, **options).fit(data, progress=False)
    short = FlowTeacher((2,), source_noise=NOISE, **options)
    short.fit(data, steps=3, progress=False, checkpoint=file)
    with pytest.raises(ArgumentError, match="resume: expected"):
        FlowTeacher((2,), source_noise=NOISE + 1e-6, **options).fit(data, progress=False, resume=file)
    # Another number of steps is another schedule: what goes on is compared with itself.
    again = [
        FlowTeacher((2,), source_noise=NOISE, **options).fit(data, progress=False, resume=file)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(again[0].sample(4), again[1].sample(4))
    assert whole.field.source.noise == again[0].field.source.noise == NOISE


@pytest.mark.parametrize("noise", [-0.1, np.nan, np.inf, "much", None])
def test_bad_noise_is_named(noise, trained):
    with pytest.raises(ArgumentError, match="source_noise: expected a finite number >= 0, got"):
        FlowTeacher((2,), source=ROWS, source_noise=noise, **QUICK).fit(ROWS, progress=False)
    with pytest.raises(ArgumentError, match="^noise: expected a finite number >= 0, got"):
        trained.starting_from(ROWS, noise=noise)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("normal", "normal"),
        (FlowTeacher.gaussian([0.0, 0.0], np.eye(2)), "flow"),
        (lambda n, seed: np.zeros((n, 2)), "sampler"),
    ],
    ids=["normal", "flow", "sampler"],
)
def test_noise_is_for_rows(source, kind):
    message = f"source_noise: expected 0 for a source that is not an array of rows, got 0.5 .* kind '{kind}'"
    with pytest.raises(ArgumentError, match=message):
        FlowTeacher((2,), source=source, source_noise=0.5, **QUICK).fit(ROWS, progress=False)
    with pytest.raises(ArgumentError, match=message):
        FlowTeacher.from_torch(still, (2,), source=source, source_noise=0.5)


def test_there_is_no_noise_in_snapshots_and_local_flows():
    with pytest.raises(ArgumentError, match="source_noise: expected 0 for snapshots"):
        FlowTeacher.snapshots([ROWS, ROWS + 1.0], [0, 1], source_noise=0.1, progress=False, **QUICK)
    with pytest.raises(ArgumentError, match="source_noise: expected none"):
        FlowTeacher.local(ROWS, steps=[0.5], source_noise=0.1, progress=False)


class _Drawing:
    """An object that is called, with densities of a choice."""

    def __init__(self, log_prob=None):
        if log_prob is not None:
            self.log_prob = log_prob

    def __call__(self, n: int, seed: int) -> np.ndarray:
        return np.zeros((n, 2))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda n: n, r"source: expected a function draw\(n, seed\) of samples, got <lambda>\(n\)"),
        (lambda: 0, r"source: expected a function draw\(n, seed\) of samples, got <lambda>\(\)"),
        (lambda n, seed, extra: n, r"got <lambda>\(n, seed, extra\).*extra"),
        (lambda n, *, seed: n, r"got <lambda>\(n, \*, seed\)"),
        (_Drawing(lambda: 0.0), r"source: expected log_prob\(x\).*got <lambda>\(\)"),
        (torch.nn.Linear(2, 2), r"source: expected a function draw\(n, seed\).*torch.nn.Module Linear"),
    ],
)
def test_functions_that_are_no_sources_are_named(source, message):
    teacher = FlowTeacher((2,), source=source, **QUICK)
    assert type(source).__name__ in repr(teacher)
    with pytest.raises(ArgumentError, match=message):
        teacher.fit(ROWS, progress=False)
    with pytest.raises(ArgumentError, match=message):
        FlowTeacher.from_torch(still, (2,), source=source)
    with pytest.raises(ArgumentError, match=message):
        FlowTeacher.gaussian([0.0, 0.0], np.eye(2)).starting_from(source)


@pytest.mark.parametrize(
    "source",
    [
        _Drawing(),
        _Drawing(lambda x: np.zeros(len(x))),
        lambda n, seed, extra=None: np.zeros((n, 2)),
        lambda *arguments: np.zeros((arguments[0], 2)),
        _Drawing().__call__,
    ],
)
def test_whatever_takes_two_arguments_is_a_source(source):
    teacher = FlowTeacher.from_torch(still, (2,), source=source)
    np.testing.assert_array_equal(teacher.sample(3, solver="euler", steps=1), np.zeros((3, 2)))


def test_what_a_function_raises_is_its_own():
    def source(n: int, seed: int) -> np.ndarray:
        raise TypeError("missing 1 required positional argument of mine")

    with pytest.raises(TypeError, match="of mine") as raised:
        FlowTeacher.from_torch(still, (2,), source=source).sample(3)
    assert not isinstance(raised.value, ArgumentError)
