"""Files: what is written comes back, and whatever else is offered is refused with a reason."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.exceptions import CheckpointError


@pytest.fixture
def saved(student, tmp_path):
    path = tmp_path / "student.safetensors"
    student.save(path)
    return path


def header_of(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["koopflow"])


def rewrite(path, *, header=None, tensors=None):
    """The same file with another header or other tensors."""
    text = json.dumps(header_of(path) if header is None else header)
    save_file(load_file(path) if tensors is None else tensors, path, metadata={"koopflow": text})


def test_a_student_comes_back_whole(student, saved):
    noise = np.random.default_rng(0).normal(size=(64, 2)).astype("f4")
    loaded = KoopmanDistiller.load(saved)
    np.testing.assert_array_equal(loaded.sample(x0=noise), student.sample(x0=noise))
    np.testing.assert_array_equal(loaded.invert(noise), student.invert(noise))
    assert loaded.get_params() == student.get_params()
    assert loaded.history_ == student.history_


def test_saving_leaves_nothing_else_behind(student, saved):
    student.save(saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_failed_save_keeps_the_old_file(student, saved, monkeypatch):
    before = saved.read_bytes()
    with pytest.raises(OSError, match="missing"):
        student.save(saved.parent / "missing" / "student.safetensors")
    assert saved.read_bytes() == before


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        KoopmanDistiller.load(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated(saved, keep):
    raw = saved.read_bytes()
    saved.write_bytes(raw[:keep])
    with pytest.raises(CheckpointError, match="whole"):
        KoopmanDistiller.load(saved)


def test_every_truncation_is_refused(saved):
    raw = saved.read_bytes()
    for keep in np.linspace(0, len(raw) - 1, 40).astype(int):
        saved.write_bytes(raw[:keep])
        with pytest.raises(CheckpointError):
            KoopmanDistiller.load(saved)


def test_foreign(saved):
    save_file({"weight": np.zeros(3, "f4")}, saved)
    with pytest.raises(CheckpointError, match="not one that koopflow wrote"):
        KoopmanDistiller.load(saved)
    saved.write_bytes(b"PK\x03\x04 a pickle in a zip")
    with pytest.raises(CheckpointError, match="whole safetensors"):
        KoopmanDistiller.load(saved)


def test_newer_version(saved):
    rewrite(saved, header={**header_of(saved), "version": 2, "something": "new"})
    with pytest.raises(CheckpointError, match="format 2 by a newer koopflow"):
        KoopmanDistiller.load(saved)


def test_no_version(saved):
    header = header_of(saved)
    del header["version"]
    rewrite(saved, header=header)
    with pytest.raises(CheckpointError, match="version"):
        KoopmanDistiller.load(saved)


def test_another_kind(saved, gaussian, tmp_path):
    gaussian.save(tmp_path / "teacher.safetensors")
    with pytest.raises(CheckpointError, match="holds a teacher, expected a student"):
        KoopmanDistiller.load(tmp_path / "teacher.safetensors")
    with pytest.raises(CheckpointError, match="holds a student, expected a teacher"):
        FlowTeacher.load(saved)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(saved, value):
    tensors = load_file(saved)
    tensors["generator.drift"][0, 0] = value
    rewrite(saved, tensors=tensors)
    with pytest.raises(CheckpointError, match=r"generator\.drift"):
        KoopmanDistiller.load(saved)


def test_shapes_that_do_not_fit(saved):
    tensors = load_file(saved)
    tensors["generator.drift"] = tensors["generator.drift"][:, :1]
    rewrite(saved, tensors=tensors)
    with pytest.raises(CheckpointError, match=r"generator\.drift: expected shape \(2, 2\), got \(2, 1\)"):
        KoopmanDistiller.load(saved)


def test_missing_and_unexpected_tensors(saved):
    tensors = load_file(saved)
    drift = tensors.pop("generator.drift")
    rewrite(saved, tensors=tensors)
    with pytest.raises(CheckpointError, match="no tensor"):
        KoopmanDistiller.load(saved)
    rewrite(saved, tensors={**tensors, "generator.drift": drift, "extra": drift})
    with pytest.raises(CheckpointError, match="unexpected tensor"):
        KoopmanDistiller.load(saved)


def test_another_dtype(saved):
    tensors = load_file(saved)
    tensors["generator.drift"] = tensors["generator.drift"].astype("f8")
    rewrite(saved, tensors=tensors)
    with pytest.raises(CheckpointError, match="expected float32, got float64"):
        KoopmanDistiller.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 1 << 16},
        {"observables": 1 << 19},
        {"event_shape": [1 << 30]},
        {"event_shape": [1 << 40, 1 << 40]},
        {"event_shape": []},
        {"depth": -1},
        {"lifts": 3},
        {"table_times": 1 << 16},
        {"dtype": "float8"},
    ],
)
def test_headers_that_lie_about_sizes_allocate_nothing(saved, change):
    header = header_of(saved)
    header["model"]["config"].update(change)
    rewrite(saved, header=header)
    with pytest.raises(CheckpointError):
        KoopmanDistiller.load(saved)


@pytest.mark.parametrize("field", ["model", "facts"])
def test_headers_without_their_parts(saved, field):
    header = header_of(saved)
    header[field] = 7
    rewrite(saved, header=header)
    with pytest.raises(CheckpointError):
        KoopmanDistiller.load(saved)
