"""What fitting costs in evaluations of the teacher, and trajectory files through crashes and refits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from koopflow import FlowTeacher, KoopmanDistiller, _core, datasets
from koopflow.exceptions import ArgumentError, CheckpointError, ShapeError

ONLY_CONSISTENCY = {
    "endpoint": 0,
    "path": 0,
    "target": 0,
    "inverse": 0,
    "round_trip": 0,
    "phase": 0,
    "consistency": 1,
}
DATA = datasets.moons(512)

# One to know the teacher again, eight along the held-out paths: no ODE.
REUSED = 1 + 8


def tiny(**options):
    defaults = {
        "observables": 8,
        "width": 16,
        "depth": 1,
        "steps": 25,
        "trajectories": 256,
        "trajectories__path_steps": 8,
    }
    return KoopmanDistiller().set_params(**{**defaults, **options})


@pytest.fixture(scope="module")
def trained():
    teacher = FlowTeacher((2,), coupling="independent", path="vp", width=16, depth=1, steps=30)
    return teacher.fit(DATA, progress=False)


# --- what it costs --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["trained", "empirical", "given"])
def test_consistency_alone_solves_no_ode(kind, trained):
    """One evaluation a step and one for the held-out points, which counts no solver could hide in."""
    if kind == "given":
        teacher, given = FlowTeacher.gaussian([1.0, 2.0], np.eye(2)), {"data": DATA}
    else:
        teacher, given = (trained if kind == "trained" else FlowTeacher.empirical(DATA)), {}
    before = teacher.evaluations
    stages = set()
    student = tiny(objective__weights=ONLY_CONSISTENCY)
    student.fit(teacher, progress=False, callback=lambda event: stages.add(event["stage"]), **given)
    assert teacher.evaluations - before == student.history_["teacher_evaluations"] == 25 + 1
    assert student.history_["trajectories"] == 0
    assert stages == {"student"}
    assert "consistency_residual" in student.history_["log"][-1]
    assert "endpoint_error" not in student.history_["log"][-1]


@pytest.mark.parametrize("steps", [4, 8])
def test_trajectories_by_fixed_steps_are_those_steps(steps, tmp_path):
    """Euler's, written out in NumPy; so many evaluations, and a file that another solver's fit refuses."""
    teacher, file = FlowTeacher.gaussian([1.0, 2.0], np.eye(2) * 0.3), tmp_path / "paths"
    euler = {"trajectories__solver": "euler", "trajectories__path_steps": 4}
    student = tiny(**euler, trajectories__solver_steps=steps).fit(
        teacher, progress=False, trajectory_file=file
    )
    # One to know the teacher again and eight along held-out paths, of which four are stored.
    assert student.history_["teacher_evaluations"] == steps + 1 + 4
    states = load_file(file)["states"]
    x, every = states[:, 0].astype(np.float64), steps // 4
    for step in range(steps):
        # The flow of N(0, 1) to N(mean, C) by the straight path, from the posterior means of both ends.
        t = step / steps
        variance = (1 - t) ** 2 + t**2 * 0.3
        off = x - t * np.array([1.0, 2.0])
        x = x + (np.array([1.0, 2.0]) + off * (t * 0.3 - (1 - t)) / variance) / steps
        if (step + 1) % every == 0:
            np.testing.assert_allclose(states[:, (step + 1) // every], x, atol=2e-5)
    for other in ({**euler, "trajectories__solver_steps": 12}, {"trajectories__path_steps": 4}):
        with pytest.raises(CheckpointError, match=f"solver is euler with {steps} steps, this fit needs"):
            tiny(**other).fit(teacher, progress=False, trajectory_file=file)


def test_steps_that_no_solver_has_are_refused():
    teacher = FlowTeacher.gaussian([1.0, 2.0], np.eye(2))
    for options, message in [
        ({"solver_steps": 8}, "solver_steps: expected none with solver='dopri5'"),
        ({"solver": "ab2", "solver_steps": 0}, "solver_steps: expected an integer from 1"),
        ({"solver": "leapfrog"}, "solver"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            tiny(**{f"trajectories__{name}": value for name, value in options.items()}).fit(
                teacher, progress=False
            )


def test_without_data_solved_trajectories_serve():
    student = tiny(objective__weights=ONLY_CONSISTENCY).fit(
        FlowTeacher.gaussian([1.0, 2.0], np.eye(2)), progress=False
    )
    assert student.history_["trajectories"] == 256
    assert student.history_["teacher_evaluations"] > 25 + 6


def test_a_loaded_teacher_brings_no_data_and_says_so(trained, tmp_path):
    """The same call learnt from other points after a restart, and nobody was told."""
    trained.save(tmp_path / "teacher.safetensors")
    loaded = FlowTeacher.load(tmp_path / "teacher.safetensors")
    assert loaded.training_data_ is None
    np.testing.assert_array_equal(trained.training_data_.data, DATA)
    noise = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    student = tiny(objective__weights=ONLY_CONSISTENCY)
    here = student.fit(trained, progress=False).sample(x0=noise)
    with pytest.warns(UserWarning, match=r"does not hold its training data.*fit\(teacher, data=\.\.\.\)"):
        student.fit(loaded, progress=False)
    assert student.history_["trajectories"] == 256
    # With the data, everything is as in the process that trained the teacher; without the term, too.
    np.testing.assert_array_equal(student.fit(loaded, data=DATA, progress=False).sample(x0=noise), here)
    tiny().fit(loaded, progress=False)


@pytest.mark.parametrize("kind", [np.ndarray, torch.Tensor])
def test_teachers_keep_copies(kind):
    """Somebody who reuses an array does not change what a later student learns from."""
    labels = np.arange(512) % 2
    samples = []
    for changes in (False, True):
        data = DATA.copy() if kind is np.ndarray else torch.from_numpy(DATA.copy())
        condition = labels.copy()
        teacher = FlowTeacher((2,), num_classes=2, width=16, depth=1, steps=5)
        teacher.fit(data, condition=condition, progress=False)
        if changes:
            data *= 0.3
            condition[:] = 0
        student = tiny(objective__weights=ONLY_CONSISTENCY).fit(teacher, progress=False)
        samples.append(student.sample(16, condition=labels[:16]))
    np.testing.assert_array_equal(samples[0], samples[1])
    exact = DATA.copy()
    empirical = FlowTeacher.empirical(exact)
    exact *= 0.3
    np.testing.assert_array_equal(empirical.training_data_.data, DATA)


def test_data_that_are_mapped_from_a_file_are_not_copied(tmp_path):
    np.save(tmp_path / "data.npy", DATA)
    data = np.load(tmp_path / "data.npy", mmap_mode="r")
    teacher = FlowTeacher((2,), width=16, depth=1, steps=5).fit(data, progress=False)
    assert teacher.training_data_.data is data


def test_pairing_follows_the_teacher_unless_it_is_given(trained):
    fit = {"progress": False}
    config = tiny(steps=1).fit(trained, **fit).config_
    assert (config["coupling"], config["path"]) == ("independent", "vp")
    config = tiny(steps=1, objective__coupling="ot", objective__path="linear").fit(trained, **fit).config_
    assert (config["coupling"], config["path"]) == ("ot", "linear")
    config = tiny(steps=1).fit(FlowTeacher.empirical(DATA), **fit).config_
    assert (config["coupling"], config["path"]) == ("independent", "linear")


def test_a_conditional_teacher_brings_its_own_pairs():
    labels = np.arange(512) % 2
    teacher = FlowTeacher((2,), num_classes=2, width=16, depth=1, steps=5)
    teacher.fit(DATA, condition=labels, progress=False)
    before = teacher.evaluations
    student = tiny(objective__weights=ONLY_CONSISTENCY)
    assert student.fit(teacher, progress=False).sample(4, condition=[0, 1, 0, 1]).shape == (4, 2)
    assert teacher.evaluations - before == 26
    with pytest.raises(ArgumentError, match="condition"):
        student.fit(teacher, data=DATA, condition=labels[:7], progress=False)
    with pytest.raises(ArgumentError, match="condition"):
        student.fit(teacher, data=DATA, progress=False)


def test_fresh_conditional_samples_are_made_in_chunks(monkeypatch):
    labels = np.arange(512) % 2
    teacher = FlowTeacher((2,), num_classes=2, width=16, depth=1, steps=5)
    teacher.fit(DATA, condition=labels, progress=False)
    student = tiny(objective__weights=ONLY_CONSISTENCY).fit(teacher, progress=False)
    many = np.arange(600_000) % 2
    noise = _core.normal((len(many), 2), 5)
    whole = student.sample(x0=noise, condition=many)

    def all_at_once(*_):
        raise AssertionError("the noise of all samples was made at once")

    monkeypatch.setattr(_core, "normal", all_at_once)
    np.testing.assert_array_equal(student.sample(len(many), seed=5, condition=many), whole)
    with pytest.raises(ArgumentError, match="condition"):
        student.sample(3, condition=many)


def test_pair_sources_by_keyword(gaussian):
    for options in ({"pairs": "endpoints"}, {"pairs": "time_grouped", "curriculum": "forward"}):
        student = tiny(**{f"trajectories__{name}": value for name, value in options.items()}).fit(
            gaussian, progress=False
        )
        assert {**student.config_, **options} == student.config_
    with pytest.raises(ArgumentError, match="curriculum"):
        tiny(trajectories__curriculum="forward").fit(gaussian, progress=False)
    with pytest.raises(ArgumentError, match="pairs"):
        tiny(trajectories__pairs="all").fit(gaussian, progress=False)
    with pytest.raises(ShapeError, match="data"):
        tiny().fit(gaussian, data=np.zeros((8, 3), np.float32), progress=False)


def test_memory_bounds_the_trajectories(gaussian):
    student = tiny(trajectories__memory=100 * 9 * 2 * 4 / 2**30).fit(gaussian, progress=False)
    assert student.history_["trajectories"] == 100


# --- trajectory files -----------------------------------------------------------------------------


def test_a_file_is_reused_refreshed_and_refused(tmp_path, gaussian):
    file = tmp_path / "paths.safetensors"
    in_memory = tiny().fit(gaussian, progress=False)
    first = tiny().fit(gaussian, trajectory_file=file, progress=False)
    again = tiny().fit(gaussian, trajectory_file=str(file), progress=False)
    assert again.history_["teacher_evaluations"] == REUSED
    noise = np.ones((5, 2), np.float32)
    np.testing.assert_array_equal(first.sample(x0=noise), in_memory.sample(x0=noise))
    np.testing.assert_array_equal(again.sample(x0=noise), in_memory.sample(x0=noise))

    states = load_file(file)["states"]
    assert states.shape == (256, 9, 2)
    exact = gaussian.sample(x0=states[:, 0])
    assert np.abs(states[:, -1] - exact).max() < 5e-3

    with pytest.raises(CheckpointError, match=r"number of trajectories is 256.*refresh=True"):
        tiny(trajectories=300).fit(gaussian, trajectory_file=file, progress=False)
    other = FlowTeacher.gaussian([0.0, 0.0], np.eye(2))
    with pytest.raises(CheckpointError, match=r"another teacher.*refresh=True"):
        tiny().fit(other, trajectory_file=file, progress=False)
    fresh = tiny().fit(other, trajectory_file=file, refresh=True, progress=False)
    assert fresh.history_["teacher_evaluations"] > REUSED
    reused = tiny().fit(other, trajectory_file=file, progress=False)
    assert reused.history_["teacher_evaluations"] == REUSED

    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="truncated"):
        tiny().fit(other, trajectory_file=file, progress=False)
    with pytest.raises(FileNotFoundError):
        tiny().fit(other, trajectory_file=tmp_path / "no" / "folder", progress=False)


CHILD = """
import sys
import numpy as np
from koopflow import FlowTeacher, KoopmanDistiller

def watch(event):
    print(event["stage"], event["step"], flush=True)
    if event["stage"] == "trajectories" and event["step"] >= int(sys.argv[2]):
        sys.stdin.read()   # Until the parent kills.

student = KoopmanDistiller(observables=8, width=16, steps=5, trajectories={'count': 10_000, 'path_steps': 8})
student.fit(FlowTeacher.gaussian([1.0, 2.0], np.eye(2)), trajectory_file=sys.argv[1], progress=watch)
"""


@pytest.mark.parametrize("killed_at", [pytest.param(2048, marks=pytest.mark.slow), 6144])
def test_generation_survives_kill_9(tmp_path, killed_at):
    file = tmp_path / "paths.safetensors"
    command = [sys.executable, "-c", CHILD, str(file), str(killed_at)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            for line in child.stdout:
                if line.split() == ["trajectories", str(killed_at)]:
                    break
        finally:
            child.kill()
    assert not file.exists()
    partial = file.with_name(file.name + ".partial")
    assert partial.exists()

    teacher = FlowTeacher.gaussian([1.0, 2.0], np.eye(2))
    student = tiny(trajectories=10_000, steps=5)
    steps = []

    def watch(event):
        if event["stage"] == "trajectories":
            steps.append(event["step"])

    student.fit(teacher, trajectory_file=file, progress=False, callback=watch)
    assert steps == [killed_at, *range(killed_at + 2048, 10_000, 2048), 10_000]
    assert not partial.exists()
    whole = tmp_path / "whole.safetensors"
    student.fit(teacher, trajectory_file=whole, progress=False)
    np.testing.assert_array_equal(load_file(file)["states"], load_file(whole)["states"])


def test_ctrl_c_keeps_what_was_solved(tmp_path, gaussian):
    file = tmp_path / "paths.safetensors"

    def stop(event):
        raise KeyboardInterrupt

    student = tiny(trajectories=5000)
    with pytest.raises(KeyboardInterrupt):
        student.fit(gaussian, trajectory_file=file, progress=stop)
    steps = []
    student.fit(gaussian, trajectory_file=file, progress=False, callback=lambda e: steps.append(e["step"]))
    assert steps[:3] == [2048, 4096, 5000]
