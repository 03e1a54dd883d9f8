"""The canonical spectrum of a flow in files, from other orders of the same work, and what it refuses."""

from __future__ import annotations

import copy
import json
import pickle
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from koopflow import FlowSpectrum, FlowTeacher
from koopflow.analysis import flow_spectrum
from koopflow.exceptions import (
    ArgumentError,
    CheckpointError,
    DivergenceError,
    DtypeError,
    NonFiniteError,
    ShapeError,
)

from .reference import TIMES, Known, known

NAMES = ("affine", "nonlinear", "drift_energy", "unresolved", "edge", "standing", "paths", "event_shape")


def labelled(t, x, y):
    """One class contracts, and the other turns."""
    turned = torch.stack([-x[:, 1], x[:, 0]], dim=1)
    return torch.where(y.reshape(-1, 1) == 0, -x, 3.0 * turned)


def numpy_state() -> bytes:
    """NumPy's global generator, which old code of users draws from."""
    return np.random.mtrand._rand._bit_generator.state["state"]["key"].tobytes()


def equal(one: FlowSpectrum, two: FlowSpectrum) -> None:
    """To the last bit."""
    for name in NAMES:
        assert getattr(one, name) == getattr(two, name)
    for name in ("places", "times", "rates", "energy", "low", "high", "drift", "axes", "cloud", "halves"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.modes_at(0.7), two.modes_at(0.7))
    assert [group.tolist() for group in one.groups] == [group.tolist() for group in two.groups]
    assert one.summary() == two.summary()


def near(one: FlowSpectrum, two: FlowSpectrum, unit: float = 1.0, tolerance: float = 1e-5) -> None:
    """The same reading of paths that are ``unit`` times as far apart in the second."""
    np.testing.assert_allclose(one.rates, two.rates, rtol=tolerance, atol=tolerance)
    for name in NAMES[:3]:
        assert getattr(one, name) == pytest.approx(getattr(two, name), rel=10 * tolerance, abs=tolerance)
    np.testing.assert_allclose(one.energy, two.energy, atol=10 * tolerance)
    np.testing.assert_allclose(one.drift * unit, two.drift, atol=10 * tolerance * unit)
    np.testing.assert_allclose(one.axis_values, two.axis_values, rtol=10 * tolerance)
    products = np.einsum("kd,kd->k", one.images.reshape(len(one), -1), two.images.reshape(len(two), -1))
    np.testing.assert_allclose(np.abs(products), 1.0, atol=10 * tolerance)


@pytest.fixture(scope="module")
def flow() -> Known:
    return known((0.5, 0.2, 0.05), n=200)


@pytest.fixture(scope="module")
def spec(flow) -> FlowSpectrum:
    return flow_spectrum(flow.paths, times=flow.times)


@pytest.fixture(scope="module")
def conditional() -> FlowTeacher:
    return FlowTeacher.from_torch(labelled, event_shape=(2,), num_classes=2)


# The same answer.


def test_the_same_seed_gives_the_same_reading_and_leaves_generators_alone():
    teacher = FlowTeacher.gaussian([1.0, 0.0], [[2.0, 0.5], [0.5, 0.5]])
    before = torch.get_rng_state(), numpy_state(), random.getstate()
    one, two = (flow_spectrum(teacher, n=64, times=9, seed=3) for _ in range(2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == numpy_state()
    assert before[2] == random.getstate()
    equal(one, two)
    torch.manual_seed(5)
    equal(one, flow_spectrum(teacher, n=64, times=9, seed=3))
    other = flow_spectrum(teacher, n=64, times=9, seed=4)
    assert not np.array_equal(one.cloud, other.cloud)
    assert one.compare(other, permutations=0).p is None


def test_the_seed_only_resamples_given_paths(flow, spec):
    other = flow_spectrum(flow.paths, times=flow.times, seed=1)
    np.testing.assert_array_equal(spec.energy, other.energy)
    np.testing.assert_array_equal(spec.modes_at(1.0), other.modes_at(1.0))
    assert not np.array_equal(spec.low, other.low)


@pytest.mark.parametrize("rows", [16, 61])
def test_chunks_do_not_change_the_answer(flow, spec, monkeypatch, rows):
    monkeypatch.setattr("koopflow.spectrum.paths.CHUNK_VALUES", rows * 33 * 3)
    near(spec, flow_spectrum(flow.paths, times=flow.times), tolerance=1e-8)
    np.testing.assert_array_equal(spec.compare(flow_spectrum(flow.paths, times=flow.times)).p, 1.0 / 200.0)


def test_the_first_chunk_does_not_decide_what_others_may_do(conditional, monkeypatch):
    """Classes in turn: the first hundred paths contract, and all others turn."""
    labels = np.repeat([0, 1], 100)
    whole = flow_spectrum(conditional, n=200, condition=labels)
    np.testing.assert_allclose(whole.rates, [-1.0, 3.0j, -3.0j], atol=5e-3)
    monkeypatch.setattr("koopflow.spectrum.paths.CHUNK_VALUES", 80 * 33 * 2)
    near(whole, flow_spectrum(conditional, n=200, condition=labels), tolerance=1e-4)


def test_halves_do_not_divide_the_classes():
    """Classes come in turn by default, as even and odd paths do: halves must hold both nonetheless."""

    def moved(t, x, y):
        # Straight paths, since the velocity does not change along them.
        first = torch.stack([torch.zeros_like(x[:, 0]), 2.0 * torch.tanh(x[:, 0]) ** 2], dim=1)
        other = torch.stack([torch.tanh(x[:, 1]) ** 2, torch.zeros_like(x[:, 0])], dim=1)
        return torch.where(y.reshape(-1, 1) == 0, first, other)

    teacher = FlowTeacher.from_torch(moved, event_shape=(2,), num_classes=2)
    spec = flow_spectrum(teacher, n=600)
    assert [len(group) for group in spec.groups] == [1, 1]
    random_order = np.random.default_rng(0).integers(0, 2, 600)
    assert flow_spectrum(teacher, n=600, condition=random_order).agreement.min() > 0.9
    assert spec.agreement.min() > 0.9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", [1e6, 1e-6])
def test_a_unit_of_data_changes_nothing_else(flow, unit, dtype):
    one = flow_spectrum(flow.paths.astype(dtype), times=flow.times)
    near(one, flow_spectrum((flow.paths * unit).astype(dtype), times=flow.times), unit, tolerance=1e-4)


@pytest.mark.parametrize("far", [1e3, 1e6])
def test_a_drift_that_is_far_larger_than_the_motion_hides_nothing(flow, spec, far):
    moved = flow.paths + far * np.expm1(0.6 * TIMES)[:, None, None]
    other = flow_spectrum(moved, times=flow.times)
    np.testing.assert_allclose(other.rates, spec.rates, rtol=1e-3)
    assert other.affine == pytest.approx(spec.affine, abs=1e-4)
    np.testing.assert_allclose(other.energy, spec.energy, atol=1e-4)


def test_layouts_and_libraries_change_nothing(flow, spec):
    for paths in (
        np.asfortranarray(flow.paths),
        torch.from_numpy(flow.paths),
        torch.from_numpy(flow.paths).transpose(0, 2).contiguous().transpose(0, 2),
    ):
        equal(spec, flow_spectrum(paths, times=torch.from_numpy(flow.times)))
    for paths in (flow.paths.astype(np.float32), flow.paths.tolist()):
        near(spec, flow_spectrum(paths, times=flow.times.tolist()), tolerance=1e-4)
    image = flow_spectrum(flow.paths.reshape(33, -1, 1, 3, 1), times=flow.times)
    assert image.drift.shape == (33, 1, 3, 1)
    assert image.modes_at().shape == image.images.shape == (3, 1, 3, 1)
    assert image.axes.shape == image.axis_modes().shape == (3, 1, 3, 1)
    np.testing.assert_array_equal(image.energy, spec.energy)


# Conditions.


def test_conditions_of_paths(conditional):
    both = flow_spectrum(conditional, n=100)
    np.testing.assert_array_equal(both.condition, np.arange(100) % 2)
    np.testing.assert_allclose(both.rates, [-1.0, 3.0j, -3.0j], atol=5e-3)
    for label, rates in ((0, [-1.0]), ([0], [-1.0]), (np.ones(100, dtype=int), [3.0j, -3.0j])):
        spec = flow_spectrum(conditional, n=100, condition=label)
        np.testing.assert_allclose(spec.rates, rates, atol=5e-3)
        assert spec.affine == pytest.approx(1.0, abs=1e-6)
    x0 = np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)
    labels = np.array([0, 1, 1, 0, 1, 0])
    mixed = both.amplitudes(x0, condition=labels)
    for label in (0, 1):
        own = both.amplitudes(x0, condition=label)
        np.testing.assert_allclose(mixed[labels == label], own[labels == label], atol=1e-5)
    with pytest.raises(ArgumentError, match="condition"):
        both.amplitudes(x0)


@pytest.mark.parametrize("count", [5, 8])
def test_a_condition_that_is_not_one_for_each_sample_is_refused(conditional, count):
    spec = flow_spectrum(conditional, n=32)
    with pytest.raises(ArgumentError, match="condition"):
        spec.amplitudes(np.zeros((6, 2), dtype=np.float32), condition=np.zeros(count, dtype=int))


def test_conditions_that_do_not_fit_are_refused(conditional, flow):
    with pytest.raises(ArgumentError, match=r"labels from 5 to 5"):
        flow_spectrum(conditional, n=32, condition=5)
    with pytest.raises(ArgumentError, match="condition"):
        flow_spectrum(FlowTeacher.gaussian([0.0], [[4.0]]), n=32, condition=[0])
    with pytest.raises(ArgumentError, match="condition: expected None with given paths"):
        flow_spectrum(flow.paths, times=flow.times, condition=[0])


# Files.


def test_a_spectrum_comes_back_from_its_file(spec, flow, tmp_path):
    path = tmp_path / "flow.safetensors"
    spec[1:].save(path)
    again = FlowSpectrum.load(path)
    equal(spec, again)
    amplitudes = spec.amplitudes_of_paths(flow.paths[:, :9])
    np.testing.assert_array_equal(again.amplitudes_of_paths(flow.paths[:, :9]), amplitudes)
    np.testing.assert_array_equal(again.base(flow.paths[0], t=0.4), spec.base(flow.paths[0], t=0.4))
    assert again.compare(spec).found.all()
    for source in (None, spec):
        with pytest.raises(ArgumentError, match="source"):
            (again if source is None else source).amplitudes(flow.paths[0])
    teacher = FlowTeacher.gaussian(np.zeros(3), np.eye(3))
    assert FlowSpectrum.load(path, teacher).amplitudes(flow.paths[0]).shape == (200, 3)
    with pytest.raises(ArgumentError, match=r"modes: expected modes of event shape \(2,\), got \(3,\)"):
        FlowSpectrum.load(path, FlowTeacher.gaussian(np.zeros(2), np.eye(2)))
    with pytest.raises(TypeError, match="source"):
        FlowSpectrum.load(path, 5)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))],
    ids=["copy", "deep", "pickle"],
)
def test_copies_keep_the_selection(spec, flow, copied):
    one = spec[[2, 0]]
    two = copied(one)
    equal(one, two)
    assert two.places.tolist() == [2, 0]
    states = flow.paths[:, :5]
    np.testing.assert_array_equal(two.amplitudes_of_paths(states), one.amplitudes_of_paths(states))
    teacher = FlowTeacher.gaussian([1.0, 0.0], np.diag([3.0, 0.5]))
    read = copied(flow_spectrum(teacher, n=32, times=9))
    assert read.sample_path(np.zeros((4, 2)), times=[1.0]).shape == (1, 4, 2)


def described(path, change=None, tensors=None, drop=()) -> None:
    """The same file with other facts or tensors."""
    with safe_open(path, "np") as file:
        header = json.loads(file.metadata()["koopflow"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["model"].update(change or {})
    held.update(tensors or {})
    kept = {name: np.ascontiguousarray(array) for name, array in held.items() if name not in drop}
    save_file(kept, path, metadata={"koopflow": json.dumps(header)})


REAL = {"growth": 0.5, "frequency": 0.0}


@pytest.mark.parametrize(
    "change",
    [
        {"groups": []},
        {"groups": [0, 9]},
        {"groups": [0, -1]},
        {"groups": [1, 2]},
        {"groups": [0, 2, 1]},
        {"agreement": []},
        {"axis_groups": []},
        {"axis_groups": [0, 77]},
        {"unexplained": []},
        {"halves": [[], []]},
        {"rates": []},
        {"rates": [REAL]},
        {"rates": [REAL, REAL, REAL, {"growth": 0.0, "frequency": -3.0}]},
        {"event_shape": []},
        {"event_shape": [-3]},
        {"event_shape": [3, 0]},
        {"event_shape": [2**62, 4]},
        {"paths": 0},
        {"paths": -200},
        {"paths": 10**18},
        {"sizes": [33, 40, 3, 2, 9]},
        {"sizes": [-1, 40, 3, 3, 9]},
        {"motion": "much"},
        {"drift": None},
    ],
    ids=str,
)
def test_files_with_other_facts_are_refused(spec, tmp_path, change):
    spec.save(path := tmp_path / "flow.safetensors")
    described(path, change)
    with pytest.raises(CheckpointError):
        FlowSpectrum.load(path)


def test_files_with_other_tensors_are_refused(spec, tmp_path):
    spec.save(path := tmp_path / "flow.safetensors")
    whole = path.read_bytes()
    with safe_open(path, "np") as file:
        names = list(file.keys())
    assert len(names) > 10
    for name in names:
        path.write_bytes(whole)
        array = spec.core.array(name)
        for wrong in (array[:-1], array.astype(np.float32), np.full_like(array, np.nan), array[..., None]):
            described(path, tensors={name: wrong})
            with pytest.raises(CheckpointError, match=name):
                FlowSpectrum.load(path)
        path.write_bytes(whole)
        described(path, drop=(name,))
        with pytest.raises(CheckpointError, match=name):
            FlowSpectrum.load(path)
    path.write_bytes(whole)
    described(path, tensors={"foreign": np.zeros(3)})
    with pytest.raises(CheckpointError, match="foreign"):
        FlowSpectrum.load(path)


@pytest.mark.parametrize(
    "times", [TIMES[::-1], TIMES * 0.0, TIMES - 0.1], ids=["falling", "equal", "before 0"]
)
def test_files_whose_times_do_not_rise_from_zero_are_refused(spec, tmp_path, times):
    spec.save(path := tmp_path / "flow.safetensors")
    described(path, tensors={"times": times})
    with pytest.raises(CheckpointError, match="times"):
        FlowSpectrum.load(path)


def test_foreign_files_are_refused(spec, tmp_path):
    spec.save(path := tmp_path / "flow.safetensors")
    with pytest.raises(CheckpointError, match="holds a flow spectrum, expected a teacher"):
        FlowTeacher.load(path)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-9])
    (tmp_path / "noise").write_bytes(b"no file of ours")
    (tmp_path / "empty").write_bytes(b"")
    FlowTeacher.gaussian([0.0], [[2.0]]).save(tmp_path / "teacher")
    for name in ("cut", "noise", "empty", "teacher"):
        with pytest.raises(CheckpointError, match=name):
            FlowSpectrum.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        FlowSpectrum.load(tmp_path / "missing")
    with pytest.raises(ArgumentError, match="path"):
        FlowSpectrum.load(None)
    with pytest.raises(FileNotFoundError):
        spec.save(tmp_path / "no" / "folder")


# Arguments.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("by", [0.0, 1.0, 5.0, 1e3])
def test_samples_that_move_alike_have_no_spectrum(by, dtype):
    x0 = np.random.default_rng(0).normal(size=(64, 2))
    with pytest.raises(DivergenceError, match="move alike"):
        flow_spectrum((x0 + by * TIMES[:, None, None]).astype(dtype), times=TIMES)


def spoiled(paths: np.ndarray, value: float) -> np.ndarray:
    paths = paths.copy()
    paths[3, 7, 1] = value
    return paths


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda paths: paths[:, :15], ArgumentError, "n: expected at least 16 paths, got 15"),
        (lambda paths: paths[:, :0], ArgumentError, "at least 16 paths"),
        (lambda paths: paths[:, :, 0], ShapeError, r"source: expected paths \(33, B, \*event\)"),
        (lambda paths: paths[:-1], ShapeError, r"got \(32, 200, 3\)"),
        (lambda paths: paths[:, :, :0], (ShapeError, ArgumentError), "source|event"),
        (lambda paths: spoiled(paths, np.nan), NonFiniteError, "1 NaN"),
        (lambda paths: spoiled(paths, np.inf), NonFiniteError, "1 infinite"),
        (lambda paths: paths + 0j, DtypeError, "source"),
        (lambda paths: "paths.npy", DtypeError, "source"),
        (lambda paths: None, DtypeError, "source"),
        (lambda paths: FlowTeacher, TypeError, "source"),
    ],
)
def test_paths_that_cannot_be_read_are_refused(flow, change, error, text):
    with pytest.raises(error, match=text):
        flow_spectrum(change(flow.paths), times=flow.times)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"times": TIMES + 0.1}, "times"),
        ({"times": TIMES[::-1]}, "times"),
        ({"times": 2.0 * TIMES}, r"times: expected times in \[0, 1\]"),
        ({"times": np.r_[0.0, TIMES[:-1]]}, "times"),
        ({"times": np.r_[TIMES[:-1], np.inf]}, "times"),
        ({"times": np.r_[TIMES[:-1], np.nan]}, "times"),
        ({"times": 3}, "times: expected an integer from 4"),
        ({"times": True}, "times"),
        ({"times": "all"}, "times"),
        ({"n": 15}, "n: expected an integer of at least 16"),
        ({"n": 20.5}, "n"),
        ({"rates": 0}, "rates"),
        ({"rates": 32}, "rates: expected an integer from 1 to 31, got 32"),
        ({"rates": 1.5}, "rates"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"tolerance": np.nan}, "tolerance"),
        ({"components": 0}, "components"),
        ({"seed": -1}, "seed"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_options_out_of_range_are_refused(flow, options, text):
    with pytest.raises(ArgumentError, match=text):
        flow_spectrum(flow.paths, **{"times": flow.times, **options})


def test_selections(spec):
    assert [one.places.tolist() for one in spec] == [[0], [1], [2]]
    assert spec[-1].places.tolist() == [2]
    assert spec[[True, False, True]].places.tolist() == [0, 2]
    assert spec[spec.groups[1]].places.tolist() == spec.groups[1].tolist()
    assert spec[1:][0].places.tolist() == [1]
    assert len(spec.select(energy=0.5)) == 1
    assert len(spec.select(energy=1.0)) == len(spec.select(count=3)) == 3
    empty = spec[[]]
    assert empty.modes_at().shape == (0, 3)
    assert len(empty.to_frame()) == 0
    assert isinstance(empty.summary(), str)
    with pytest.raises(IndexError, match="places from -3 to 2"):
        spec[3]
    for key in ([3], 1.5, "first", None, [[0]]):
        with pytest.raises(ArgumentError, match="modes"):
            spec[key]
    for wrong in (
        {},
        {"count": 1, "energy": 0.5},
        {"count": 4},
        {"count": 0},
        {"energy": 0.0},
        {"energy": 1.1},
    ):
        with pytest.raises(ArgumentError, match="count|energy"):
            spec.select(**wrong)


def test_samples_that_do_not_fit_are_refused(spec, flow):
    x0 = flow.paths[0]
    with pytest.raises(ShapeError, match="x0"):
        spec.base(x0[:, :2])
    for t in (1.5, -0.1, np.nan):
        with pytest.raises(ArgumentError, match="t: expected"):
            spec.base(x0, t=t)
        with pytest.raises(ArgumentError, match="t: expected"):
            spec.modes_at(t)
    with pytest.raises(ShapeError, match="paths"):
        spec.amplitudes_of_paths(flow.paths[:4])
    with pytest.raises(NonFiniteError, match="paths"):
        spec.amplitudes_of_paths(spoiled(flow.paths, np.nan))
    with pytest.raises((ShapeError, ArgumentError), match="paths"):
        spec.amplitudes_of_paths(flow.paths[:, :0])
    own = spec.of(FlowTeacher.gaussian(np.zeros(3), np.eye(3)).field)
    with pytest.raises(ArgumentError, match="x0|empty"):
        own.amplitudes(x0[:0])
    for counts in ([-1], [4], [1.5], []):
        with pytest.raises(ArgumentError, match="counts"):
            own.truncation_curve(x0, counts=counts)
    assert own[[]].truncation_curve(x0)[0].tolist() == [0]
