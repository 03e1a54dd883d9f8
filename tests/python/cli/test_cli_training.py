"""train-teacher and distill, run as a person would: files, repetition, interruption, resuming."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller, Objective, datasets
from koopflow.cli import main, results, training
from koopflow.exceptions import DivergenceError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEACHER = ["--steps", "30", "--width", "16", "--depth", "1", "--set", "data.n=600", "--quiet"]
STUDENT = ["--steps", "30", "--width", "16", "--depth", "1", "--observables", "8", "--trajectories", "128"]


SMALL = ["--steps", "5", "--width", "8", "--depth", "1"]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def weights(model):
    """Samples say it all: bit for bit equal models have bit for bit equal ones."""
    return np.asarray(model.sample(32, seed=5))


def png(path):
    return path.read_bytes()[:4] == b"\x89PNG"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One teacher and one student, made by the commands."""
    folder = tmp_path_factory.mktemp("run")
    assert run("train-teacher", "--data", "moons", "--output", folder, "--seed", 3, *TEACHER) == 0
    teacher = folder / "teacher.safetensors"
    assert run("distill", "--teacher", teacher, "--output", folder, "--seed", 4, *STUDENT, "--quiet") == 0
    return folder


def test_the_files_of_a_run(folder):
    names = {path.name for path in folder.iterdir()}
    of_models = {
        f"{m}{e}" for m in ("teacher", "student") for e in (".safetensors", "-samples.png", "-training.png")
    }
    assert names == of_models | {"train-teacher.toml", "distill.toml"}
    assert all(png(folder / name) for name in names if name.endswith(".png"))


def test_the_commands_agree_with_the_python_api(folder):
    data = datasets.moons(600)
    train, _ = datasets.split(data, held_out=0.1)
    teacher = FlowTeacher((2,), steps=30, width=16, depth=1, seed=3).fit(train, progress=False)
    made = FlowTeacher.load(folder / "teacher.safetensors")
    np.testing.assert_array_equal(weights(made), weights(teacher))
    student = KoopmanDistiller(steps=30, width=16, depth=1, observables=8, trajectories=128, seed=4)
    student.fit(made, progress=False)
    made = KoopmanDistiller.load(folder / "student.safetensors")
    np.testing.assert_array_equal(weights(made), weights(student))
    assert made.get_params() == student.get_params()


def test_the_file_that_a_run_writes_repeats_it(folder, tmp_path):
    # Where the file says where results go, the command line wins.
    assert (
        run("train-teacher", "--config", folder / "train-teacher.toml", "--output", tmp_path, "--quiet") == 0
    )
    assert run("distill", "--config", folder / "distill.toml", "--output", tmp_path, "--quiet") == 0
    for name, cls in (("teacher", FlowTeacher), ("student", KoopmanDistiller)):
        first, second = (cls.load(place / f"{name}.safetensors") for place in (folder, tmp_path))
        np.testing.assert_array_equal(weights(first), weights(second))
    content = tomllib.loads((tmp_path / "distill.toml").read_text())
    assert content["run"] == {"output": str(tmp_path), "teacher": str(folder / "teacher.safetensors")}
    assert content["student"]["observables"] == 8
    assert content["resolved"]["batch_size"] == 128
    assert tomllib.loads((tmp_path / "train-teacher.toml").read_text())["resolved"]["learning_rate"] == 0.005


def test_flags_win_over_the_file(folder, tmp_path):
    code = run(
        "distill", "--config", folder / "distill.toml", "--output", tmp_path, "--steps", 7, "--quiet",
        "--set", "objective.weights.phase=0.5", "--set", "fidelity=endpoint",
    )  # fmt: skip
    assert code == 0
    student = KoopmanDistiller.load(tmp_path / "student.safetensors")
    assert (student.history_["steps"], student.fidelity) == (7, "endpoint")
    assert student.objective == Objective(weights={"phase": 0.5})
    assert student.observables == 8


def test_results_are_not_replaced_unasked(folder, capsys):
    before = (folder / "student.safetensors").read_bytes()
    teacher = folder / "teacher.safetensors"
    assert run("distill", "--teacher", teacher, "--output", folder, *STUDENT) == 2
    error = capsys.readouterr().err
    assert f"{folder / 'student.safetensors'} already exists: --overwrite replaces it" in error
    assert error.count("\n") == 1
    assert run("distill", "--resume", "--output", folder) == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert (folder / "student.safetensors").read_bytes() == before


def test_overwrite_replaces_results(tmp_path):
    for seed in (1, 2):
        arguments = ["--data", "8gaussians", "--output", tmp_path, "--overwrite", "--seed", seed, *TEACHER]
        assert run("train-teacher", *arguments) == 0
    assert tomllib.loads((tmp_path / "train-teacher.toml").read_text())["teacher"]["seed"] == 2


def interrupt_after(step):
    """Progress that ends a training as Ctrl-C does."""

    def progress(**_):
        def shown(event):
            if event["stage"] in ("teacher", "student") and event["step"] >= step:
                raise KeyboardInterrupt

        return shown

    return progress


def test_a_student_that_was_cut_goes_on_as_if_it_had_not_been(folder, tmp_path, monkeypatch, capsys):
    arguments = ["--teacher", folder / "teacher.safetensors", "--output", tmp_path, "--seed", 4, *STUDENT]
    arguments += ["--training.evaluate-every", "5"]
    whole = tmp_path / "whole"
    assert run("distill", *arguments, "--output", whole, "--quiet") == 0
    with monkeypatch.context() as patched:
        patched.setattr(training, "progress", interrupt_after(10))
        assert run("distill", *arguments) == 130
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "interrupted after 10 steps" in error
    assert str(tmp_path / "student.safetensors") in error
    assert "--resume" in error
    part = KoopmanDistiller.load(tmp_path / "student.safetensors")
    assert part.history_["stopped"] == "interrupted"

    # The same command says how to go on.
    assert run("distill", *arguments) == 2
    assert "--resume continues" in capsys.readouterr().err
    # Other options are not those of the run.
    assert run("distill", *arguments, "--resume", "--seed", 5, "--quiet") == 2
    assert "seed: expected 4" in capsys.readouterr().err
    # The settings are found where the run left them.
    assert run("distill", "--resume", "--output", tmp_path, "--quiet") == 0
    first, second = (KoopmanDistiller.load(place / "student.safetensors") for place in (whole, tmp_path))
    np.testing.assert_array_equal(weights(first), weights(second))
    assert not list(tmp_path.glob("*checkpoint*"))


def test_the_end_of_max_seconds_can_be_gone_beyond(folder, tmp_path, capsys):
    arguments = ["--teacher", folder / "teacher.safetensors", "--output", tmp_path, *STUDENT, "--quiet"]
    assert run("distill", *arguments, "--steps", 10**6, "--max-seconds", 0.3) == 0
    assert "the end of --max-seconds, --resume continues" in capsys.readouterr().out
    steps = KoopmanDistiller.load(tmp_path / "student.safetensors").history_["steps"]
    resumed = ["--output", tmp_path, "--steps", steps + 3, "--set", "max_seconds=none", "--quiet"]
    assert run("distill", "--resume", *resumed) == 0
    student = KoopmanDistiller.load(tmp_path / "student.safetensors")
    assert (student.history_["steps"], student.history_["stopped"]) == (steps + 3, "completed")


def interrupted(command, model, *arguments, output):
    """Ctrl-C in a real process after two checkpoints, at its beginning and later; its standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "koopflow", command, *map(str, arguments), "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    file, written, deadline = output / f"{model}.checkpoint.safetensors", set(), time.monotonic() + 60
    while len(written) < 2 and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            written.add(file.stat().st_ino)
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    # Whole lines for a log: no bar, no warning, no traceback.
    lines = error.splitlines()
    assert lines[-1].startswith(f"koopflow {command}: interrupted after ")
    assert str(output / f"{model}.safetensors") in lines[-1]
    assert "\r" not in error
    assert not any("Traceback" in line or "Warning" in line for line in lines)
    return lines


def test_ctrl_c_in_a_real_process_leaves_a_student(folder, tmp_path):
    endless = ["--steps", 10**7, "--set", "checkpoint_every=20"]
    teacher = folder / "teacher.safetensors"
    lines = interrupted("distill", "student", "--teacher", teacher, *STUDENT, *endless, output=tmp_path)
    assert any(line.startswith(f"distilling: 1/{10**7}, ") for line in lines)
    assert np.isfinite(weights(KoopmanDistiller.load(tmp_path / "student.safetensors"))).all()


def test_ctrl_c_in_a_real_process_leaves_a_teacher_that_goes_on(tmp_path):
    arguments = ["--data", "moons", "--coupling", "independent", "--width", 8, "--depth", 1, "--steps", 3000]
    whole = tmp_path / "whole"
    assert run("train-teacher", *arguments, "--output", whole, "--quiet") == 0
    interrupted("train-teacher", "teacher", *arguments, "--set", "checkpoint_every=50", output=tmp_path)
    part = FlowTeacher.load(tmp_path / "teacher.safetensors")
    assert part.history_["stopped"] == "interrupted"
    assert np.isfinite(weights(part)).all()
    # Fewer files: each is flushed to the disk.
    fewer = ["--set", "checkpoint_every=1000"]
    assert run("train-teacher", "--resume", "--output", tmp_path, "--quiet", *fewer) == 0
    first, second = (FlowTeacher.load(place / "teacher.safetensors") for place in (whole, tmp_path))
    assert second.history_["steps"] == 3000
    assert second.history_["loss"] == first.history_["loss"]
    np.testing.assert_array_equal(weights(first), weights(second))


def test_digits_with_their_labels(tmp_path):
    arguments = ["--data", "digits", "--labels", "--output", tmp_path, "--quiet", "--width", 16, "--depth", 1]
    assert run("train-teacher", *arguments, "--steps", 20) == 0
    teacher = FlowTeacher.load(tmp_path / "teacher.safetensors")
    assert teacher.sample(2, condition=np.array([0, 9])).shape == (2, *teacher.event_shape)
    assert png(tmp_path / "teacher-samples.png")
    data = ["--data", "digits", "--teacher", tmp_path / "teacher.safetensors", "--output", tmp_path]
    small = ["--steps", 10, "--width", 16, "--depth", 1, "--observables", 8, "--trajectories", 64, "--quiet"]
    assert run("distill", *data, *small) == 0
    student = KoopmanDistiller.load(tmp_path / "student.safetensors")
    assert student.teacher_["conditioning"] == {"labels": {"classes": 10}}


def test_array_files(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "points.npy", rng.normal(size=(200, 5)))
    np.savez(tmp_path / "pairs.npz", x=rng.normal(size=(200, 3)), y=rng.normal(size=(200, 2)).astype("f4"))
    small = ["--steps", 5, "--width", 8, "--depth", 1, "--quiet"]
    five = tmp_path / "five"
    # There is nothing to resume, so it begins.
    arguments = ["--data", tmp_path / "points.npy", "--output", five, "--resume", *small]
    assert run("train-teacher", *arguments) == 0
    assert FlowTeacher.load(five / "teacher.safetensors").event_shape == (5,)
    # Five coordinates are neither an image nor a point in the plane.
    assert not (five / "teacher-samples.png").exists()
    code = run(
        "train-teacher", "--data", tmp_path / "pairs.npz", "--labels", "--output", tmp_path / "c", *small
    )
    assert code == 0
    teacher = FlowTeacher.load(tmp_path / "c" / "teacher.safetensors")
    assert teacher.sample(2, condition=np.zeros((2, 2), "f4")).shape == (2, 3)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data: expected one of 8gaussians, "),
        (["--data", "photoz"], "got 'photoz', which does not exist"),
        (["--data", "moons", "--labels"], "--labels: expected data with labels, got moons"),
        (["--data", "moons", "--num-classes", "3"], "--labels: expected data with labels, got moons"),
        (["--data", "moons", "--held-out", "1.5"], "--held-out: expected a share from 0 to below 1, got 1.5"),
        (["--data", "moons", "--held-out", "0.00001"], "held_out: expected between 1 and"),
        (["--data", "moons", "--data.n", "0"], "n: expected an integer of at least 1, got 0"),
        (["--data", "digits", "--set", "data.n=10"], "data.n: digits has no such option"),
        (["--data", "moons"], "--output: expected a folder, got nothing"),
        (["--data", "moons", "--output", "OUT", "--coupling", "optimal"], "coupling: "),
        (["--data", "moons", "--output", "OUT", "--device", "abacus"], "abacus"),
        (["--data", "moons", "--output", "OUT", "--steps", "0"], "steps: expected an integer from 1 to "),
        (["--data", "moons", "--output", "FILE"], "--output: expected a folder, got the file"),
        (["--data", "FILE.npy", "--output", "OUT"], "as an array file"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(arguments, message, tmp_path, capsys):
    places = {"OUT": tmp_path / "out", "FILE": tmp_path / "file", "FILE.npy": tmp_path / "file.npy"}
    for name in ("FILE", "FILE.npy"):
        places[name].write_text("no array")
    assert run("train-teacher", *[places.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("koopflow train-teacher: error: ")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digits"], "data: expected shape (B, 2), got (1617, 64)"),
        (["--objective.weights.fase", "1"], "fase"),
        (["--generator", "sparse"], "sparse"),
        (["--set", "checkpoint_every=0"], "checkpoint_every: expected an integer of at least 1, got 0"),
    ],
)
def test_what_cannot_be_distilled_is_one_line(arguments, message, folder, tmp_path, capsys):
    assert run("distill", "--teacher", folder / "teacher.safetensors", "--output", tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(2,), (6, 6)])
def test_text_labels_are_one_line(shape, tmp_path, capsys):
    path = tmp_path / "text.npz"
    arrays = {"images": np.zeros((20, *shape), "f4"), "labels": np.array(["cat", "dog"] * 10)}
    np.savez(path, **arrays)
    arguments = ["--data", path, "--output", tmp_path / "out", *SMALL]
    assert run("train-teacher", *arguments, "--labels") == 2
    error = capsys.readouterr().err
    assert "labels" in error
    assert "<U3" in error
    assert error.count("\n") == 1
    # Nobody asked for them.
    assert run("train-teacher", *arguments) == 0
    assert FlowTeacher.load(tmp_path / "out" / "teacher.safetensors").sample(1).shape[-1] == shape[-1]


def test_labels_may_be_a_column_and_samples_no_text(tmp_path, capsys):
    path, arguments = tmp_path / "rows.npz", ["--output", tmp_path / "out", *SMALL]
    np.savez(path, x=np.random.default_rng(0).normal(size=(60, 2)), y=np.arange(60)[:, None] % 3)
    assert run("train-teacher", "--data", path, "--labels", *arguments) == 0
    assert (
        FlowTeacher.load(tmp_path / "out" / "teacher.safetensors").field.conditioning
        == '{"labels":{"classes":3}}'
    )
    capsys.readouterr()
    np.savez(path, x=np.array([["a", "b"]] * 20))
    assert run("train-teacher", "--data", path, *arguments, "--overwrite") == 2
    error = capsys.readouterr().err
    assert "samples: expected a dense array of numbers, got an array of <U1" in error
    assert error.count("\n") == 1


def test_training_needs_no_standard_streams(tmp_path, monkeypatch):
    """Python has None for a stream that is closed."""
    arguments = ["--data", "moons", "--output", tmp_path, *SMALL]
    with monkeypatch.context() as patched:
        for stream in ("stdin", "stdout", "stderr"):
            patched.setattr(sys, stream, None)
        codes = run("train-teacher", *arguments), run("train-teacher", *arguments, "--steps", 0)
        # The command opened others in their place.
        sys.stdout.close()
        sys.stderr.close()
    assert codes == (0, 2)
    assert np.isfinite(weights(FlowTeacher.load(tmp_path / "teacher.safetensors"))).all()


@pytest.mark.slow
def test_a_real_process_needs_no_standard_error(tmp_path):
    arguments = ["train-teacher", "--data", "moons", "--output", str(tmp_path), *SMALL]
    for more, code in ([], 0), (["--overwrite"], 0), (["--steps", "0", "--overwrite"], 2):
        command = [sys.executable, "-m", "koopflow", *arguments, *more]
        closed = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], capture_output=True, check=False)
        assert closed.returncode == code
        assert b"Traceback" not in closed.stdout
    assert np.isfinite(weights(FlowTeacher.load(tmp_path / "teacher.safetensors"))).all()


def test_a_training_that_diverges_leaves_the_best_so_far(folder, tmp_path, monkeypatch, capsys):
    fit = KoopmanDistiller.fit

    @functools.wraps(fit)
    def diverges(*arguments, **options):
        fit(*arguments, **options)
        raise DivergenceError("training diverged")

    monkeypatch.setattr(KoopmanDistiller, "fit", diverges)
    teacher = folder / "teacher.safetensors"
    assert run("distill", "--teacher", teacher, "--output", tmp_path, *STUDENT, "--quiet") == 1
    error = capsys.readouterr().err
    assert f"training diverged; the best student before that is {tmp_path / 'student.safetensors'}" in error
    assert error.count("\n") == 1
    assert KoopmanDistiller.load(tmp_path / "student.safetensors").history_["steps"] == 30


def test_a_student_is_no_teacher(folder, tmp_path, capsys):
    assert run("distill", "--teacher", folder / "student.safetensors", "--output", tmp_path) == 2
    assert "holds a student, expected a teacher" in capsys.readouterr().err


def test_lines_for_a_log_are_few_and_whole(capsys):
    lines = results.Lines(sys.stderr)
    for step in range(1, 1001):
        values = {"loss": 1.0 / step}
        lines({"stage": "teacher", "step": step, "total": 1000, "seconds": step / 40, "values": values})
    lines({"stage": "teacher", "step": 1000, "total": 1000, "seconds": 25.0, "values": {}, "note": "a note"})
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 5
    assert shown[0] == "training the teacher: 1/1000, 0 s, loss 1"
    # 400 of 1000 steps took ten seconds.
    assert shown[1] == "training the teacher: 401/1000, 10 s, about 15 s left, loss 0.00249"
    assert shown[-1] == "training the teacher: a note"
