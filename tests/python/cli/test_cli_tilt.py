"""tilt: what it prints and writes is what the Python API says."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import FlowTeacher, Observation, energies
from koopflow.cli import main


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A teacher, a mask of its first coordinate, and what was seen there."""
    folder = tmp_path_factory.mktemp("tilt")
    FlowTeacher.gaussian([1.0, -2.0], [[2.0, 0.5], [0.5, 1.0]]).save(folder / "teacher.safetensors")
    np.save(folder / "mask.npy", np.array([True, False]))
    np.save(folder / "values.npy", np.array([3.0]))
    return folder


def test_an_observation(files, tmp_path, capsys):
    teacher, observed = files / "teacher.safetensors", ("--observe", files / "mask.npy", files / "values.npy")
    path = tmp_path / "found.npz"
    assert run("tilt", teacher, *observed, "--noise", 0.5, "-n", 128, "--output", path, "--quiet") == 0
    observation = Observation(np.array([True, False]), np.array([3.0]), noise=0.5)
    found = FlowTeacher.load(teacher).tilt(observation=observation).sample(128)
    assert capsys.readouterr().out == f"{found.summary()}\nwrote {path}\n"
    with np.load(path) as arrays:
        np.testing.assert_array_equal(arrays["samples"], found.x)
        np.testing.assert_array_equal(arrays["log_weights"], found.log_weights)
        np.testing.assert_array_equal(arrays["noise"], found.noise)
    for name in ("equal.npy", "picture.png"):
        assert run("tilt", teacher, *observed, "-n", 64, "-o", tmp_path / name, "--quiet") == 0
    assert np.load(tmp_path / "equal.npy").shape == (64, 2)
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert run("tilt", teacher, *observed, "-o", path) == 2
    assert "already exists" in capsys.readouterr().err


def test_an_energy(files, capsys):
    teacher = files / "teacher.safetensors"
    assert run("tilt", teacher, "--energy", "gmm40", "-n", 64, "--method", "importance", "--quiet") == 0
    found = FlowTeacher.load(teacher).tilt(energy=energies.gmm40()).sample(64, method="importance")
    assert capsys.readouterr().out == f"{found.summary()}\n"


def test_what_is_wrong_is_one_line(files, tmp_path, capsys):
    teacher, mask, values = files / "teacher.safetensors", files / "mask.npy", files / "values.npy"
    np.save(tmp_path / "three.npy", np.zeros(3))
    for arguments, words in (
        ((teacher,), "--observe: expected either --observe or --energy, got neither"),
        ((teacher, "--observe", mask, values, "--energy", "gmm40"), "got both"),
        ((teacher, "--energy", "sun"), "--energy: expected one of double_well, gmm40"),
        ((teacher, "--observe", mask, tmp_path / "none.npy"), "which does not exist"),
        ((teacher, "--observe", mask, tmp_path / "three.npy"), "operator: expected 3 rows"),
        ((teacher, "--observe", mask, values, "--noise", "-1"), "noise"),
        ((teacher, "--observe", mask, values, "--method", "hmc"), "method"),
        ((teacher, "--observe", mask), "--observe"),
    ):
        assert run("tilt", *arguments, "--quiet") == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
