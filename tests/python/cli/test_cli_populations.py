"""train-teacher --snapshots, and distill --segments with what reads its files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller, SegmentedDistiller
from koopflow.cli import main

SMALL = ("--steps", 5, "--width", 8, "--depth", 1, "--quiet")
STUDENT = (*SMALL, "--observables", 8, "--trajectories", 64)
CELLS = [np.random.default_rng(k).normal(k, 0.2, (30 + k, 2)).astype(np.float32) for k in range(3)]


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    for k, cells in enumerate(CELLS):
        np.save(folder / f"{k}.npy", cells)
    return [folder / f"{k}.npy" for k in range(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher and a student of three segments of it, made by the commands."""
    folder = tmp_path_factory.mktemp("run")
    given = ("--data", "moons", "--data.n", 200, "--horizon", "[0, 6]")
    assert run("train-teacher", *given, *SMALL, "-o", folder) == 0
    teacher = folder / "teacher.safetensors"
    assert run("distill", "--teacher", teacher, "--segments", 3, *STUDENT, "-o", folder) == 0
    return folder


def snapshots(files, *more):
    return run("train-teacher", "--snapshots", *files, *more)


def test_snapshots_are_those_of_python(files, tmp_path, capsys):
    options = (
        "--times",
        -1,
        0.5,
        2,
        "--interpolant",
        "spline",
        "--growth",
        1,
        2,
        4,
        "--coupling",
        "independent",
    )
    assert snapshots(files, *options, *SMALL, "-o", tmp_path / "run") == 0
    assert "snapshots of 30, 31, 32 rows of 2" in capsys.readouterr().out
    teacher = FlowTeacher.load(tmp_path / "run" / "teacher.safetensors")
    same = FlowTeacher.snapshots(
        CELLS,
        [-1, 0.5, 2],
        interpolant="spline",
        growth=[1, 2, 4],
        coupling="independent",
        steps=5,
        width=8,
        depth=1,
        progress=False,
    )
    assert teacher.clock == same.clock
    np.testing.assert_array_equal(teacher.sample(x0=CELLS[0]), same.sample(x0=CELLS[0]))
    np.testing.assert_array_equal(teacher.growth(0.5, CELLS[1]), same.growth(0.5, CELLS[1]))
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"train-teacher.toml", "teacher-samples.png", "teacher-training.png"} <= written
    # The file of settings repeats the run.
    again = ("train-teacher", "--config", tmp_path / "run" / "train-teacher.toml", "-o", tmp_path / "again")
    assert run(*again, "--quiet") == 0
    other = FlowTeacher.load(tmp_path / "again" / "teacher.safetensors")
    np.testing.assert_array_equal(other.sample(5), teacher.sample(5))


def test_a_file_of_settings_has_snapshots(files, tmp_path):
    text = f"[populations]\nsnapshots = {json.dumps([str(file) for file in files])}\ntimes = [0, 12, 24]\n"
    (tmp_path / "run.toml").write_text(text)
    assert run("train-teacher", "--config", tmp_path / "run.toml", *SMALL, "-o", tmp_path / "run") == 0
    clock = FlowTeacher.load(tmp_path / "run" / "teacher.safetensors").clock
    assert (clock.start, clock.end) == (0.0, 24.0)


def test_resuming_goes_on_with_the_same_snapshots(files, tmp_path):
    options = (*SMALL, "--steps", 10**6, "--max-seconds", 0.3)
    assert snapshots(files, "--times", 0, 1, 2, *options, "-o", tmp_path) == 0
    first = FlowTeacher.load(tmp_path / "teacher.safetensors").history_
    assert first["stopped"] == "budget"
    longer = ("--steps", first["steps"] + 3, "--set", "max_seconds=none", "--quiet", "-o", tmp_path)
    assert run("train-teacher", "--resume", *longer) == 0
    teacher = FlowTeacher.load(tmp_path / "teacher.safetensors")
    assert (teacher.history_["steps"], teacher.history_["stopped"]) == (first["steps"] + 3, "completed")
    assert (teacher.clock.start, teacher.clock.end) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--times", 0, 2, 1), "times"),
        (("--times", 0, 1), "times"),
        ((), "--times: expected a time for each of --snapshots, got nothing"),
        (("--times", 0, "one", 2), "--times: expected"),
        (("--times", 0, 1, 2, "--interpolant", "cubic"), "interpolant"),
        (("--times", 0, 1, 2, "--coupling", "nearest"), "coupling"),
        (("--times", 0, 1, 2, "--growth", 1, 2), "sizes|growth"),
        (("--times", 0, 1, 2, "--data", "moons"), "--data: expected nothing with --snapshots, got 'moons'"),
        (("--times", 0, 1, 2, "--labels"), "--labels: expected nothing with --snapshots"),
        (("--times", 0, 1, 2, "--source", "8gaussians"), "--source: expected nothing with --snapshots"),
        (("--times", 0, 1, 2, "--horizon", "[0, 2]"), "--horizon: expected nothing with --snapshots"),
        (("--times", 0, 1, 2, "--num_classes", 3), "--num_classes: expected nothing with --snapshots"),
    ],
)
def test_bad_snapshots_are_named(more, message, files, tmp_path, capsys):
    assert snapshots(files, *more, *SMALL, "-o", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert any(part in said for part in message.split("|")), said
    assert said.count("\n") == 1


def test_files_that_are_no_snapshots_are_named(files, tmp_path, capsys):
    (tmp_path / "cells.csv").write_text("1,2\n")
    (tmp_path / "cells.npy").write_text("nothing")
    np.save(tmp_path / "wide.npy", np.zeros((5, 3), np.float32))
    for file, message in (
        ("nowhere.npy", "--snapshots: expected an .npy or .npz file of each snapshot, got 'nowhere.npy'"),
        (tmp_path / "cells.csv", "--snapshots: expected an .npy or .npz file of each snapshot"),
        (tmp_path / "cells.npy", "--snapshots: cannot read"),
        (tmp_path / "wide.npy", "snapshots[1]"),
    ):
        assert snapshots([files[0], file], "--times", 0, 1, *SMALL, "-o", tmp_path / "run") == 2
        assert message in capsys.readouterr().err
    assert snapshots(files[:1], "--times", 0, *SMALL, "-o", tmp_path / "run") == 2
    assert "snapshots" in capsys.readouterr().err
    assert run("train-teacher", "--data", "moons", "--times", 0, 1, *SMALL, "-o", tmp_path / "run") == 2
    assert "--times: expected nothing without --snapshots" in capsys.readouterr().err


def test_segments_are_those_of_python(folder):
    student = SegmentedDistiller.load(folder / "student.safetensors")
    assert [one.clock.start for one in student.students_] == [0.0, 2.0, 4.0]
    teacher = FlowTeacher.load(folder / "teacher.safetensors")
    small = KoopmanDistiller(steps=5, width=8, depth=1, observables=8, trajectories=64)
    same = SegmentedDistiller(3, student=small).fit(teacher, progress=False)
    np.testing.assert_array_equal(student.sample(6), same.sample(6))
    assert (folder / "student-samples.png").exists()
    assert not (folder / "student-training.png").exists()


def test_segments_are_sampled_inverted_and_evaluated(folder, tmp_path, capsys):
    file = folder / "student.safetensors"
    student = SegmentedDistiller.load(file)
    assert run("sample", file, "-n", 20, "--seed", 4, "-o", tmp_path / "x.npy") == 0
    x = np.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(x, student.sample(20, seed=4))
    assert run("sample", file, "--steps", 2, "-o", tmp_path / "y.npy") == 2
    assert "sample.steps: not an option for a student of segments" in capsys.readouterr().err

    assert run("invert", file, "--states", tmp_path / "x.npy", "-o", tmp_path / "x0.npy") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x0.npy"), student.invert(x))

    teacher, report = folder / "teacher.safetensors", tmp_path / "report.json"
    data = ("--data", "moons", "--data.n", 200)
    given = ("--student", file, "--teacher", teacher, *data, "--n", 50)
    assert run("evaluate", *given, "-o", report) == 0
    assert "endpoint error" in capsys.readouterr().out
    found = json.loads(report.read_text())["evaluation"]
    from koopflow import datasets

    held_out = datasets.split(datasets.moons(200), held_out=0.1, seed=0)[1]
    expected = student.evaluate(FlowTeacher.load(teacher), held_out, n=50)
    assert found["endpoint_error"]["value"] == pytest.approx(expected["endpoint_error"].value)
    assert set(found) == set(expected)


def test_whole_students_are_inverted_too(folder, tmp_path, capsys):
    teacher = folder / "teacher.safetensors"
    assert run("distill", "--teacher", teacher, *STUDENT, "-o", tmp_path) == 0
    np.save(tmp_path / "x.npy", CELLS[0])
    file = tmp_path / "student.safetensors"
    assert run("invert", file, "--states", tmp_path / "x.npy", "-o", tmp_path / "x0.npz") == 0
    found = np.load(tmp_path / "x0.npz")["samples"]
    np.testing.assert_array_equal(found, KoopmanDistiller.load(file).invert(CELLS[0]))
    for given, message in (
        ((teacher, "--states", tmp_path / "x.npy"), "teacher"),
        ((file, "--states", "nowhere.npy"), "--states: expected an .npy or .npz file, got 'nowhere.npy'"),
        ((file,), "--states: expected an .npy or .npz file, got nothing"),
        ((file, "--states", tmp_path / "x0.npz", "--condition", tmp_path / "x.npy"), "--condition"),
    ):
        assert run("invert", *given, "-o", tmp_path / "other.npy") == 2
        assert message in capsys.readouterr().err
    assert run("invert", file, "--states", tmp_path / "x.npy", "-o", tmp_path / "x.npy", "--overwrite") == 2
    assert "--output" in capsys.readouterr().err


def test_segments_of_a_conditional_teacher_take_the_labels_of_data(tmp_path):
    rows, labels = CELLS[0], np.arange(30) % 2
    np.savez(tmp_path / "data.npz", x=rows, y=labels)
    data = ("--data", tmp_path / "data.npz")
    assert run("train-teacher", *data, "--labels", *SMALL, "-o", tmp_path / "run") == 0
    teacher = tmp_path / "run" / "teacher.safetensors"
    made = ("distill", "--teacher", teacher, *data, "--segments", "[0, 0.25, 1]", *STUDENT)
    assert run(*made, "-o", tmp_path / "run") == 0
    file = tmp_path / "run" / "student.safetensors"
    assert len(SegmentedDistiller.load(file).students_) == 2
    assert run("sample", file, "--label", 1, "-n", 5, "-o", tmp_path / "x.npy") == 0
    inverted = ("invert", file, "--states", tmp_path / "data.npz", "-o", tmp_path / "x0.npz")
    assert run(*inverted) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x0.npz")["condition"], labels)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--segments", 0), "segments"),
        (("--segments", "[0, 9, 6]"), "segments: expected"),
        (("--segments", "many"), "--segments: expected"),
        (("--segments", 2, "--predecessors", 1.5), "predecessors"),
        (("--segments", 2, "--resume"), "--resume: expected nothing with --segments"),
        (("--segments", 2, "--checkpoint-every", 5), "--checkpoint_every: expected nothing with --segments"),
    ],
)
def test_bad_segments_are_named(more, message, folder, tmp_path, capsys):
    made = ("distill", "--teacher", folder / "teacher.safetensors", *more, *STUDENT, "-o", tmp_path / "run")
    assert run(*made) == 2
    assert message in capsys.readouterr().err


def test_a_single_student_reads_no_file_of_segments(folder, capsys):
    assert run("spectrum", folder / "student.safetensors") == 2
    assert "segments" in capsys.readouterr().err


def test_noise_on_the_rows_of_a_file(tmp_path, capsys):
    np.save(tmp_path / "rows.npy", CELLS[2])
    given = ("--data", "moons", "--data.n", 100, "--source", tmp_path / "rows.npy", *SMALL)
    assert run("train-teacher", *given, "--source-noise", 0.3, "-o", tmp_path / "run") == 0
    teacher = FlowTeacher.load(tmp_path / "run" / "teacher.safetensors")
    assert teacher.source_noise == teacher.field.source.noise == 0.3
    again = ("train-teacher", "--config", tmp_path / "run" / "train-teacher.toml", "-o", tmp_path / "again")
    assert run(*again, "--quiet") == 0
    other = FlowTeacher.load(tmp_path / "again" / "teacher.safetensors")
    np.testing.assert_array_equal(other.sample(5), teacher.sample(5))
    assert run("train-teacher", *given, "--source-noise", -1, "-o", tmp_path / "bad") == 2
    assert "source_noise: expected a finite number >= 0" in capsys.readouterr().err
