"""What a student expects of the pair behind its states: its own path's velocity, by finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller, datasets
from koopflow.exceptions import ArgumentError

NOISE = np.random.default_rng(0).normal(size=(20, 2))
SMALL = {"width": 16, "depth": 2, "steps": 40, "trajectories": 256, "dtype": "float64"}


def expected(student, t, a, s, a_rate, s_rate):
    """E[x1|x_t] and E[x0|x_t] from states of the path beside t."""
    h = 1e-4
    before, x, after = student.sample_path(NOISE, times=[t - h, t, t + h])
    velocity, wronskian = (after - before) / (2 * h), a_rate * s - a * s_rate
    return (s * velocity - s_rate * x) / wronskian, (a_rate * x - a * velocity) / wronskian


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"generator": "dense"},
        {"architecture": {"decoder": "linear"}},
        {"architecture": {"decoder": "network"}},
    ],
)
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_expectations_are_those_of_the_students_own_path(options, scale):
    teacher = FlowTeacher.gaussian([scale, 0.0], scale**2 * np.diag([2.0, 0.5]), dtype="float64")
    student = KoopmanDistiller(observables=8, **SMALL, **options).fit(teacher, progress=False)
    for t in (0.3, 0.8):
        data, noise = expected(student, t, t, 1 - t, 1.0, -1.0)
        np.testing.assert_allclose(student.denoise(t, NOISE), data, atol=1e-5 * scale)
        np.testing.assert_allclose(student.denoise(t, NOISE, of="noise"), noise, atol=1e-5 * scale)
    before = student.evaluations
    ends = student.denoise(1.0, NOISE)
    assert student.evaluations - before == 1
    np.testing.assert_allclose(ends, student.sample(x0=NOISE), rtol=1e-9, atol=1e-9 * scale)
    # Times may differ from sample to sample.
    mixed = student.denoise(np.linspace(0, 1, 20), NOISE)
    np.testing.assert_allclose(mixed[-1:], ends[-1:], rtol=1e-9)


def test_the_path_is_the_teachers_and_survives_files(tmp_path):
    teacher = FlowTeacher((2,), path="vp", width=16, depth=1, steps=20)
    teacher.fit(datasets.moons(256), progress=False)
    student = KoopmanDistiller(observables=8, **SMALL).fit(teacher, progress=False)
    assert student.teacher_["mixing"] == {"path": "vp"}
    angle = 0.6 * np.pi / 2
    a, s, rate = np.sin(angle), np.cos(angle), np.pi / 2
    data, _ = expected(student, 0.6, a, s, rate * s, -rate * a)
    np.testing.assert_allclose(student.denoise(0.6, NOISE), data, atol=1e-4)
    student.save(tmp_path / "student.safetensors")
    loaded = KoopmanDistiller.load(tmp_path / "student.safetensors")
    np.testing.assert_array_equal(loaded.denoise(0.6, NOISE), student.denoise(0.6, NOISE))
    # Students of before say the path, unless their teacher was a diffusion model.
    del loaded.teacher_["mixing"]
    np.testing.assert_array_equal(loaded.denoise(0.6, NOISE), student.denoise(0.6, NOISE))
    loaded.teacher_["kind"] = "diffusion"
    with pytest.raises(ArgumentError, match="^teacher:"):
        loaded.denoise(0.6, NOISE)


def test_bad_questions_are_named(student):
    for arguments, name in (((1.5, NOISE), "t"), ((0.5, NOISE[:, :1]), "x0")):
        with pytest.raises(ValueError, match=f"^{name}:"):
            student.denoise(*arguments)
    with pytest.raises(ArgumentError, match="^of:"):
        student.denoise(0.5, NOISE, of="x0")
