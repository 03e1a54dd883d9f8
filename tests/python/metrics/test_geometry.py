"""The geometry of paths, against NumPy's PCA and curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import FlowTeacher
from koopflow.exceptions import ArgumentError, NonFiniteError, ShapeError
from koopflow.metrics import path_geometry


def test_a_helix_has_its_curvature_and_torsion():
    s = np.linspace(0, 4, 1000)
    helix = np.stack([np.cos(s), np.sin(s), 0.5 * s], axis=1)[:, None]
    found = path_geometry(np.concatenate([helix, 2 * helix], axis=1))
    np.testing.assert_allclose(found.curvature, [1 / 1.25, 0.5 / 1.25], rtol=2e-3)
    np.testing.assert_allclose(found.torsion, [0.5 / 1.25, 0.25 / 1.25], rtol=4e-3)
    np.testing.assert_allclose(found.length, [4 * np.sqrt(1.25), 8 * np.sqrt(1.25)], rtol=1e-4)
    np.testing.assert_allclose(found.length_ratio[0], found.length_ratio[1])


def test_energies_are_those_of_principal_components():
    paths = np.random.default_rng(0).normal(size=(9, 4, 2, 3))
    found = path_geometry(paths)
    for index in range(4):
        rows = paths[:, index].reshape(9, -1)
        squares = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
        np.testing.assert_allclose(found.energy[index], squares[:3] / squares.sum(), atol=1e-12)
        chord = rows[-1] - rows[0]
        offset = rows - rows[0]
        away = offset - np.outer(offset @ chord / (chord @ chord), chord)
        np.testing.assert_allclose(found.deviation[index], np.linalg.norm(away, axis=1).max())


def test_paths_to_one_point_are_straight():
    teacher = FlowTeacher.empirical(np.array([[3.0, -1.0]]), dtype="float64")
    found = path_geometry(torch.as_tensor(teacher.trajectory(n=10, times=np.linspace(0, 1, 17))))
    np.testing.assert_allclose(found.length_ratio, 1.0, atol=1e-4)
    assert found.relative_deviation.max() < 1e-4
    assert "10 paths" in repr(found)


def test_bad_paths_are_named():
    good = np.zeros((5, 2, 3))
    for bad, error in (
        (good[:3], ArgumentError),
        (good[:, 0], ShapeError),
        (good + np.nan, NonFiniteError),
    ):
        with pytest.raises(error, match="^paths:"):
            path_geometry(bad)
