"""Posterior sampling by guidance of a teacher's ODE, the usual method, as a baseline.

At each time the clean sample is estimated as x1 = x + (1 - t) v(t, x). The gradient of its log-likelihood or
reward is added to the velocity with the factor (1 - t) / t of the linear path (posterior sampling, Chung et
al. 2209.14687; for flows Pokle et al. 2310.04432, and FlowDAS, 2501.16642). The likelihood of an estimate is
widened by the estimate's variance, (1 - t)^2 / ((1 - t)^2 + t^2), as in Song et al. (Pi-GDM, 2023).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from koopflow import FlowTeacher

#: Log-likelihoods ``[B]`` of estimates ``[B, *event]`` with a given variance.
Likelihood = Callable[[torch.Tensor, float], torch.Tensor]


def guided(
    teacher: FlowTeacher, likelihood: Likelihood, noise: NDArray[np.float32], steps: int, scale: float
) -> NDArray[np.float32]:
    """Samples by ``steps`` guided Euler steps, each with one evaluation and one gradient."""
    field = teacher.to_torch()
    x = torch.from_numpy(noise)
    for step in range(steps):
        t = step / steps
        given = x.detach().requires_grad_()
        v = field(t, given)
        guess = given + (1.0 - t) * v
        variance = (1.0 - t) ** 2 / ((1.0 - t) ** 2 + t**2)
        (slope,) = torch.autograd.grad(likelihood(guess, variance).sum(), given)
        factor = scale * (1.0 - t) / max(t, 1.0 / steps)
        x = (given + (v + factor * slope) / steps).detach()
    return x.numpy()


def of_observation(
    operator: NDArray[np.float64], y: NDArray[np.float64], noise: float, spread: float
) -> Likelihood:
    """Likelihood of y = A x + noise, for estimates with variances in units of ``spread`` squared."""
    rows, seen = torch.from_numpy(operator), torch.from_numpy(y)
    gram = operator @ operator.T

    def likelihood(x: torch.Tensor, variance: float) -> torch.Tensor:
        covariance = torch.from_numpy(noise**2 * np.eye(len(y)) + variance * spread**2 * gram)
        gap = x.reshape(len(x), -1).double() @ rows.T - seen
        return -0.5 * (gap * torch.linalg.solve(covariance, gap.T).T).sum(dim=1)

    return likelihood


def of_reward(reward: Callable[[torch.Tensor], torch.Tensor]) -> Likelihood:
    """Reward of the estimate itself, as a likelihood."""
    return lambda x, variance: reward(x)
