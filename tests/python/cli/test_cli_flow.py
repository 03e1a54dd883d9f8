"""flow-spectrum: what it prints and writes is what the Python API says."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from koopflow import FlowSpectrum, FlowTeacher, datasets
from koopflow.analysis import flow_spectrum
from koopflow.cli import main

FILES = {
    "flow.safetensors",
    "summary.txt",
    "modes.csv",
    "rates.png",
    "energy.png",
    "blueprint.png",
    "groups.png",
    "flow_spectrum.toml",
}


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def curved(tmp_path_factory):
    """The file of a teacher whose flow is not affine."""
    data = datasets.moons(256, seed=0)
    path = tmp_path_factory.mktemp("curved") / "teacher.safetensors"
    FlowTeacher.empirical(data).save(path)
    return path


def test_the_flow_of_a_teacher(curved, tmp_path, capsys):
    assert run("flow-spectrum", curved, "--n", 128, "--times", 9, "--rows", 3, "--output", tmp_path) == 0
    flow = flow_spectrum(FlowTeacher.load(curved), n=128, times=9)
    assert capsys.readouterr().out.startswith(flow.summary(rows=3) + "\n")
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert (tmp_path / "summary.txt").read_text() == flow.summary(rows=3) + "\n"
    with (tmp_path / "modes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_array_equal([float(row["energy"]) for row in rows], flow.energy)
    read = FlowSpectrum.load(tmp_path / "flow.safetensors")
    np.testing.assert_array_equal(read.rates, flow.rates)
    for name in ("rates.png", "energy.png", "blueprint.png", "groups.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    assert run("flow-spectrum", curved, "--output", tmp_path) == 2
    assert "already exists" in capsys.readouterr().err
    again = tmp_path / "again"
    assert run("flow-spectrum", "--config", tmp_path / "flow_spectrum.toml", "--output", again) == 0
    assert (again / "modes.csv").read_text() == (tmp_path / "modes.csv").read_text()


def test_a_flow_against_itself_is_found_again(curved, capsys):
    assert run("flow-spectrum", curved, "--against", curved, "--n", 64, "--times", 9) == 0
    shown = capsys.readouterr().out
    assert f"against {curved}" in shown
    assert "are found again, 100.0% of the energy" in shown


def test_an_affine_flow_has_no_pictures_of_modes(tmp_path, capsys):
    FlowTeacher.gaussian([1.0, 0.0], np.diag([4.0, 0.25])).save(tmp_path / "gaussian.safetensors")
    folder = tmp_path / "out"
    assert run("flow-spectrum", tmp_path / "gaussian.safetensors", "--n", 64, "--output", folder) == 0
    assert "100.0% affine" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} >= {"flow.safetensors", "rates.png", "modes.csv"}
    assert not (folder / "groups.png").exists()


def test_wrong_options_are_one_line(curved, capsys):
    assert run("flow-spectrum", curved, "--n", 3) == 2
    assert "n: expected an integer" in capsys.readouterr().err
    assert run("flow-spectrum", curved, "--n", 32, "--rates", 40) == 2
    assert "rates: expected an integer from 1 to 31, got 40" in capsys.readouterr().err
