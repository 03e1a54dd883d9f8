"""Populations carried through snapshots: against maps of Gaussians, SciPy's spline, plans by another
algorithm, and fractions that are known."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import ot
import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.sparse import csr_array
from scipy.special import logsumexp
from sklearn.decomposition import PCA

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.exceptions import ArgumentError, DivergenceError, NonFiniteError, ShapeError
from koopflow.teachers.plans import ENTROPY, unbalanced_plans, uneven

QUICK = {"width": 32, "depth": 2, "batch_size": 128, "progress": False}
TIMES = [10.0, 20.0, 40.0]


def normal(seed: int, mean: list[float], deviation: list[float], rows: int = 300) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (np.array(mean) + np.array(deviation) * random.normal(size=(rows, len(mean)))).astype(np.float32)


def blobs(seed: int, left: int, right: int, height: float) -> np.ndarray:
    return np.concatenate(
        [normal(seed, [-2.0, height], [0.2, 0.2], left), normal(seed + 50, [2.0, height], [0.2, 0.2], right)]
    )


@pytest.fixture(scope="module")
def gaussians() -> FlowTeacher:
    """Between Gaussians without correlation, whose best maps stretch each axis."""
    sets = [
        normal(1, [0.0, 0.0], [1.0, 1.0], 3000),
        normal(2, [3.0, 0.0], [0.5, 1.0], 2000),
        normal(3, [3.0, 3.0], [0.5, 0.5], 2500),
    ]
    return FlowTeacher.snapshots(sets, TIMES, steps=1500, **QUICK)


@pytest.fixture(scope="module")
def growing() -> FlowTeacher:
    """Two kinds of cells that go up side by side: of the right ones there are four times as many in the
    end."""
    sets = [blobs(1, 100, 100, 0.0), blobs(2, 40, 160, 1.0)]
    return FlowTeacher.snapshots(
        sets, [0.0, 2.0], coupling="unbalanced", relaxation=0.3, growth=[1.0, 3.0], steps=800, **QUICK
    )


def test_gaussians_are_carried_by_their_best_maps(gaussians):
    x0 = normal(9, [0.0, 0.0], [1.0, 1.0], 200)
    found = gaussians.trajectory(x0, times=[10.0, 15.0, 20.0, 40.0])
    first = x0 * [0.5, 1.0] + [3.0, 0.0]
    wanted = [x0, 0.5 * (x0 + first), first, (first - [3.0, 0.0]) * [1.0, 0.5] + [3.0, 3.0]]
    for states, truth in zip(found, wanted, strict=True):
        assert np.sqrt(np.mean((states - truth) ** 2)) < 0.15
    # Halfway to the second, each moves by as much as its own line is long, over the ten units that it takes.
    v = gaussians.velocity(15.0, wanted[1].astype(np.float32))
    assert np.sqrt(np.mean((v - (first - x0) / 10.0) ** 2)) < 0.04


def test_a_population_starts_at_its_rows_and_runs_on_its_clock(gaussians):
    assert (gaussians.clock.start, gaussians.clock.end) == (10.0, 40.0)
    assert gaussians.field.source.kind == "rows"
    first = normal(1, [0.0, 0.0], [1.0, 1.0], 3000)
    begun = gaussians.trajectory(n=20, times=[10.0, 11.0])[0]
    assert np.abs(begun[:, None] - first[None]).max(axis=2).min(axis=1).max() == 0.0
    with pytest.raises(ArgumentError, match="t: "):
        gaussians.velocity(9.0, first)


def test_no_pair_is_behind_a_state(gaussians):
    assert gaussians.field.mixing is None
    with pytest.raises(ValueError, match="teacher"):
        gaussians.denoise(20.0, np.zeros((1, 2), dtype=np.float32))


def test_a_window_grows_as_the_whole(growing):
    x = blobs(7, 5, 5, 0.5)
    np.testing.assert_allclose(growing.window(0.5, 1.5).growth(1.0, x), growing.growth(1.0, x), rtol=1e-5)


@pytest.mark.parametrize("interpolant", ["linear", "spline"])
def test_tight_clusters_follow_the_interpolant(interpolant):
    times, heights = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.0, 2.0, -1.0, 1.0])
    sets = [normal(k, [t, h], [0.05, 0.05], 200) for k, (t, h) in enumerate(zip(times, heights, strict=True))]
    options = {"interpolant": interpolant, **QUICK, "width": 64, "depth": 3}
    teacher = FlowTeacher.snapshots(sets, times, steps=2000, **options)
    fine = np.linspace(0.0, 4.0, 33)
    spline = CubicSpline(times, heights, bc_type="natural")(fine)
    wanted = spline if interpolant == "spline" else np.interp(fine, times, heights)
    found = teacher.trajectory(np.array([[0.0, 0.0]], dtype=np.float32), times=fine)[:, 0]
    assert np.abs(found[:, 0] - fine).max() < 0.1
    assert np.abs(found[:, 1] - wanted).max() < 0.25
    assert np.abs(spline - np.interp(fine, times, heights)).max() > 0.5


@pytest.mark.slow
def test_semi_relaxed_plans_are_those_of_another_algorithm():
    sets = [blobs(1, 30, 30, 0.0), blobs(2, 10, 40, 1.0)]
    for relaxation in (0.2, 1.0):
        (plan,) = unbalanced_plans(sets, relaxation)
        np.testing.assert_allclose(plan.sum(0), 1.0 / 50, atol=1e-9)
        np.testing.assert_allclose(plan.sum(1), semi_relaxed_sums(*sets, relaxation), rtol=2e-3)
        assert uneven([plan])
        # No plan between the same marginals costs less.
        costs = ot.dist(*(rows.astype(float) for rows in sets))
        best = ot.emd2(plan.sum(1), plan.sum(0) * plan.sum(1).sum() / plan.sum(), costs)
        assert (plan * costs).sum() == pytest.approx(best, rel=1e-9)
    (stiff,) = unbalanced_plans(sets, 1e3)
    np.testing.assert_allclose(stiff.sum(1), 1.0 / 60, rtol=0.02)


def semi_relaxed_sums(before: np.ndarray, after: np.ndarray, relaxation: float) -> np.ndarray:
    """Sums of rows of the entropic plan, by iterations of its dual potentials in logarithms."""
    costs = ((before[:, None].astype(float) - after[None]) ** 2).sum(2)
    costs /= costs.mean()
    a, b = -np.log(len(before)), -np.log(len(after))
    f, g = np.zeros(len(before)), np.zeros(len(after))
    for _ in range(20_000):
        g = -ENTROPY * logsumexp((f[:, None] - costs) / ENTROPY + a, axis=0)
        soft = -ENTROPY * logsumexp((g[None] - costs) / ENTROPY + b, axis=1)
        f = soft * relaxation / (relaxation + ENTROPY)
    return np.exp((f[:, None] + g[None] - costs) / ENTROPY + a + b).sum(1)


def test_growth_is_that_of_the_fractions(growing):
    """Of the left ones .2 are left of .5, of the right ones .8; all together are three times as many."""
    left, right = normal(5, [-2.0, 0.5], [0.1, 0.1], 50), normal(6, [2.0, 0.5], [0.1, 0.1], 50)
    for rows, share in ((left, 0.4), (right, 1.6)):
        rate = growing.growth(1.0, rows)
        assert rate.shape == (50,)
        assert rate.mean() == pytest.approx(np.log(3.0 * share) / 2.0, abs=0.1)
    # What goes up straight grows by what the fractions say.
    starts = blobs(1, 100, 100, 0.0)
    times = np.linspace(0.0, 2.0, 41)
    states = growing.trajectory(starts, times=times)
    masses = growing.masses(times, states)
    assert masses.shape == (41, 200)
    np.testing.assert_array_equal(masses[0], 1.0)
    assert masses[-1].mean() == pytest.approx(3.0, rel=0.1)
    ended_right = masses[-1][states[-1][:, 0] > 0].sum() / masses[-1].sum()
    assert ended_right == pytest.approx(0.8, abs=0.04)
    coarse = growing.masses(times[::20], states[::20])
    np.testing.assert_allclose(coarse[-1], masses[-1], rtol=0.05)


def test_plans_of_others_are_followed():
    """A plan that crosses: the left go right, the right go left."""
    sets = [blobs(1, 50, 50, 0.0), blobs(2, 50, 50, 1.0)]
    crossing = np.kron([[0.0, 1.0], [1.0, 0.0]], np.full((50, 50), 1e-4))
    for plan in (crossing, torch.from_numpy(crossing), csr_array(crossing)):
        teacher = FlowTeacher.snapshots(sets, [0.0, 1.0], coupling=[plan], steps=300, **QUICK)
        v = teacher.velocity(0.05, sets[0])
        assert (np.sign(v[:, 0]) == -np.sign(sets[0][:, 0])).mean() > 0.95
    with pytest.raises(ArgumentError, match="growth: "):
        teacher.growth(0.5, sets[0])
    growing = crossing * np.repeat([1.0, 3.0], 50)[:, None]
    teacher = FlowTeacher.snapshots(sets, [0.0, 1.0], coupling=[growing], steps=20, **QUICK)
    assert teacher.growth(0.5, sets[0]).shape == (100,)


def test_files_and_copies_keep_everything(growing, tmp_path):
    growing.save(tmp_path / "population.safetensors")
    x = blobs(7, 5, 5, 0.5)
    for again in (
        FlowTeacher.load(tmp_path / "population.safetensors"),
        pickle.loads(pickle.dumps(growing)),
    ):
        assert again.clock == growing.clock
        np.testing.assert_array_equal(again.velocity(1.0, x), growing.velocity(1.0, x))
        np.testing.assert_array_equal(again.growth(1.0, x), growing.growth(1.0, x))
        np.testing.assert_array_equal(again.sample(8), growing.sample(8))
    module = growing.to_torch()
    v = module(1.0, torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(v, growing.velocity(1.0, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        FlowTeacher.from_torch_module(module).growth(1.0, x), growing.growth(1.0, x)
    )


def test_training_goes_on_from_its_file(tmp_path):
    sets, file = [blobs(1, 20, 20, 0.0), blobs(2, 20, 20, 1.0)], tmp_path / "half.safetensors"
    options = {"growth": [1.0, 2.0], **QUICK}
    whole = FlowTeacher.snapshots(sets, [0.0, 1.0], steps=30, **options)
    FlowTeacher.snapshots(sets, [0.0, 1.0], steps=15, checkpoint=file, **options)
    resumed = FlowTeacher.snapshots(sets, [0.0, 1.0], steps=30, resume=file, **options)
    assert resumed.history_["steps"] == 30
    assert whole.velocity(0.5, sets[0]).shape == resumed.velocity(0.5, sets[0]).shape
    with pytest.raises(ArgumentError, match="resume"):
        FlowTeacher.snapshots([rows + 1.0 for rows in sets], [0.0, 1.0], steps=30, resume=file, **options)


def test_kinds_of_arrays_give_one_teacher():
    sets = [blobs(1, 20, 20, 0.0), blobs(2, 20, 20, 1.0)]
    stacked = np.stack(sets)
    options = {"steps": 5, **QUICK}
    found = [
        FlowTeacher.snapshots(kind, [0.0, 1.0], **options).velocity(0.5, sets[0])
        for kind in (sets, stacked, torch.from_numpy(stacked), [rows.astype(float) for rows in sets])
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5)


def test_a_latent_space_is_never_forgotten_in_silence(tmp_path):
    wide = [blobs(seed, 20, 20, float(seed)) @ np.eye(2, 5, dtype=np.float32) for seed in (1, 2)]
    pca = PCA(2, whiten=True).fit(np.concatenate(wide))
    teacher = FlowTeacher.snapshots(wide, [0.0, 4.0], latent=pca, steps=2, **QUICK)
    expected = teacher.encode(wide[0])
    whole = (teacher.window(0.0, 2.0), teacher.reversed(), teacher.starting_from(expected))
    for other in (*whole, FlowTeacher.chain([teacher, teacher.reversed()], breaks=[0.0, 1.0, 2.0])):
        np.testing.assert_array_equal(other.encode(wide[0]), expected)
    teacher.save(tmp_path / "teacher.safetensors")
    loaded = FlowTeacher.load(tmp_path / "teacher.safetensors")
    for ask in (loaded.encode, loaded.decode, loaded.window(0.0, 2.0).encode):
        with pytest.raises(ArgumentError, match="latent: expected the functions of the training"):
            ask(expected)


def test_a_latent_space_is_gone_to_and_left():
    random = np.random.default_rng(0)
    wide = np.linalg.qr(random.normal(size=(6, 2)))[0].T
    measured = [blobs(1, 30, 30, 0.0) @ wide, blobs(2, 30, 30, 1.0) @ wide]
    pca = PCA(2).fit(np.concatenate(measured))
    for latent in (pca, (pca.transform, pca.inverse_transform)):
        teacher = FlowTeacher.snapshots(measured, [0.0, 1.0], latent=latent, steps=300, **QUICK)
        assert teacher.event_shape_ == (2,)
        starts = teacher.encode(measured[0])
        np.testing.assert_allclose(teacher.decode(starts), measured[0], atol=1e-4)
        path = teacher.decode(teacher.trajectory(starts.astype(np.float32), times=[0.0, 0.5, 1.0]))
        assert path.shape == (3, 60, 6)
        assert np.linalg.norm(path[-1].mean(0) - measured[1].mean(0)) < 0.3
    with pytest.raises(ShapeError, match="states"):
        teacher.decode(np.zeros((3, 5)))
    plain = FlowTeacher.snapshots(measured, [0.0, 1.0], steps=2, **QUICK)
    assert plain.decode(measured[0]) is measured[0]
    for bad in (3, (pca.transform,), (1, 2)):
        with pytest.raises(ArgumentError, match="latent"):
            FlowTeacher.snapshots(measured, [0.0, 1.0], latent=bad, **QUICK)
    with pytest.raises(ShapeError, match="latent: expected encode"):
        FlowTeacher.snapshots(measured, [0.0, 1.0], latent=(lambda x: x[:1], lambda x: x), **QUICK)


def test_a_student_says_where_cells_are_and_came_from(gaussians):
    student = KoopmanDistiller(steps=600, seed=0, trajectories=2000).fit(gaussians, progress=False)
    cells = normal(12, [0.0, 0.0], [1.0, 1.0], 200)
    times = [10.0, 15.0, 40.0]
    truth = gaussians.trajectory(cells, times=times)
    found = student.sample_path(x0=cells, times=times)
    assert found.shape == (3, 200, 2)
    assert np.sqrt(np.mean((found - truth) ** 2)) < 0.15
    assert np.sqrt(np.mean((student.invert(truth[-1]) - cells) ** 2)) < 0.3
    assert len(student.spectrum().eigenvalues) > 0


def test_masses_along_a_students_path(growing):
    student = KoopmanDistiller(steps=300, seed=0, trajectories=1000).fit(growing, progress=False)
    cells, times = blobs(1, 40, 40, 0.0), np.linspace(0.0, 2.0, 21)
    masses = growing.masses(times, student.sample_path(x0=cells, times=times))
    own = growing.masses(times, growing.trajectory(cells, times=times))
    assert masses.shape == own.shape
    assert np.abs(np.log(masses[-1] / own[-1])).mean() < 0.15


GOOD = [np.random.default_rng(k).normal(k, 1.0, (10, 2)) for k in range(3)]


@pytest.mark.parametrize(
    ("sets", "times", "options", "error", "name"),
    [
        (GOOD[:1], [0.0], {}, ArgumentError, "snapshots"),
        ([GOOD[0], GOOD[1][:, :1]], [0, 1], {}, ShapeError, r"snapshots\[1\]"),
        ([GOOD[0], GOOD[1][:1]], [0, 1], {}, ArgumentError, r"snapshots\[1\]"),
        ([GOOD[0], GOOD[1] * np.nan], [0, 1], {}, NonFiniteError, r"snapshots\[1\]"),
        (GOOD, [0, 2, 1], {}, ArgumentError, "times"),
        (GOOD, [0, 1], {}, ArgumentError, "times"),
        (GOOD, "soon", {}, ArgumentError, "times"),
        (GOOD, [0, 1, 2], {"growth": [1, 0, 1]}, ArgumentError, "growth"),
        (GOOD, [0, 1, 2], {"growth": [1, 2]}, ArgumentError, "growth"),
        (GOOD, [0, 1, 2], {"coupling": "best"}, ArgumentError, "coupling"),
        (GOOD, [0, 1, 2], {"coupling": [np.ones((10, 10))]}, ArgumentError, "coupling"),
        (GOOD, [0, 1, 2], {"coupling": [np.ones((10, 10)), np.ones((10, 9))]}, ShapeError, "coupling"),
        (GOOD, [0, 1, 2], {"coupling": [np.ones((10, 10)), np.zeros((10, 10))]}, ArgumentError, "coupling"),
        (GOOD, [0, 1, 2], {"coupling": "unbalanced", "relaxation": 0.0}, ArgumentError, "relaxation"),
        (GOOD, [0, 1, 2], {"interpolant": "cubic"}, ArgumentError, "interpolant"),
        (GOOD, [0, 1, 2], {"path": "vp"}, ArgumentError, "path"),
        (GOOD, [0, 1, 2], {"num_classes": 3}, ArgumentError, "conditioning"),
    ],
)
def test_bad_input_is_named(sets, times, options, error, name):
    with pytest.raises(error, match=name):
        FlowTeacher.snapshots(sets, times, **{**QUICK, "steps": 1, **options})


def test_masses_that_vanish_are_an_error(growing):
    states = np.zeros((2, 3, 2), dtype=np.float32)
    with pytest.raises(ShapeError, match="states"):
        growing.masses([0.0, 1.0, 2.0], states)
    still = [blobs(k, 20, 20, 0.0) for k in range(3)]
    teacher = FlowTeacher.snapshots(still, [0, 1, 2], growth=[1e300, 1.0, 1e-300], steps=50, **QUICK)
    with pytest.raises(DivergenceError, match="vanishes"):
        teacher.masses([0.0, 1.0, 2.0], np.stack(still))


def test_without_pot_only_unbalanced_plans_are_missed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    FlowTeacher.snapshots(GOOD, [0, 1, 2], steps=1, **QUICK)
    with pytest.raises(ImportError, match=r"koopflow\[populations\]"):
        FlowTeacher.snapshots(GOOD, [0, 1, 2], coupling="unbalanced", steps=1, **QUICK)
