"""Posteriors from Gaussians around their modes in noise space, with exact importance weights."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..exceptions import ArgumentError
from .found import TiltedSamples
from .objective import ROWS, Evaluated
from .run import Run

Real = NDArray[np.float64]
STARTS = 16  # Number of draws of largest weight, and of other draws, from which the search for modes starts.
STEPS = 40
MANY = 8  # More modes than this suggest that not all were found.
LARGEST = 1024  # Largest number of observed values and of dimensions for which a linear system is formed.


def fits(run: Run) -> str | None:
    """The reason why the method does not apply, or None if it does."""
    objective = run.objective
    if objective.residuals is None or objective.reward is not None:
        return "it needs an observation, without a reward or an energy"
    if min(objective.residuals.observation.size, objective.step.dimension) > LARGEST:
        return f"it needs at most {LARGEST} observed values and dimensions"
    if not objective.residuals.is_differentiable(
        objective.step.sample(np.zeros((1, objective.step.dimension)))
    ):
        return "it needs a differentiable operator"
    return None


def laplace(run: Run) -> TiltedSamples:
    """Draws of the Gaussians around the modes, with importance weights for the posterior."""
    if (why := fits(run)) is not None:
        raise ArgumentError(f"method: expected a method that applies, got 'laplace': {why}")
    objective = run.objective
    assert objective.residuals is not None
    pool = objective.at(run.noise(max(4 * STARTS, min(run.n, 1024))))
    run.kept = lambda: run.weighted(pool, pool.values, "importance")
    order = np.argsort(-pool.values)
    begin = pool.noise[np.r_[order[:STARTS], np.sort(order[STARTS:])[:STARTS]]]
    modes, objectives, jacobians = descend(run, begin)
    gaussians = _core.Laplace(modes, jacobians, objectives)
    noise = np.asarray(gaussians.draw(run.n, run.fresh_seed()))
    parts: list[Evaluated] = []

    def found() -> TiltedSamples:
        whole = Evaluated.joined(parts)
        prior = -0.5 * (whole.noise**2).sum(axis=1) - 0.5 * whole.noise.shape[1] * math.log(2.0 * math.pi)
        log_weights = whole.values + prior - np.asarray(gaussians.log_density(whole.noise))
        return run.weighted(whole, log_weights, "laplace")

    for first in range(0, run.n, ROWS):
        parts.append(objective.at(noise[first : first + ROWS]))
        run.kept = found
        run.tell(min(first + ROWS, run.n), run.n)
    run.notes.append(f"{gaussians.count} modes" if gaussians.count > 1 else "one mode")
    result = found()
    if gaussians.count > MANY:
        result.doubts.append(
            f"{gaussians.count} modes were found from {2 * STARTS} starts: there may be more"
        )
    prior = run.weighted(pool, pool.values, "importance")
    error = math.hypot(prior.log_evidence_error, result.log_evidence_error)
    # The mean weight of few draws is far more often too small than too large.
    if prior.log_evidence - result.log_evidence > 3.0 * error:
        result.doubts.append(
            f"log evidence is {prior.log_evidence:.2f} by draws of the model: modes are missing"
        )
    return result


def descend(run: Run, noise: Real) -> tuple[Real, Real, Real]:
    """Modes ``[K, d]``, (|z|^2 + |r|^2) / 2 at the modes, and dr/dz ``[K, k, d]``.

    They are found by Levenberg-Marquardt steps, which are kept if they lower (|z|^2 + |r|^2) / 2.
    """
    objective = run.objective
    assert objective.residuals is not None
    damping = np.full(len(noise), 1e-2)
    residuals, jacobians = _residuals(run, noise)
    cost = 0.5 * ((noise**2).sum(axis=1) + (residuals**2).sum(axis=1))
    for step in range(STEPS):
        trial = np.asarray(_core.gauss_newton_step(noise, residuals, jacobians, damping))
        moved, slopes = _residuals(run, trial)
        lower = 0.5 * ((trial**2).sum(axis=1) + (moved**2).sum(axis=1))
        better = lower < cost
        gained = float(np.where(better, cost - lower, 0.0).max())
        noise = np.where(better[:, None], trial, noise)
        residuals = np.where(better[:, None], moved, residuals)
        jacobians = np.where(better[:, None, None], slopes, jacobians)
        cost = np.where(better, lower, cost)
        damping = np.clip(np.where(better, damping * 0.2, damping * 10.0), 1e-8, 1e8)
        run.tell(step + 1, STEPS)
        if gained <= 1e-6 and (better | (damping >= 1e4)).all():
            break
    return noise, cost, jacobians


def _residuals(run: Run, noise: Real) -> tuple[Real, Real]:
    """Residuals r(z) and their derivative dr/dz."""
    step, own = run.objective.step, run.objective.residuals
    assert own is not None
    x = step.sample(noise)
    residuals, slopes = own(x), own.jacobian(x)
    if slopes.shape[1] <= step.dimension:
        return residuals, step.pull_back(noise, x, slopes.astype(x.dtype))
    axes = np.eye(step.dimension).reshape(1, step.dimension, *step.event_shape)
    whole = step.pull_back(noise, x, np.repeat(axes, len(noise), axis=0).astype(x.dtype))
    return residuals, np.asarray(slopes.reshape(*slopes.shape[:2], -1) @ whole)
