"""The spectrum of a hierarchy, computed again by NumPy from its observables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from koopflow import FlowTeacher, KoopmanDistiller, LevelSpectrum, _core
from koopflow.exceptions import ArgumentError, ShapeError

FILE = Path(__file__).parents[2] / "fixtures/before_redesign/student_hierarchy.safetensors"
N, SEED = 24, 3


@pytest.fixture(scope="module")
def student() -> KoopmanDistiller:
    return KoopmanDistiller.load(FILE)


@pytest.fixture(scope="module")
def teacher(student) -> FlowTeacher:
    size = int(np.prod(student.event_shape_))
    return FlowTeacher.gaussian(
        np.linspace(-1.0, 1.0, size).reshape(student.event_shape_), 0.3 * np.eye(size)
    )


@pytest.fixture(scope="module")
def spec(student, teacher) -> LevelSpectrum:
    return student.spectrum(teacher, n=N, seed=SEED)


def channels(g, spec):
    """Complex channels ``[B, r, pixels]`` of each map: real parts, imaginary parts, real ones."""
    place, maps = 2, []
    for level in spec:
        size = level.channels * level.height * level.width
        rows = g[:, place : place + size].astype("f8").reshape(len(g), level.channels, -1)
        pairs = level.channels - len(level.eigenvalues)
        maps.append(
            np.concatenate([rows[:, :pairs] + 1j * rows[:, pairs : 2 * pairs], rows[:, 2 * pairs :]], 1)
        )
        place += size
    assert place == g.shape[1]
    return maps


def test_eigenvalues_are_those_of_the_generator(student, spec):
    whole, place = student.eigenvalues(), 2
    for level in spec:
        pairs = level.channels - len(level.eigenvalues)
        np.testing.assert_array_equal(whole[place : place + 2 * pairs : 2], level.eigenvalues[:pairs])
        np.testing.assert_array_equal(
            whole[place + 2 * pairs : place + level.channels], level.eigenvalues[pairs:]
        )
        place += level.channels * level.height * level.width


def test_energies_and_residuals_are_those_of_the_channels(student, teacher, spec):
    noise = _core.normal((N, *student.event_shape_), SEED)
    before = channels(student.encode(0.0, noise), spec)
    after = channels(student.encode(1.0, teacher.sample(x0=noise)), spec)
    energy = [
        (np.abs(psi) ** 2).mean(axis=0).sum(axis=1) * np.abs(np.exp(level.eigenvalues) - 1.0) ** 2
        for level, psi in zip(spec, before, strict=True)
    ]
    total = sum(part.sum() for part in energy)
    for level, share, start, end in zip(spec, energy, before, after, strict=True):
        np.testing.assert_allclose(level.energy, share / total, rtol=1e-8)
        gap = end - start * np.exp(level.eigenvalues)[:, None]
        rms = np.sqrt(
            (np.abs(gap) ** 2).mean(axis=(0, 2)) / (np.abs(end - end.mean(axis=0)) ** 2).mean(axis=(0, 2))
        )
        np.testing.assert_allclose(level.residual, rms, rtol=1e-5)


def test_eigenfunctions_are_images_of_a_maps_size(student, spec):
    x = np.random.default_rng(0).normal(size=(5, *student.event_shape_)).astype("f4")
    expected = channels(student.encode(0.4, x), spec)
    for index in (0, len(spec) - 1, -1):
        level = spec[index]
        psi = spec.eigenfunctions(0.4, x, index)
        np.testing.assert_allclose(psi, expected[index].reshape(5, -1, level.height, level.width), atol=1e-6)
    with pytest.raises(ArgumentError, match="index"):
        spec.eigenfunctions(0.4, x, len(spec))


def test_without_a_teacher_there_are_no_residuals(student, spec):
    bare = student.spectrum(n=N, seed=SEED)
    assert all(level.residual is None for level in bare)
    np.testing.assert_array_equal(bare.eigenvalues, spec.eigenvalues)
    assert [line.split()[-1] for line in bare.summary().splitlines()[1:]] == ["-"] * len(bare)
    with pytest.raises(ShapeError, match="teacher"):
        student.spectrum(FlowTeacher.gaussian(np.zeros(2), np.eye(2)))
    with pytest.raises(ArgumentError, match="student: expected a student that reads x off linearly"):
        _core.Spectrum(student._fitted())
