"""Hardly trained teachers and students, since the speed of a step or a sample does not depend on weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from koopflow import FlowTeacher, KoopmanDistiller

# Numbers of stored paths and of their steps, which are enough for batches and cheap.
PATHS, INTERVALS = 512, 8
# Learning rate of all models, so small that weights hardly change.
RATE = 1e-6


def teacher_of(shape: tuple[int, ...], seed: int, **options: Any) -> FlowTeacher:
    """A network of the default size, after one step."""
    data = np.random.default_rng(seed).standard_normal((512, *shape)).astype(np.float32)
    return FlowTeacher(shape, seed=seed, **{"steps": 1, **options}).fit(data, progress=False)


def student_of(teacher: FlowTeacher, steps: int, seed: int, **options: Any) -> KoopmanDistiller:
    """A student after ``steps`` steps, with as little other work as possible."""
    options["trajectories"] = {
        "count": PATHS,
        "path_steps": INTERVALS,
        "solver": "euler",
        "solver_steps": INTERVALS,
        **options.get("trajectories", {}),
    }
    # A dense generator with larger entries would need more terms of its series.
    options.setdefault("learning_rate", RATE)
    options["training"] = {"evaluate_every": 10**9, **options.get("training", {})}
    return KoopmanDistiller(steps=steps, seed=seed, **options).fit(teacher, progress=False)


def stored_paths(teacher: FlowTeacher, seed: int) -> torch.Tensor:
    """States of the teacher's paths, ``[N, T, d]``."""
    times = np.linspace(0.0, 1.0, INTERVALS + 1)
    states = torch.from_numpy(np.asarray(teacher.trajectory(n=PATHS, times=times, seed=seed)))
    return states.flatten(2).transpose(0, 1).contiguous()
