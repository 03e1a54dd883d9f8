"""Evaluation of students: features' errors against dense arithmetic, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from koopflow import FlowTeacher, KoopmanDistiller, Trajectories, UNet, _core
from koopflow.exceptions import ArgumentError, NonFiniteError

from ..conftest import PRINT_PEAK_MEMORY

SHAPE = (1, 4, 4)
N, SEED = 24, 5
TIMES = [0.0, *np.linspace(0.1, 0.9, 17), 1.0]
UNET = UNet(channels=4, multipliers=(1, 2), groups=4)


def wave(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A velocity field that is neither linear nor the same at any two times."""
    return torch.sin(2.0 * x) - 0.5 * x + t.reshape(-1, *[1] * (x.dim() - 1))


def labelled(t: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return wave(t, x) + y.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))


@pytest.fixture(scope="module")
def teacher() -> FlowTeacher:
    return FlowTeacher.from_torch(wave, event_shape=SHAPE)


def fitted(teacher: FlowTeacher, **options: Any) -> KoopmanDistiller:
    small = {
        "steps": 6,
        "batch_size": 8,
        "trajectories": Trajectories(32, path_steps=4),
        "learning_rate": 1e-2,
        "seed": 2,
    }
    return KoopmanDistiller(**{**small, **options}).fit(teacher, progress=False)


def rms(rows: np.ndarray) -> float:
    return float(np.sqrt((rows.astype("f8") ** 2).sum(axis=1).mean()))


def by_dense_arithmetic(
    student: KoopmanDistiller, teacher: FlowTeacher, features: slice, noise: np.ndarray, condition: Any = None
) -> tuple[float, float]:
    """Phase error and consistency residual from the whole matrix L, written again with SciPy."""
    L = np.asarray(student.generator_matrix())
    path = np.asarray(teacher.trajectory(noise, times=TIMES, condition=condition))
    first, last = (
        np.asarray(student.encode(t, x, condition=condition), dtype="f8")
        for t, x in ((0.0, noise), (1.0, path[-1]))
    )
    moved = first @ scipy.linalg.expm(L)
    phase = rms((moved - last)[:, features]) / np.sqrt(last[:, features].var(axis=0).sum())
    residuals = []
    for t, x in zip(TIMES, path, strict=True):
        velocity = np.asarray(teacher.velocity(t, x, condition))
        g, rate = student.encode_with_tangent(t, x, velocity, condition=condition)
        predicted = (np.asarray(g, dtype="f8") @ L)[:, features]
        actual = np.asarray(rate, dtype="f8")[:, features]
        residuals.append(rms(actual - predicted) / rms(actual))
    return phase, float(np.mean(residuals))


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ({"basis": "hierarchy", "unet": UNET}, 0),
        ({"basis": "hierarchy", "unet": UNET, "architecture": {"per_pixel": True}}, 0),
        ({"basis": "unet", "unet": UNET, "observables": 32}, 16),
        ({"generator": "dense", "observables": 10, "width": 16, "depth": 1}, 16),
        ({"generator": "spectral", "observables": 10, "width": 16, "depth": 1}, 16),
    ],
    ids=["hierarchy", "hierarchy per pixel", "unet", "dense", "spectral"],
)
def test_errors_of_features_are_those_of_dense_arithmetic(
    teacher: FlowTeacher, options: dict[str, Any], state: int
) -> None:
    """A hierarchy's observables are [1, t, phi]; other students' also hold the state: [1, t, x, phi]."""
    student = fitted(teacher, **options)
    data = np.random.default_rng(0).normal(size=(64, *SHAPE)).astype("f4")
    report = student.evaluate(teacher, data, n=N, seed=SEED)
    noise = np.asarray(_core.normal((N, *SHAPE), SEED))
    phase, consistency = by_dense_arithmetic(student, teacher, slice(2 + state, None), noise)
    assert report.phase_error == pytest.approx(phase, rel=1e-4)
    assert report.consistency_residual == pytest.approx(consistency, rel=1e-4)


def test_errors_of_features_see_the_condition() -> None:
    teacher = FlowTeacher.from_torch(labelled, event_shape=SHAPE, num_classes=3)
    student = fitted(teacher, basis="hierarchy", unet=UNET)
    data = np.random.default_rng(0).normal(size=(64, *SHAPE)).astype("f4")
    labels = np.arange(N) % 3
    report = student.evaluate(teacher, data, n=N, seed=SEED, condition=labels)
    noise = np.asarray(_core.normal((N, *SHAPE), SEED))
    phase, consistency = by_dense_arithmetic(student, teacher, slice(2, None), noise, labels)
    assert report.phase_error == pytest.approx(phase, rel=1e-4)
    assert report.consistency_residual == pytest.approx(consistency, rel=1e-4)


def test_many_samples_are_measured_in_chunks_that_agree() -> None:
    """A wide network takes about a thousand rows at once, so that these are two chunks."""
    teacher = FlowTeacher.from_torch(wave, event_shape=(2,))
    student = fitted(
        teacher, width=4096, depth=1, observables=6, steps=1, trajectories=Trajectories(16, path_steps=4)
    )
    noise = np.random.default_rng(1).normal(size=(1500, 2)).astype("f4") + np.float32(3.0)
    path = np.asarray(teacher.trajectory(noise, times=TIMES))
    phase, _ = by_dense_arithmetic(student, teacher, slice(4, None), noise)
    core = student._fitted()
    assert core.phase_error(noise, path[-1]) == pytest.approx(phase, rel=1e-4)
    L, velocity = np.asarray(student.generator_matrix()), np.asarray(teacher.velocity(0.3, noise))
    g, rate = (np.asarray(a, dtype="f8")[:, 4:] for a in student.encode_with_tangent(0.3, noise, velocity))
    g = np.asarray(student.encode(0.3, noise), dtype="f8")
    expected = rms(rate - (g @ L)[:, 4:]) / rms(rate)
    assert core.consistency_residual(0.3, noise, velocity) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_hierarchy_of_sixteen_by_sixteen_fits_into_memory() -> None:
    """25,600 features: L alone would take 5 GB. In a process of its own, whose peak includes torch."""
    code = """
import numpy as np
import torch
from koopflow import FlowTeacher, KoopmanDistiller, Trajectories
torch.set_num_threads(1)
teacher = FlowTeacher.from_torch(lambda t, x: torch.sin(x), event_shape=(1, 16, 16))
student = KoopmanDistiller(basis="hierarchy", steps=1, batch_size=4, trajectories=Trajectories(16, 2))
student.fit(teacher, progress=False)
assert student.n_observables_ > 25_000
data = np.random.default_rng(0).normal(size=(16, 1, 16, 16)).astype("f4")
assert 0.0 < student.evaluate(teacher, data, n=8).phase_error < 100.0
"""
    code += PRINT_PEAK_MEMORY
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(out) * 1024 < 1.5 * 2**30


def test_data_that_are_not_finite_are_refused(teacher: FlowTeacher) -> None:
    student = fitted(teacher, observables=4, width=8, depth=1, steps=1)
    data = np.zeros((8, *SHAPE), "f4")
    data[3] = np.nan
    with pytest.raises(NonFiniteError, match="data"):
        student.evaluate(teacher, data)


def test_a_report_is_a_table_and_a_frame(student: KoopmanDistiller, gaussian: FlowTeacher) -> None:
    pandas = pytest.importorskip("pandas")
    data = np.asarray(gaussian.sample(200, seed=1))
    report = student.evaluate(gaussian, data, n=100, seed=4)
    frame = report.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc["endpoint error", "student"] == report.endpoint_error
    assert tuple(frame.loc["path error", ["low", "high"]]) == report.intervals["path_error"]
    assert frame.loc["Wasserstein-2", "floor"] == report.floor.wasserstein2
    assert frame.loc["evaluations", "teacher"] == report.teacher_evaluations
    lines = {line[: line.index("  ")]: line for line in str(report).splitlines()[2:]}
    assert set(lines) == set(frame.index)
    assert f"{report.teacher.energy:.4f}" in lines["energy distance"]


def test_evaluation_without_data(student, gaussian):
    """Errors against the teacher are those with data, in the unit of the teacher's own samples."""
    with_data = student.evaluate(gaussian, gaussian.sample(400, seed=1), n=200)
    report = student.evaluate(gaussian, n=200)
    assert report.floor.samples == 0
    assert np.isnan([report.student.energy, report.teacher.energy, report.floor.wasserstein2]).all()
    unit = np.sqrt(gaussian.sample(400, seed=1).var(axis=0).sum())
    noise = _core.normal((200, 2), report.seed)
    own = np.sqrt(gaussian.sample(x0=noise).var(axis=0).sum())
    np.testing.assert_allclose(report.endpoint_error * own, with_data.endpoint_error * unit, rtol=1e-3)
    assert report.inversion_error == with_data.inversion_error
    text = str(report)
    assert "endpoint error" in text
    assert "nan" not in text
    assert np.isnan(report.to_frame().loc["Wasserstein-2", "student"])


def test_one_sample_is_too_few(teacher):
    with pytest.raises(ArgumentError, match="n: expected an integer of at least 2, got 1"):
        fitted(teacher).evaluate(teacher, n=1)
