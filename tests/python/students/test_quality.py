"""What a student is for, on real flows: small budgets here, all bars in experiments.benches.quality."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import ot
import pytest
import torch

from koopflow import FlowTeacher, KoopmanDistiller, datasets

from ..conftest import PRINT_PEAK_MEMORY


@pytest.fixture(scope="module")
def curved():
    """Two moons under the VP path with independent coupling: trajectories far from straight."""
    data = datasets.moons(4_000, seed=3)
    teacher = FlowTeacher(
        event_shape=(2,), coupling="independent", path="vp", width=64, steps=1200, seed=3
    ).fit(data, progress=False)
    student = KoopmanDistiller(width=64, steps=1500, trajectories=4096, seed=3)
    return teacher, student.fit(teacher, progress=False), data


@pytest.mark.slow
def test_a_student_follows_a_curved_flow(curved):
    teacher, student, _ = curved
    noise = np.random.default_rng(0).normal(size=(500, 2)).astype("f4")
    times = np.linspace(0, 1, 11)
    exact = teacher.trajectory(x0=noise, times=times)
    path = student.sample_path(x0=noise, times=times)
    scale = np.sqrt(exact[-1].var(axis=0).sum())

    def error(a, b):
        return np.sqrt(((a - b) ** 2).sum(axis=-1).mean(axis=-1)) / scale

    line = noise + times[:, None, None] * (exact[-1] - noise)
    assert error(path, exact)[-1] < 0.05
    assert error(path, exact)[1:-1].mean() < error(line, exact)[1:-1].mean() / 4
    inverted = student.invert(exact[-1])
    assert np.sqrt(((inverted - noise) ** 2).mean()) < 0.06
    np.testing.assert_allclose(error(student.sample(x0=inverted), exact[-1]), 0, atol=0.1)


@pytest.mark.slow
def test_samples_are_as_close_to_data_as_the_teachers(curved):
    teacher, student, data = curved
    noise = np.random.default_rng(1).normal(size=(500, 2)).astype("f4")

    def distance(samples):
        return np.sqrt(ot.emd2([], [], ot.dist(samples.astype("f8"), data[:500].astype("f8"))))

    assert distance(student.sample(x0=noise)) < 1.2 * distance(teacher.sample(x0=noise))


def test_a_conditional_student_keeps_its_conditions():
    """v = shift of the label: the flow map is x0 + shift, known exactly."""
    shifts = torch.tensor([[2.0, 0.0], [0.0, -3.0], [-1.0, 1.0]])

    def model(t, x, y):
        return shifts[y].expand_as(x)

    teacher = FlowTeacher.from_torch(model, event_shape=(2,), num_classes=3)
    student = KoopmanDistiller(observables=8, width=32, depth=1, steps=600, trajectories=1024)
    student.fit(teacher, progress=False)
    labels = np.arange(300) % 3
    noise = np.random.default_rng(0).normal(size=(300, 2)).astype("f4")
    missed = student.sample(x0=noise, condition=labels) - (noise + shifts.numpy()[labels])
    # Shifts are 1.4 to 3 long.
    assert np.sqrt((missed**2).sum(axis=1).mean()) < 0.04
    for label in range(3):
        np.testing.assert_allclose(missed[labels == label].mean(axis=0), 0.0, atol=0.015)
    with pytest.raises(ValueError, match="condition"):
        student.sample(x0=noise)
    with pytest.raises(ValueError, match="labels from 0 to 3"):
        student.sample(x0=noise[:4], condition=np.array([0, 1, 2, 3]))


@pytest.mark.slow
def test_ten_million_samples_fit_into_two_gibibytes(student, tmp_path):
    """In a process of its own, whose peak memory includes torch and the result."""
    student.save(tmp_path / "student.safetensors")
    code = f"""
from koopflow import KoopmanDistiller
student = KoopmanDistiller.load({str(tmp_path / "student.safetensors")!r})
assert student.sample(10_000_000).shape == (10_000_000, 2)
"""
    code += PRINT_PEAK_MEMORY
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(out) * 1024 < 2 * 2**30


@pytest.mark.slow
def test_the_defaults_on_a_gaussian():
    """The README's bars for an analytic teacher, with the default settings."""
    teacher = FlowTeacher.gaussian([1.0, -2.0], [[2.0, 0.6], [0.6, 0.5]])
    student = KoopmanDistiller(seed=1).fit(teacher, progress=False)
    report = student.evaluate(teacher, teacher.sample(2_000, seed=9), n=1_000)
    assert report.endpoint_error < 1e-2
    assert report.path_error < 1e-2
    assert report.inversion_error < 2e-2
