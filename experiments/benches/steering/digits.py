"""Digits with half of their pixels hidden."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from koopflow import Observation

from ..flow_spectrum.models import PROBLEMS, TRAINING, Models, digits
from .guidance import guided, of_observation

SIDE, NOISE, LEAST = 8, 0.1, 0.05
STEP = 0.125  # Distance of the grey levels of digits; samples are continuous.
STEPS, SCALES = 200, (0.5, 1.0)
DRAWS = 512


def measure(seed: int, folder: Path, steps: int | None, count: int) -> dict[str, float]:
    """Coverage of held-out truths, and how often a classifier recognises completed digits."""
    images, labels = digits()
    train, held = images[:TRAINING], images[TRAINING : TRAINING + count]
    truth = labels[TRAINING : TRAINING + count]
    judge = LogisticRegression(max_iter=2000).fit(train, labels[:TRAINING])
    models = Models(PROBLEMS["digits"], folder, steps=steps)
    teacher, student = models.teacher(seed), models.student(seed, 0)
    seen = np.zeros((SIDE, SIDE), dtype=bool)
    seen[:, : SIDE // 2] = True
    # Pixels that are always the same are left out.
    hidden = ~seen.reshape(-1) & (train.std(axis=0) > LEAST)
    random = np.random.default_rng([seed, 3])
    rows: dict[str, list[Any]] = defaultdict(list)
    spread = float(train.std())
    for number, image in enumerate(held):
        y = image[seen.reshape(-1)] + NOISE * random.normal(size=int(seen.sum()))
        observation = Observation(seen.reshape(-1), y, noise=NOISE)
        found = student.tilt(observation=observation).sample(DRAWS, seed=number)
        equal = found.resample(DRAWS, seed=number)
        low, high = np.quantile(equal, [0.05, 0.95], axis=0)
        rows["covered"].append(((low <= image) & (image <= high))[hidden].mean())
        within = (low - STEP / 2 <= image) & (image <= high + STEP / 2)
        rows["to a grey level"].append(within[hidden].mean())
        operator = np.eye(SIDE * SIDE)[seen.reshape(-1)]
        likelihood = of_observation(operator, y, NOISE, spread)
        noise = np.random.default_rng([seed, number]).normal(size=(8, SIDE * SIDE)).astype(np.float32)
        ends = [guided(teacher, likelihood, noise, STEPS, scale) for scale in SCALES]
        known = truth[number]
        rows["own"].append((judge.predict(equal[:8]) == known).mean())
        rows["guided"].append([(judge.predict(np.nan_to_num(end)) == known).mean() for end in ends])
        rows["ess"].append(found.ess)
        rows["reliable"].append(found.reliable)
        rows["per"].append(found.evaluations / DRAWS)
    return {
        "coverage": float(np.mean(rows["covered"])),
        "coverage to half a grey level": float(np.mean(rows["to a grey level"])),
        "recognised": float(np.mean(rows["own"])),
        "recognised, guided": float(np.max(np.mean(rows["guided"], axis=0))),
        "recognised, truth": float((judge.predict(held) == truth).mean()),
        "effective of 512": float(np.median(rows["ess"])),
        "reliable": float(np.mean(rows["reliable"])),
        "evaluations for each sample": float(np.mean(rows["per"])),
    }
