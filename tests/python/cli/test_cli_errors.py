"""What people give by mistake: one line on standard error, exit code 2, and nothing lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.cli import main

SMALL = ["--steps", "2", "--width", "8", "--depth", "1", "--quiet", "--overwrite", "--output", "out"]
TEACH = ["train-teacher", "--data", "moons", "--data.n", "100", *SMALL]
DISTIL = ["distill", "--teacher", "teacher.safetensors", "--trajectories", "64", *SMALL]
SAMPLE = ["sample", "student.safetensors", "-n", "4"]


@pytest.fixture
def folder(gaussian, student, tmp_path, monkeypatch):
    """A folder to work in, with a teacher, a student and what is neither."""
    gaussian.save(tmp_path / "teacher.safetensors")
    student.save(tmp_path / "student.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "out").mkdir()
    gaussian.save(tmp_path / "out" / "student.safetensors")
    (tmp_path / "file").write_text("no model")
    (tmp_path / "broken.toml").write_text("[student\nwidth = ")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "twice.toml").write_text("[run]\n[run]\n")
    (tmp_path / "list.toml").write_text("[[student]]\nwidth = 3")
    (tmp_path / "null.toml").write_text('[run]\noutput = "a\\u0000b"')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*DISTIL, "--config", "folder"], "--config: cannot read folder: Is a directory"),
        ([*DISTIL, "--config", "broken.toml"], "broken.toml is not TOML"),
        ([*DISTIL, "--config", "bytes.toml"], "bytes.toml is not TOML"),
        ([*DISTIL, "--config", "twice.toml"], "twice.toml is not TOML"),
        ([*DISTIL, "--config", "list.toml"], "list.toml: student: expected a table"),
        (
            [*DISTIL[:5], "--config", "null.toml"],
            r"--output: expected text without a null character, got 'a\x00b'",
        ),
        ([*DISTIL, "--training.a.b", "3"], "--training: no option 'a.b'"),
        ([*DISTIL, "--objective.weights", "[1]"], "--objective.weights: expected a table or none, got [1]"),
        ([*DISTIL, "--teacher", "folder"], "--teacher: expected a teacher's file, got 'folder'"),
        ([*DISTIL, "--output", "file"], "--output: expected a folder, got the file file"),
        ([*DISTIL, "--output", "file/folder"], "--output: cannot write to file/folder: Not a directory"),
        ([*DISTIL, "--output", "x" * 300], "File name too long: xxx"),
        (
            [*DISTIL, "--trajectory-file", "folder"],
            "trajectory_file: expected a file, got the folder 'folder'",
        ),
        ([*DISTIL, "--trajectory-file", "no/x"], "trajectory_file: no folder"),
        ([*DISTIL, "--trajectory-file", "file"], "file: not a whole safetensors file"),
        (["train-teacher", "--data", "folder", *SMALL], "--data: folder: expected images"),
        ([*TEACH, "--data.n", "1e10"], "--data.n: expected int or none, got 10000000000.0"),
        ([*TEACH, "--data.seed", "-1"], "--data.seed: expected a non-negative integer, got -1"),
        ([*TEACH, "--batch-size", "9" * 30], "--batch_size: expected an integer of 64 bits, got 999"),
        ([*TEACH, "--device", "tpu"], "device: expected 'cpu', 'cuda', 'cuda:N' or 'auto', got \"tpu\""),
        ([*SAMPLE, "--output", "folder"], "--output: expected a file that ends in .png"),
        ([*SAMPLE, "--output", "file/x.npy"], "--output: cannot write to file: File exists"),
        ([*SAMPLE, "--output", "x.npy", "-n", "1e10"], "--n: expected int or none, got 10000000000.0"),
        ([*SAMPLE, "--output", "x.npy", "-n", "9" * 30], "--n: expected an integer of 64 bits, got 999"),
        (
            [*SAMPLE, "--output", "x.npy", "--modes", "::0"],
            "--modes: expected 3, [0, 1, 4] or :20, got '::0'",
        ),
        ([*SAMPLE, "--output", "x.png", "--columns", "0"], "--columns: expected at least 1, got 0"),
        (["sample", "folder", "--output", "x.npy"], "student: expected a student's file, got 'folder'"),
        (["export", "student.safetensors", "-o", "x.npy"], "expected a file that ends in .onnx, .pt2, got"),
        (["export", "teacher.safetensors", "-o", "x.pt2"], "holds a teacher, expected a student"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_everything(arguments, message, folder, capsys):
    before = contents(folder)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [*SAMPLE, "--output", "student.safetensors"],
            "--output: expected another file than that of --student",
        ),
        (
            [*SAMPLE, "--output", "./out/../student.safetensors"],
            "expected another file than that of --student",
        ),
        ([*SAMPLE, "--output", "teacher.safetensors"], "got 'teacher.safetensors' of a teacher"),
        (
            [*DISTIL, "--teacher", "out/student.safetensors"],
            "student.safetensors of --output: expected another file than that of --teacher",
        ),
        (
            [*DISTIL, "--trajectory-file", "out/student.checkpoint.safetensors"],
            "student.checkpoint.safetensors of --output: expected another file than that of --trajectory",
        ),
    ],
)
def test_one_place_for_two_purposes_is_refused_even_with_overwrite(arguments, message, folder, capsys):
    before = contents(folder)
    assert main([*arguments, "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert contents(folder) == before


def test_pictures_are_not_written_among_the_pictures_that_are_read(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 255, (20, 8, 8), dtype=np.uint8))
    before = contents(tmp_path)
    arguments = ["--data", str(tmp_path), "--output", str(tmp_path), "--steps", "2"]
    assert main(["train-teacher", *arguments]) == 2
    assert "--output: expected another file than that of --data" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.fixture
def unprivileged(monkeypatch):
    """A folder, and the rights of somebody who may read nothing in ``hidden`` and write nothing to it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    for name, rights in (("hidden", 0o700), ("locked", 0o755)):
        (folder / name).mkdir()
        (folder / name).chmod(rights)
    root = os.geteuid() == 0
    if not root:
        (folder / "hidden").chmod(0)
        (folder / "locked").chmod(0o555)
    monkeypatch.chdir(folder)
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for name in ("hidden", "locked"):
        (folder / name).chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="rights are those of POSIX")
@pytest.mark.parametrize(
    "arguments",
    [
        [*TEACH, "--output", "locked"],
        [*TEACH, "--output", "locked/new"],
        [*TEACH, "--output", "hidden/new"],
        [*TEACH, "--config", "hidden/run.toml"],
        ["sample", "hidden/student.safetensors", "--output", "x.npy"],
        ["distill", "--teacher", "hidden/teacher.safetensors", "--output", "out"],
        ["demo", "--output", "locked"],
    ],
)
def test_a_place_without_rights_is_one_line(arguments, unprivileged, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "Permission denied" in error
    assert error.count("\n") == 1


def shell(command, folder):
    """The exit code of a pipeline's first command, and what stood on standard error."""
    script = f"set -o pipefail; {command}"
    environment = {**os.environ, "KOOPFLOW": f"{sys.executable} -m koopflow", "PYTHONUNBUFFERED": "1"}
    ended = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, check=False
    )
    return ended.returncode, ended.stderr.decode()


# No home and a locale that knows ASCII alone.
BARE = "env -i PATH=$PATH PYTHONPATH=$PYTHONPATH LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_reader_that_goes_away_ends_no_training(tmp_path):
    """In a bare environment too, and with a folder that its locale cannot spell."""
    assert shell(f"{BARE} $KOOPFLOW {' '.join(TEACH)} --output é | true", tmp_path) == (0, "")
    pictures = {"teacher-samples.png", "teacher-training.png"}
    files = {"teacher.safetensors", "train-teacher.toml", *pictures}
    assert {path.name for path in (tmp_path / "é").iterdir()} == files
    assert FlowTeacher.load(tmp_path / "é" / "teacher.safetensors").sample(2).shape == (2, 2)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_readers_that_go_away_and_streams_that_are_closed_are_no_failure(tmp_path):
    arguments = " ".join(TEACH)
    assert shell(f"$KOOPFLOW {arguments} | true", tmp_path) == (0, "")
    assert shell("$KOOPFLOW --help | true", tmp_path) == (0, "")
    assert shell("$KOOPFLOW versions | head -n 1", tmp_path) == (0, "")
    assert shell(f"$KOOPFLOW {arguments} >&- 2>&- <&-", tmp_path) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_a_failure(tmp_path):
    code, error = shell("$KOOPFLOW versions > /dev/full", tmp_path)
    assert code == 1
    assert error == "koopflow versions: error: No space left on device\n"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_no_home_and_a_plain_locale(tmp_path):
    code, error = shell(f"{BARE} $KOOPFLOW {' '.join(TEACH)} --output é", tmp_path)
    assert (code, error.count("Traceback")) == (0, 0)
    assert FlowTeacher.load(tmp_path / "é" / "teacher.safetensors").sample(2).shape == (2, 2)
    code, error = shell(f"{BARE} $KOOPFLOW spectrum é.safetensors", tmp_path)
    assert code == 2
    assert error.count("\n") == 1


def test_out_of_memory_is_one_line(folder, capsys):
    assert main([*TEACH, "--data.n", str(10**13)]) == 1
    error = capsys.readouterr().err
    assert "out of memory: " in error
    assert error.count("\n") == 1
    assert KoopmanDistiller.load("student.safetensors").sample(2).shape == (2, 2)
