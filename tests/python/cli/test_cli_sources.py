"""train-teacher --source: flows from sets, files and other teachers."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import FlowTeacher, datasets
from koopflow.cli import main

SMALL = ("--data", "moons", "--data.n", 200, "--steps", 3, "--width", 8, "--depth", 1, "--quiet")


def train(*arguments):
    return main([str(argument) for argument in ("train-teacher", *arguments)])


def starts(folder, horizon=(0.0, 1.0)) -> np.ndarray:
    teacher = FlowTeacher.load(folder / "teacher.safetensors")
    assert (teacher.clock.start, teacher.clock.end) == horizon
    return teacher.trajectory(n=50, times=list(horizon))[0]


def test_rows_of_a_file_on_a_clock(tmp_path):
    rows = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32) + 7.0
    np.save(tmp_path / "rows.npy", rows)
    folder = tmp_path / "run"
    given = ("--source", tmp_path / "rows.npy", "--horizon", "[2.0, 6.0]")
    assert train(*SMALL, *given, "-o", folder) == 0
    begun = starts(folder, (2.0, 6.0))
    assert np.abs(begun[:, None] - rows).max(axis=2).min(axis=1).max() == 0.0


def test_a_set_and_another_teachers_end(tmp_path):
    assert train(*SMALL, "--source", "8gaussians", "-o", tmp_path / "first") == 0
    begun = starts(tmp_path / "first")
    centres = np.linalg.norm(datasets.eight_gaussians(500, seed=1), axis=1)
    assert abs(np.linalg.norm(begun, axis=1).mean() - centres.mean()) < 0.5
    first = tmp_path / "first" / "teacher.safetensors"
    assert train(*SMALL, "--source", first, "-o", tmp_path / "second") == 0
    assert FlowTeacher.load(tmp_path / "second" / "teacher.safetensors").field.source.kind == "flow"


@pytest.mark.parametrize("source", ["nowhere.npy", "uniform"])
def test_what_is_no_source_is_named(source, tmp_path, capsys):
    assert train(*SMALL, "--source", source, "-o", tmp_path / "run") == 2
    assert "--source: expected normal, one of 8gaussians" in capsys.readouterr().err
