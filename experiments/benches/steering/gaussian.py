"""Observations of Gaussian teachers, whose posteriors are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import multivariate_normal

from koopflow import FlowTeacher, Observation

DIMENSIONS = (2, 4, 8, 16, 32)
NOISE = 0.3


def problem(d: int, seed: int) -> tuple[FlowTeacher, Observation, np.ndarray, np.ndarray, float]:
    """A teacher, an observation of half as many values, and posterior mean, covariance and log evidence."""
    random = np.random.default_rng([seed, d])
    root = random.normal(size=(d, d)) / np.sqrt(d)
    mean, cov = random.normal(size=d), root @ root.T + 0.1 * np.eye(d)
    operator = random.normal(size=(max(d // 2, 1), d)) / np.sqrt(d)
    y = operator @ random.multivariate_normal(mean, cov) + NOISE * random.normal(size=len(operator))
    seen = operator @ cov @ operator.T + NOISE**2 * np.eye(len(operator))
    gain = cov @ operator.T @ np.linalg.inv(seen)
    evidence = float(multivariate_normal(operator @ mean, seen).logpdf(y))
    teacher = FlowTeacher.gaussian(mean, cov, dtype="float64")
    observed = Observation(operator, y, noise=NOISE)
    return teacher, observed, mean + gain @ (y - operator @ mean), cov - gain @ operator @ cov, evidence


def measure(seed: int, each: int = 4, samples: int = 20_000) -> dict[str, list[float]]:
    """Relative errors of mean and covariance, and of the log evidence in standard errors, of each problem."""
    rows: dict[str, list[float]] = {"dimension": [], "mean": [], "covariance": [], "evidence": [], "ess": []}
    for d in DIMENSIONS:
        for number in range(each):
            teacher, observed, mean, cov, evidence = problem(d, 100 * seed + number)
            found = teacher.tilt(observation=observed, rtol=1e-6, atol=1e-6).sample(
                max(samples * d, 20 * samples), method="laplace", seed=number
            )
            weights, x = found.weights, found.x.astype(np.float64)
            own = weights @ x
            away = x - own
            spread = (away * weights[:, None]).T @ away
            gap: Any = found.log_evidence - evidence
            rows["dimension"].append(d)
            rows["mean"].append(float(np.linalg.norm(own - mean) / np.linalg.norm(mean)))
            rows["covariance"].append(float(np.linalg.norm(spread - cov) / np.linalg.norm(cov)))
            rows["evidence"].append(abs(gap) / found.log_evidence_error)
            rows["ess"].append(found.ess / len(found))
    return rows
