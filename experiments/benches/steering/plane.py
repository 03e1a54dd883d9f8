"""Noisy projections and half planes, compared with rejection samples of the teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from koopflow import FlowTeacher, KoopmanDistiller, Observation, datasets, energies, metrics

from ..flow_spectrum.models import kept
from .guidance import Likelihood, guided, of_observation, of_reward

COUNT = 1024  # Number of samples that are compared; DRAWS is the number of weighted ones that they come from.
DRAWS = 16 * COUNT
POOL = {"gmm40": 1_000_000}  # Number of teacher's samples for rejection; for other problems MOST.
MOST = 200_000
STEPS, SCALES = (100, 500), (0.1, 0.3, 1.0, 2.0)  # Steps and scales of guidance; the best scale is reported.

PROBLEMS: dict[str, Callable[[int], NDArray[Any]]] = {
    "moons": lambda seed: datasets.moons(20_000, seed=seed),
    "eight_gaussians": lambda seed: datasets.eight_gaussians(20_000, seed=seed),
    # In units of its deviation, since networks need standardised coordinates.
    "gmm40": lambda seed: (energies.gmm40().sample(20_000, seed=seed) / 23.0).astype(np.float32),
}


@dataclass
class Wish:
    """A condition on samples: for koopflow, for guidance, and as the log acceptance probability."""

    given: dict[str, Any]
    likelihood: Likelihood
    log_share: Callable[[NDArray[Any]], NDArray[np.float64]]


def wishes(data: NDArray[Any], seed: int) -> dict[str, Wish]:
    """A noisy projection of one held-out point, and a soft half plane with 15% of the data."""
    random = np.random.default_rng([seed, 7])
    spread = float(data.std())
    angle = random.uniform(0.0, 2.0 * np.pi, size=2)
    first, second = (np.array([[np.cos(a), np.sin(a)]]) for a in angle)
    noise = 0.1 * spread
    y = first @ data[random.integers(len(data))] + noise * random.normal(size=1)
    edge, width = float(np.quantile(data @ second[0], 0.85)), 0.05 * spread

    def reward(x: torch.Tensor) -> torch.Tensor:
        along = x @ torch.from_numpy(second[0]).to(x.dtype)
        return torch.nn.functional.logsigmoid((along - edge) / width)

    return {
        "projection": Wish(
            {"observation": Observation(first, y, noise=noise)},
            of_observation(first, y, noise, spread),
            lambda x: -0.5 * ((x @ first[0] - y[0]) / noise) ** 2,
        ),
        "half_plane": Wish(
            {"reward": reward}, of_reward(reward), lambda x: reward(torch.from_numpy(x).double()).numpy()
        ),
    }


def rejected(pool: NDArray[Any], wish: Wish, seed: int) -> list[NDArray[Any]]:
    """Two independent sets of exact samples of the tilted teacher."""
    random = np.random.default_rng([seed, 11])
    keep = pool[np.log(random.uniform(size=len(pool))) < wish.log_share(pool.astype(np.float64))]
    if len(keep) < 2 * COUNT:
        raise RuntimeError(f"rejection kept {len(keep)} of {len(pool)} samples, fewer than {2 * COUNT}")
    return [keep[:COUNT], keep[COUNT : 2 * COUNT]]


def models(name: str, seed: int, folder: Path, steps: int | None) -> tuple[FlowTeacher, KoopmanDistiller]:
    def teach() -> FlowTeacher:
        return FlowTeacher((2,), seed=seed).fit(PROBLEMS[name](seed), progress=False)

    teacher = kept(folder, f"{name}-steered-teacher-{seed}", teach)
    distill = partial(KoopmanDistiller(seed=seed, steps=steps).fit, teacher, progress=False)
    student = kept(folder, f"{name}-steered-student-{seed}-{steps or 'default'}", distill, KoopmanDistiller)
    return teacher, student


def measure(
    name: str, seed: int, folder: Path, steps: int | None, *, refit: bool = False
) -> dict[str, dict[str, float]]:
    """A row for each condition: W2 to rejection samples of the teacher, over that of two such sets."""
    teacher, student = models(name, seed, folder, steps)
    pool = np.asarray(teacher.sample(POOL.get(name, MOST), seed=10_000 + seed))
    rows = {}
    for kind, wish in wishes(PROBLEMS[name](1000 + seed)[:2000], seed).items():
        first, second = rejected(pool, wish, seed)
        floor = metrics.wasserstein2(first, second)
        found = student.tilt(**wish.given).sample(DRAWS, seed=seed)
        steered = metrics.wasserstein2(first, found.resample(COUNT, seed=seed))
        by_teacher = teacher.tilt(**wish.given).sample(DRAWS, seed=seed)
        row = {
            "floor": floor,
            "student": steered / floor,
            "teacher": metrics.wasserstein2(first, by_teacher.resample(COUNT, seed=seed)) / floor,
            "evaluations": found.evaluations / COUNT,
            "ess": found.ess,
            "reliable": float(found.reliable),
        }
        noise = np.random.default_rng([seed, 13]).normal(size=(COUNT, 2)).astype(np.float32)
        for count in STEPS:
            ends = [guided(teacher, wish.likelihood, noise, count, scale) for scale in SCALES]
            gaps = [metrics.wasserstein2(first, end) for end in ends if np.isfinite(end).all()]
            row[f"guided_{count}"] = min(gaps) / floor
        if refit:
            row["refit"] = metrics.wasserstein2(first, distilled_again(found, seed, steps)) / floor
        rows[kind] = row
        print(f"{name} {kind} {seed}: {found.method}, {row}", flush=True)
    return rows


def distilled_again(found: Any, seed: int, steps: int | None) -> NDArray[Any]:
    """Samples of a student whose teacher was trained on the weighted samples."""
    teacher = FlowTeacher((2,), seed=seed).fit(found.x, weights=found.weights, progress=False)
    student = KoopmanDistiller(seed=seed, steps=steps).fit(teacher, progress=False)
    return np.asarray(student.sample(COUNT, seed=20_000 + seed))
