"""``torchrun -m koopflow``: one command that two processes share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.cli.main import main

from . import _launch

TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node=2",
    "-m",
    "koopflow",
]
SMALL = ["--width", "16", "--depth", "1", "--steps", "20", "--batch-size", "32", "--dtype", "float64"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("torchrun")
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(200, 2)))
    return folder


def train(data: Path, output: Path) -> list[str]:
    given = ["--data", str(data), "--output", str(output), "--coupling", "independent"]
    return ["train-teacher", *given, *SMALL]


def test_a_teacher_is_that_of_one_process_and_written_once(folder: Path):
    data, two, one = folder / "data.npy", folder / "two", folder / "one"
    ended = subprocess.run(
        [*TORCHRUN, *train(data, two)], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    # Rank 0 alone speaks.
    assert ended.stdout.count("180 samples of 2") == 1
    assert ended.stdout.count("wrote ") == 1
    assert main(train(data, one)) == 0
    names = {path.name for path in one.iterdir()}
    assert {path.name for path in two.iterdir()} == names
    load = FlowTeacher.load
    found, expected = (load(place / "teacher.safetensors").sample(20) for place in (two, one))
    assert np.allclose(found, expected, atol=1e-7)


# A hundredth of a second may also be too short for the trajectories.
@pytest.mark.filterwarnings("ignore:max_seconds:RuntimeWarning")
def test_a_student_goes_on_with_another_number_of_ranks(folder: Path):
    teacher, output = folder / "teacher.safetensors", folder / "student"
    FlowTeacher.gaussian(np.zeros(2), np.eye(2)).save(teacher)
    given = ["distill", "--teacher", str(teacher), "--output", str(output), *SMALL, "--observables", "6"]
    begun = [*given, "--trajectories", "64", "--max-seconds", "0.01"]
    for one in _launch.run(["-m", "koopflow", *begun]):
        assert one.code == 0
    checkpoint = output / "student.checkpoint.safetensors"
    assert checkpoint.exists()
    assert KoopmanDistiller.load(checkpoint).history_["stopped"] == "budget"
    # One process, now that there is time.
    assert main([*given, "--trajectories", "64", "--max-seconds", "1000", "--resume"]) == 0
    assert not checkpoint.exists()
    assert KoopmanDistiller.load(output / "student.safetensors").history_["steps"] == 20


def test_commands_of_one_process_say_so(folder: Path):
    ended = _launch.finish(_launch.start(["-m", "koopflow", "sample", str(folder / "nothing")], 2))
    for one in ended:
        assert one.code == 2
        assert "which only train-teacher, distill, forecast can use" in one.error
