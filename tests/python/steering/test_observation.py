"""What observations refuse, and their derivatives against automatic ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from koopflow import Observation
from koopflow.exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError, SteeringError
from koopflow.steering.observation import Residuals

CPU = torch.device("cpu")


def bent(x):
    return torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin(), x.square().sum(dim=1)], dim=1)


@pytest.mark.parametrize("operator", [bent, np.arange(9.0).reshape(3, 3), np.array([2, 0, 2])])
def test_derivatives_are_those_of_autograd(operator):
    observation = Observation(operator, np.array([0.3, -1.0, 2.0]), noise=np.array([0.5, 1.0, 2.0]))
    own = Residuals(observation, (3,), CPU)
    x = np.random.default_rng(0).normal(size=(5, 3))

    def residuals(row):
        if callable(operator):
            seen = bent(row[None])[0]
        elif operator.ndim == 2:
            seen = torch.from_numpy(operator) @ row
        else:
            seen = row[torch.from_numpy(operator)]
        return (seen - torch.from_numpy(observation.y)) / torch.from_numpy(observation.noise)

    rows = torch.from_numpy(x)
    exact = torch.stack([residuals(row) for row in rows]).numpy()
    np.testing.assert_allclose(own(x), exact, atol=1e-12)
    jacobians = torch.stack([torch.func.jacrev(residuals)(row) for row in rows]).numpy()
    np.testing.assert_allclose(own.jacobian(x), jacobians, atol=1e-12)
    np.testing.assert_allclose(own.slopes(x, exact), -np.einsum("bk,bkd->bd", exact, jacobians), atol=1e-12)


def test_what_does_not_fit_is_refused():
    for y, noise, kind, word in (
        ([], 0.1, NonFiniteError, "y"),
        ([np.nan], 0.1, NonFiniteError, "y"),
        ([1.0], 0.0, ArgumentError, "noise"),
        ([1.0], [0.1, 0.1], ArgumentError, "noise"),
        ([1.0], np.inf, ArgumentError, "noise"),
    ):
        with pytest.raises(kind, match=f"^{word}"):
            Observation(np.ones((1, 2)), y, noise=noise)
    for operator, kind in (
        (np.ones((2, 3)), ShapeError),
        (np.ones(3, dtype=bool), ShapeError),
        (np.array([5]), ArgumentError),
        (np.array([[np.inf, 0.0]]), NonFiniteError),
        (np.array([0, 1]), ShapeError),
    ):
        with pytest.raises(kind, match="operator"):
            Observation(operator, [1.0]).matrix((2,))


def test_an_operator_is_asked_for_as_many_values_as_were_seen(student):
    for wrong, words in (
        (lambda x: x, "expected 1 values for each sample, got 2"),
        (lambda x: x[:, 0], r"expected numbers of shape \(\d+, k\)"),
        (lambda x: x[:, :1] * float("nan"), "finite"),
    ):
        with pytest.raises((ShapeError, SteeringError, NonFiniteError), match=words):
            student.tilt(observation=Observation(wrong, [1.0])).sample(32, method="importance")


def test_an_observation_keeps_its_own_numbers():
    y, operator = np.array([0.1]), np.array([[1.0, 0.0]])
    observation = Observation(operator, y, noise=0.5)
    y[0], operator[0, 0] = 99.0, 0.0
    assert observation.y[0] == 0.1
    assert observation.matrix((2,))[0, 0] == 1.0
    # Lists are not rounded to float32.
    assert Observation([1], [123456789.0]).y[0] == 123456789.0
    np.testing.assert_array_equal(Observation([1], [0.5]).matrix((2,)), [[0.0, 1.0]])
    np.testing.assert_array_equal(Observation([False, True], [0.5]).matrix((2,)), [[0.0, 1.0]])
    for wrong in ({"operator": ["a"]}, {"noise": "a"}, {"y": ["b"]}):
        with pytest.raises(DtypeError, match=next(iter(wrong))):
            Observation(**{"operator": [0], "y": [1.0], "noise": 0.1, **wrong})


def test_an_operator_without_a_gradient_is_noticed(student):
    layer = torch.nn.Linear(2, 1)
    observation = Observation(lambda x: layer(x.detach()), [1.0], noise=2.0)
    found = student.tilt(observation=observation).sample(64, method="smc")
    assert any("without gradients" in note for note in found.notes)
    with pytest.raises(ArgumentError, match="differentiable operator"):
        student.tilt(observation=observation).sample(64, method="laplace")
