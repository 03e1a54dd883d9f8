"""Files of a student's one step for programs without koopflow: what they hold, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import koopflow
from koopflow import FlowTeacher, KoopmanDistiller, UNet
from koopflow.exceptions import ArgumentError, KoopflowError, NotFittedError
from koopflow.twins import export

pytest.importorskip("onnx", reason="needs the extra 'onnx'")
pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
# torch's own, when it reads a program.
pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")

WRITE = """
from koopflow import KoopmanDistiller
student = KoopmanDistiller.load("student.safetensors")
student.to_onnx("student.onnx")
student.to_pt2("student.pt2")
"""
# Run where koopflow cannot be imported.
READ = """
import sys
sys.modules["koopflow"] = None
import numpy, torch
program = torch.export.load("student.pt2").module()
x0 = torch.from_numpy(numpy.load("noise.npy")).requires_grad_()
x1 = program(x0)
x1.square().sum().backward()
numpy.savez("found.npz", x1=x1.detach(), gradient=x0.grad)
"""


def python(code: str, folder: Path) -> str:
    """What code prints on both streams, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(student, tmp_path_factory):
    """The files of a plane student, and noise."""
    place = tmp_path_factory.mktemp("export")
    student.save(place / "student.safetensors")
    np.save(place / "noise.npy", np.random.default_rng(0).normal(size=(7, 2)).astype("f4"))
    said = python(WRITE, place)
    # What onnxruntime says of graphics cards is its own.
    assert [line for line in said.splitlines() if "onnxruntime" not in line] == []
    return place


@pytest.fixture(scope="module")
def light(gaussian):
    """A student that is exported fast."""
    options = {"basis": "fourier", "generator": "dense", "observables": 4, "trajectories": 64}
    return KoopmanDistiller(steps=1, **options).fit(gaussian, progress=False)


@pytest.fixture(scope="module")
def written(light, tmp_path_factory):
    """The files of the student that is exported fast."""
    place = tmp_path_factory.mktemp("light")
    light.to_onnx(place / "student.onnx")
    light.to_pt2(place / "student.pt2")
    return place


def test_an_onnx_file_says_what_it_is(written, light):
    session = onnxruntime.InferenceSession(written / "student.onnx", providers=["CPUExecutionProvider"])
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("x0", ["batch", 2], "tensor(float)")
    assert (answer.name, answer.shape, answer.type) == ("x1", ["batch", 2], "tensor(float)")
    facts = session.get_modelmeta().custom_metadata_map
    assert facts.pop("koopflow_version") == koopflow.__version__
    assert {key: json.loads(fact) for key, fact in facts.items()} == {
        "event_shape": [2],
        "conditioning": "none",
    }
    noise = np.random.default_rng(0).normal(size=(7, 2)).astype("f4")
    (samples,) = session.run(None, {"x0": noise})
    np.testing.assert_allclose(samples, light.sample(x0=noise), rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("place", ["written", pytest.param("folder", marks=pytest.mark.slow)])
def test_files_name_no_folder_of_this_machine(place, request):
    home = str(Path(koopflow.__file__).parent).encode()
    for name in ("student.onnx", "student.pt2"):
        assert home not in (request.getfixturevalue(place) / name).read_bytes()


@pytest.mark.slow
def test_a_program_runs_without_koopflow_and_has_gradients(folder, student):
    python(READ, folder)
    found = np.load(folder / "found.npz")
    x0 = torch.from_numpy(np.load(folder / "noise.npy")).requires_grad_()
    student.to_torch()(x0).square().sum().backward()
    np.testing.assert_allclose(found["x1"], student.sample(x0=x0.detach().numpy()), rtol=0.0, atol=1e-5)
    np.testing.assert_allclose(found["gradient"], x0.grad, rtol=0.0, atol=1e-4)


@pytest.mark.slow
def test_a_float64_unet_is_written_in_float32(tmp_path):
    images = np.random.default_rng(0).normal(size=(32, 1, 4, 4)).astype("f4")
    teacher = FlowTeacher((1, 4, 4), width=8, depth=1, steps=2).fit(images, progress=False)
    network = UNet(channels=4, multipliers=(1, 2))
    student = KoopmanDistiller(basis="unet", unet=network, steps=1, trajectories=32, dtype="float64")
    student.fit(teacher, progress=False)
    with pytest.warns(UserWarning, match="float32: onnxruntime has no convolutions in float64"):
        student.to_onnx(tmp_path / "student.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "student.onnx", providers=["CPUExecutionProvider"])
    (samples,) = session.run(None, {"x0": images[:3]})
    np.testing.assert_allclose(samples, student.sample(x0=images[:3].astype("f8")), rtol=0.0, atol=1e-4)


def write_both(student):
    return [student.to_onnx, student.to_pt2]


def test_an_unfitted_student_is_not_written(tmp_path):
    for write in write_both(KoopmanDistiller()):
        with pytest.raises(NotFittedError, match="not fitted"):
            write(tmp_path / "student")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "message", "place"),
    [
        (ArgumentError, "path: expected a path", 3),
        (ArgumentError, "path: expected a file, got the folder", "."),
        (FileNotFoundError, "path: no folder", "missing/student"),
        (ArgumentError, "path: expected .* of a student", "student.safetensors"),
    ],
)
def test_places_are_tried_before_the_work(student, tmp_path, monkeypatch, error, message, place):
    monkeypatch.chdir(tmp_path)
    student.save("student.safetensors")
    before = Path("student.safetensors").read_bytes()
    monkeypatch.setattr(export, "_frozen", None)
    for write in write_both(student):
        with pytest.raises(error, match=message):
            write(place)
    assert Path("student.safetensors").read_bytes() == before
    assert os.listdir() == ["student.safetensors"]


def test_a_file_of_before_is_replaced(light, tmp_path):
    (tmp_path / "student.pt2").write_text("something else")
    light.to_pt2(tmp_path / "student.pt2")
    program = torch.export.load(tmp_path / "student.pt2").module()
    assert program(torch.zeros(3, 2)).shape == (3, 2)
    assert os.listdir(tmp_path) == ["student.pt2"]


def test_onnx_files_have_a_largest_size(student, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(
        ArgumentError, match="path: expected a student of at most .* to_pt2 has no such limit"
    ):
        student.to_onnx(tmp_path / "student.onnx")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_extra(student, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"^{package} is needed.*pip install 'koopflow\[onnx\]'"):
        student.to_onnx(tmp_path / "student.onnx")
    assert os.listdir(tmp_path) == []


def test_a_file_with_other_samples_is_not_written_unless_unchecked(light, tmp_path, monkeypatch):
    class Other(onnxruntime.InferenceSession):
        def run(self, *arguments):
            return [samples + 1e-3 for samples in super().run(*arguments)]

    class Broken(onnxruntime.InferenceSession):
        def run(self, *arguments):
            raise RuntimeError("no such operator")

    said = {
        Other: "gives samples that differ from the student's",
        Broken: "cannot run the student: no such operator",
    }
    for kind, message in said.items():
        monkeypatch.setattr(onnxruntime, "InferenceSession", kind)
        with pytest.raises(KoopflowError, match=message):
            light.to_onnx(tmp_path / "student.onnx")
    assert os.listdir(tmp_path) == []
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    light.to_onnx(tmp_path / "student.onnx", check=False)
    assert os.listdir(tmp_path) == ["student.onnx"]
    with pytest.raises(ArgumentError, match="check: expected"):
        light.to_onnx(tmp_path / "student.onnx", check="no")
