"""Cost of densities of samples, relative to the samples alone."""

from __future__ import annotations

import statistics
import time

import numpy as np

from koopflow import FlowTeacher, KoopmanDistiller

DIMENSIONS = (2, 8, 16, 32, 64)


def measure(count: int = 4096, repeats: int = 5) -> dict[str, dict[str, float]]:
    """Ratios of times for students of the default size."""
    rows = {}
    for d in DIMENSIONS:
        teacher = FlowTeacher.gaussian(np.zeros(d), np.eye(d))
        student = KoopmanDistiller(steps=1, trajectories=256).fit(teacher, progress=False)
        ratios = []
        for seed in range(repeats + 1):
            begun = time.perf_counter()
            student.sample(count, seed=seed)
            middle = time.perf_counter()
            student.sample(count, seed=seed, log_prob=True)
            ratios.append((time.perf_counter() - middle) / (middle - begun))
        # The first call is a warm-up.
        rows[str(d)] = {
            "times": statistics.median(ratios[1:]),
            "least": min(ratios[1:]),
            "most": max(ratios[1:]),
        }
    return rows
