"""Modes of a data set by mean shift, against SciPy's kernel density and the empirical field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax

from koopflow import FlowTeacher
from koopflow.exceptions import ArgumentError

DATA = np.concatenate(
    [np.random.default_rng(0).normal(size=(40, 2)) + place for place in ([0, 0], [8, 1], [0, 9])]
)


def step(x, data, bandwidth):
    squares = np.square(x[:, None] - data).sum(axis=2)
    return softmax(-squares / (2 * bandwidth**2), axis=1) @ data


@pytest.mark.parametrize("bandwidth", [0.3, 1.0, 4.0])
def test_denoising_is_one_step_of_mean_shift(bandwidth):
    teacher = FlowTeacher.empirical(DATA, dtype="float64")
    x, t = np.random.default_rng(1).normal(size=(30, 2)) * 4, 1 / (1 + bandwidth)
    np.testing.assert_allclose(teacher.denoise(t, t * x), step(x, DATA, bandwidth), atol=1e-6)


def test_modes_are_fixed_points_and_rows_climb_to_them():
    found = FlowTeacher.empirical(DATA, dtype="float64").modes(1.0)
    assert found.converged
    assert len(found) == 3
    np.testing.assert_allclose(step(found.modes, DATA, 1.0), found.modes, atol=1e-4)
    x = DATA
    for _ in range(500):
        x = step(x, DATA, 1.0)
    np.testing.assert_allclose(found.modes[found.assignment], x, atol=1e-2)
    assert sorted(found.counts) == [40, 40, 40]
    assert (np.diff(found.log_density) <= 0).all()
    density = np.exp(-np.square(found.modes[:, None] - DATA).sum(axis=2) / 2).mean(axis=1) / (2 * np.pi)
    np.testing.assert_allclose(found.log_density, np.log(density), atol=1e-9)
    # At a scale above the distances there is one.
    assert len(FlowTeacher.empirical(DATA).modes(20.0)) == 1


def test_modes_are_of_the_kind_and_shape_of_the_data():
    images = torch.cat([torch.zeros(3, 1, 4, 4), torch.ones(2, 1, 4, 4)])
    found = FlowTeacher.empirical(images).modes(0.1)
    assert isinstance(found.modes, torch.Tensor)
    assert found.modes.shape == (2, 1, 4, 4)
    assert found.counts.tolist() == [3, 2]
    assert "2 at bandwidth 0.1" in repr(found)


def test_what_cannot_be_asked_is_named(gaussian):
    teacher = FlowTeacher.empirical(DATA)
    for bandwidth in (0.0, -1.0, np.nan, "wide"):
        with pytest.raises(ArgumentError, match="^bandwidth:"):
            teacher.modes(bandwidth)
    with pytest.raises(ArgumentError, match="^max_steps:"):
        teacher.modes(1.0, max_steps=0)
    with pytest.raises(ArgumentError, match="^teacher:.*empirical"):
        gaussian.modes(1.0)
    with pytest.warns(UserWarning, match="^max_steps:"):
        teacher.modes(1.0, max_steps=1)
