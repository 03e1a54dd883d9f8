"""sample, spectrum, evaluate, compare and export: what they write is what the Python API says."""

from __future__ import annotations

import csv
import json
import re
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from koopflow import FlowTeacher, KoopmanDistiller, datasets
from koopflow.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def run(*arguments):
    return main([str(argument) for argument in arguments])


def saved(folder, teacher, student):
    teacher.save(folder / "teacher.safetensors")
    student.save(folder / "student.safetensors")
    return folder


@pytest.fixture(scope="module")
def plane(gaussian, student, tmp_path_factory):
    return saved(tmp_path_factory.mktemp("plane"), gaussian, student)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Three kinds of grey images, 6 x 6 pixels, and their labels."""
    labels = np.arange(300) % 3
    images = np.full((300, 1, 6, 6), -1.0, dtype=np.float32)
    for kind in range(3):
        images[labels == kind, :, 2 * kind : 2 * kind + 2] = 1.0
    noise = 0.1 * np.random.default_rng(0).normal(size=images.shape).astype("f4")
    images = np.clip(images + noise, -1.0, 1.0)
    teacher = FlowTeacher((1, 6, 6), num_classes=3, width=32, depth=2, steps=60)
    teacher.fit(images, condition=labels, progress=False)
    student = KoopmanDistiller(observables=16, width=32, depth=2, steps=40, trajectories=128)
    student.fit(teacher, progress=False)
    folder = saved(tmp_path_factory.mktemp("classes"), teacher, student)
    np.savez(folder / "data.npz", images=images, labels=labels)
    return folder


# --- sample ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["npy", "npz", "safetensors"])
def test_samples_are_those_of_the_python_api(ending, plane, student, tmp_path):
    path = tmp_path / f"samples.{ending}"
    assert (
        run("sample", plane / "student.safetensors", "-n", 20, "--seed", 9, "--output", path, "--quiet") == 0
    )
    content = {"npy": lambda p: {"samples": np.load(p)}, "npz": np.load, "safetensors": load_file}[ending](
        path
    )
    assert set(content) == {"samples"}
    np.testing.assert_array_equal(content["samples"], student.sample(20, seed=9))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--steps", 4], {"steps": 4}),
        (["--modes", ":3"], {"modes": slice(3)}),
        (["--modes", "[0, 2]"], {"modes": [0, 2]}),
        (["--modes", "0,2"], {"modes": [0, 2]}),
        (["--modes", 1], {"modes": 1}),
        (["--set", "steps=2"], {"steps": 2}),
    ],
)
def test_options_of_sampling(arguments, options, plane, student, tmp_path):
    path = tmp_path / "samples.npy"
    assert run("sample", plane / "student.safetensors", "-n", 8, "--output", path, *arguments) == 0
    np.testing.assert_array_equal(np.load(path), student.sample(8, **options))


def test_a_teacher_can_be_sampled_too(plane, gaussian, tmp_path):
    path = tmp_path / "samples.npy"
    arguments = ["--solver", "euler", "--steps", 5, "-n", 8, "--output", path, "--quiet"]
    assert run("sample", plane / "teacher.safetensors", *arguments) == 0
    np.testing.assert_array_equal(np.load(path), gaussian.sample(8, solver="euler", steps=5))


def test_samples_of_classes(classes, tmp_path):
    student = KoopmanDistiller.load(classes / "student.safetensors")
    path = tmp_path / "samples.npz"
    source = classes / "student.safetensors"
    assert run("sample", source, "--label", 2, "-n", 5, "--output", path) == 0
    np.testing.assert_array_equal(np.load(path)["condition"], [2] * 5)
    np.testing.assert_array_equal(np.load(path)["samples"], student.sample(5, condition=np.full(5, 2)))
    assert run("sample", source, "--label", "[2, 0]", "-n", 4, "--output", path, "--overwrite") == 0
    np.testing.assert_array_equal(np.load(path)["condition"], [2, 2, 0, 0])
    # Eight of each without being asked.
    assert run("sample", source, "--output", path, "--overwrite") == 0
    np.testing.assert_array_equal(np.load(path)["condition"], np.repeat([0, 1, 2], 8))
    np.save(tmp_path / "labels.npy", np.array([1, 2]))
    rows = ["--condition", tmp_path / "labels.npy", "--output", path, "--overwrite"]
    assert run("sample", source, *rows) == 0
    np.testing.assert_array_equal(np.load(path)["condition"], [1, 2])


def test_pictures(plane, classes, tmp_path):
    from matplotlib.image import imread

    for folder in (plane, classes):
        path = tmp_path / f"{folder.name}.png"
        assert run("sample", folder / "student.safetensors", "--output", path) == 0
        assert imread(path).ndim == 3
    # A row for each class: eight columns and three rows of 6 x 6 pixels with 9 dots each, in a margin.
    height, width = imread(path).shape[:2]
    assert (width, height) == pytest.approx((8 * 7 * 9 + 9 + 28, 3 * 7 * 9 + 9 + 28), abs=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output: expected a file that ends in .png"),
        (["--output", "x.jpeg"], "got 'x.jpeg'"),
        (["--output", "x.npy", "-n", "0"], "-n: expected at least 1, got 0"),
        (["--output", "x.npy", "--label", "1"], "--label: expected a model with classes"),
        (["--output", "x.npy", "--condition", "y.npy"], "--condition: expected a conditional model"),
        (["--output", "x.npy", "--modes", "a:b"], "--modes: expected 3, [0, 1, 4] or :20, got 'a:b'"),
        (["--output", "x.npy", "--modes", "99"], "modes: expected places from -16 to 15, got 99"),
        (["--output", "x.npy", "--solver", "euler"], "sample.solver: not an option for a student"),
        (["--output", "x.npy", "--seed", "-1"], "--seed: expected a non-negative integer"),
        (["--output", "x.npy", "--device", "abacus"], "abacus"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(arguments, message, plane, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("sample", plane / "student.safetensors", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_labels_are_checked_and_results_kept(classes, tmp_path, capsys):
    path = tmp_path / "samples.npy"
    assert run("sample", classes / "student.safetensors", "--label", 3, "--output", path) == 2
    assert "--label: expected labels from 0 to 2, got 3" in capsys.readouterr().err
    path.write_text("mine")
    assert run("sample", classes / "student.safetensors", "--output", path) == 2
    assert "already exists" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize("command", ["sample", "spectrum", "evaluate"])
def test_a_file_that_is_no_student(command, tmp_path, capsys):
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"not one")
    flag = ["--student"] if command == "evaluate" else []
    rest = ["--teacher", path] if command == "evaluate" else ["--output", tmp_path / "x.npy"]
    assert run(command, *flag, path, *rest) == 2
    error = capsys.readouterr().err
    assert "not a whole safetensors file" in error
    assert error.count("\n") == 1
    assert run(command, *flag, tmp_path / "nowhere", *rest) == 2
    assert "which does not exist" in capsys.readouterr().err
    assert run(command) == 2
    assert "got nothing" in capsys.readouterr().err


# --- spectrum -------------------------------------------------------------------------------------


def test_a_spectrum(plane, student, gaussian, tmp_path, capsys):
    arguments = ["--teacher", plane / "teacher.safetensors", "--count", 6, "--output", tmp_path, "--rows", 3]
    assert run("spectrum", plane / "student.safetensors", *arguments) == 0
    spectrum = student.spectrum(gaussian, count=6)
    shown = capsys.readouterr().out
    assert shown.startswith(spectrum.summary(rows=3) + "\n")
    assert (tmp_path / "summary.txt").read_text() == spectrum.summary(rows=3) + "\n"
    facts = json.loads((tmp_path / "eigenvalues.json").read_text())
    assert facts["verdict"] == spectrum.verdict
    with (tmp_path / "eigenvalues.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(facts["modes"]) == len(spectrum)
    for name, exact in (
        ("growth", spectrum.growth),
        ("frequency", spectrum.frequency),
        ("energy", spectrum.energy),
        ("residual", spectrum.residuals),
        ("mode", spectrum.indices),
    ):
        np.testing.assert_array_equal([float(row[name]) for row in rows], exact)
        np.testing.assert_array_equal([mode[name] for mode in facts["modes"]], exact)
    for name in ("eigenvalues.png", "modes.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    assert tomllib.loads((tmp_path / "spectrum.toml").read_text())["spectrum"]["count"] == 6
    assert run("spectrum", plane / "student.safetensors", "--output", tmp_path) == 2
    assert "already exists" in capsys.readouterr().err
    again = tmp_path / "again"
    assert run("spectrum", "--config", tmp_path / "spectrum.toml", "--output", again) == 0
    assert (again / "eigenvalues.csv").read_text() == (tmp_path / "eigenvalues.csv").read_text()


def test_a_spectrum_without_a_teacher_or_files(classes, capsys):
    assert run("spectrum", classes / "student.safetensors") == 0
    assert "not checked against a teacher" in capsys.readouterr().out
    assert run("spectrum", classes / "student.safetensors", "--sort", "beauty") == 2
    assert "sort: expected 'energy', " in capsys.readouterr().err


# --- evaluate -------------------------------------------------------------------------------------


def timeless(report):
    return {k: v for k, v in report.items() if "seconds" not in k and k != "speedup"}


def test_an_evaluation(plane, student, gaussian, tmp_path, capsys):
    output = tmp_path / "new" / "evaluation.json"
    data = tmp_path / "data.npy"
    np.save(data, gaussian.sample(400, seed=1))
    paths = ["--student", plane / "student.safetensors", "--teacher", plane / "teacher.safetensors"]
    arguments = [*paths, "--data", data, "--held-out", 0.5, "-n", 100, "--seed", 7]
    assert run("evaluate", *arguments, "--output", output) == 0
    _, held_out = datasets.split(np.load(data), held_out=0.5)
    report = student.evaluate(gaussian, held_out, n=100, seed=7).to_dict()
    facts = json.loads(output.read_text())
    assert timeless(facts["evaluation"]) == timeless(json.loads(json.dumps(report)))
    assert facts["held_out"] == 200
    assert facts["settings"]["evaluate"] == {"device": "cpu", "n": 100, "seed": 7}
    line = re.search(r"endpoint error +([0-9.]+)", capsys.readouterr().out)
    assert line is not None
    assert float(line[1]) == pytest.approx(report["endpoint_error"], abs=5e-5)
    assert run("evaluate", *arguments, "--output", output) == 2
    assert "already exists" in capsys.readouterr().err


def test_an_evaluation_of_classes(classes, capsys):
    paths = ["--student", classes / "student.safetensors", "--teacher", classes / "teacher.safetensors"]
    assert run("evaluate", *paths, "--data", classes / "data.npz", "-n", 64, "--held-out", 0.5) == 0
    facts = json.loads((classes / "evaluation.json").read_text())
    student = KoopmanDistiller.load(classes / "student.safetensors")
    teacher = FlowTeacher.load(classes / "teacher.safetensors")
    with np.load(classes / "data.npz") as arrays:
        _, held_out, _, labels = datasets.split(arrays["images"], arrays["labels"], held_out=0.5)
    report = student.evaluate(teacher, held_out, n=64, condition=np.resize(labels, 64))
    # A reader of images may round them.
    assert facts["evaluation"]["endpoint_error"] == pytest.approx(report.endpoint_error, rel=1e-5)
    assert facts["evaluation"]["student"]["wasserstein2"] == pytest.approx(
        report.student.wasserstein2, rel=1e-5
    )
    capsys.readouterr()


def test_an_evaluation_of_strangers(plane, classes, tmp_path, capsys):
    paths = ["--student", plane / "student.safetensors", "--teacher", classes / "teacher.safetensors"]
    assert run("evaluate", *paths, "--data", "moons", "--output", tmp_path / "e.json") == 2
    assert (
        "--student: expected samples of shape (1, 6, 6), as the teacher's, got (2,)"
        in capsys.readouterr().err
    )
    paths[3] = plane / "teacher.safetensors"
    assert run("evaluate", *paths, "--data", "digits", "--output", tmp_path / "e.json") == 2
    assert "data: expected at least 4 samples of shape (2,)" in capsys.readouterr().err
    assert run("evaluate", *paths, "--data", "moons", "--output", tmp_path / "e.txt") == 2
    assert "--output: expected a file that ends in .json" in capsys.readouterr().err


# --- compare --------------------------------------------------------------------------------------


def test_a_comparison(plane, gaussian, tmp_path, capsys):
    data = tmp_path / "data.npy"
    np.save(data, gaussian.sample(400, seed=1))
    output = tmp_path / "comparison.json"
    arguments = ["--teacher", plane / "teacher.safetensors", "--data", data, "--held-out", 0.5, "-n", 100]
    arguments += ["--methods", "['Euler, 4 steps', 'koopflow']", "--seconds", 0.5, "--trajectories", 256]
    assert run("compare", *arguments, "--output", output, "--quiet") == 0
    facts = json.loads(output.read_text())
    assert [row["method"] for row in facts["rows"]] == ["teacher (dopri5)", "Euler, 4 steps", "koopflow"]
    assert facts["rows"][1]["evaluations"] == 4
    assert facts["advice"] in capsys.readouterr().out
    assert run("compare", *arguments, "--output", output) == 2
    assert "already exists" in capsys.readouterr().err
    assert run("compare", *arguments, "--methods", "magic") == 2
    assert "magic" in capsys.readouterr().err


# --- export ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_exported_programs_give_the_student_s_samples(plane, student, tmp_path, monkeypatch, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    pt2, onnx = tmp_path / "student.pt2", tmp_path / "student.onnx"
    for file in (pt2, onnx):
        assert run("export", plane / "student.safetensors", "-o", file) == 0
        assert capsys.readouterr().out == f"wrote {file}\n"
    noise = np.random.default_rng(0).normal(size=(3, 2)).astype("f4")
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    program = torch.export.load(pt2).module()
    for samples in (*session.run(None, {"x0": noise}), program(torch.from_numpy(noise))):
        np.testing.assert_allclose(samples, student.sample(x0=noise), rtol=0.0, atol=1e-5)
    assert run("export", plane / "student.safetensors", "-o", onnx) == 2
    assert "already exists" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run("export", plane / "student.safetensors", "-o", onnx, "--overwrite") == 1
    error = capsys.readouterr().err
    assert "pip install 'koopflow[onnx]'" in error
    assert error.count("\n") == 1
