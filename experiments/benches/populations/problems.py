"""Simulated populations and snapshots of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ..forecasting.environments import Unavailable, interpreter, last_line

Real = NDArray[np.float64]
Random = np.random.Generator
HELD = 2  # Number of the held-out snapshot: the middle one of five.
AXES = 5  # Number of principal axes for cells of many genes.


@dataclass(frozen=True)
class Problem:
    """Snapshots ``[N_k, d]`` at times, and the relative size of the whole population at each time."""

    snapshots: list[Real]
    times: list[float]
    sizes: list[float] | None = None


def toggle(seed: int, cells: int = 500) -> Problem:
    """Three genes: two repress each other and activate themselves, and a third represses both.

    Cells with much of the second gene divide. The equation has the form of a test of Zhang et al. (arXiv
    2410.00844). Constants and initial states are this module's own, so W1 is comparable in kind to theirs,
    but not the same number. Snapshots are at 0, 8, 16, 24 and 32. Initially half of the cells are at each of
    two states.
    """
    random = np.random.default_rng([seed, 1])
    starts = np.array([[2.0, 0.2, 0.0], [0.0, 0.0, 2.0]])
    x = np.repeat(starts, cells // 2, 0) + random.normal(0.0, 0.1, (2 * (cells // 2), 3))
    x = np.maximum(x, 0.0)
    snapshots, times = [x], [0.0]
    for step in range(1, 33):
        x = divided(moved(x, random), random)
        if step % 8 == 0:
            snapshots.append(x)
            times.append(float(step))
    return Problem(snapshots, times, [float(len(rows)) for rows in snapshots])


def moved(x: Real, random: Random) -> Real:
    """One step of length 1 of the stochastic equation, by Euler and Maruyama."""
    a, b, c = (x**2).T
    first = (0.5 * a + 1.0) / (1.0 + 0.5 * a + b + 10.0 * c + 1.0)
    second = (b + 1.0) / (1.0 + 0.5 * a + b + 10.0 * c + 1.0)
    third = c / (1.0 + c)
    drift = np.stack([first, second, third], 1) - 0.4 * x
    noise = np.array([0.05, 0.05, 0.01]) * random.normal(size=x.shape)
    return np.maximum(x + drift + noise, 0.0)


def divided(x: Real, random: Random) -> Real:
    """Cells after division; the probability of division increases with the second gene."""
    rate = 0.05 * x[:, 1] ** 2 / (1.0 + x[:, 1] ** 2)
    parents = x[random.uniform(size=len(x)) < rate]
    daughters = parents + 0.014 * random.normal(size=parents.shape)
    return np.concatenate([x, np.maximum(daughters, 0.0)])


def petals(seed: int, cells: int = 400) -> Problem:
    """Cells that move outwards along four closed petals, whose sides separate and meet again at the tips."""
    random = np.random.default_rng([seed, 2])
    snapshots = []
    times = np.linspace(0.0, 1.0, 5)
    for time in times:
        at = np.clip(time + random.normal(0.0, 0.03, cells), 0.0, 1.0)
        petal, side = random.integers(0, 4, cells), random.choice([-1.0, 1.0], cells)
        angle = 0.5 * np.pi * petal + side * 0.45 * np.sin(np.pi * at)
        rows = 3.0 * at[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        snapshots.append(rows + random.normal(0.0, 0.05, rows.shape))
    return Problem(snapshots, times.tolist())


def tree(seed: int, cells: int = 400) -> Problem:
    """Cells along a stem that forks, with branches that fork again."""
    random = np.random.default_rng([seed, 3])
    snapshots = []
    times = np.linspace(0.0, 1.0, 5)
    for time in times:
        at = np.clip(time + random.normal(0.0, 0.03, cells), 0.0, 1.0)
        first, second = random.choice([-1.0, 1.0], (2, cells))
        up = 1.6 * first * np.maximum(at - 0.3, 0.0) + 0.8 * second * np.maximum(at - 0.65, 0.0)
        rows = np.stack([3.0 * at, 1.5 * up], 1)
        snapshots.append(rows + random.normal(0.0, 0.05, rows.shape))
    return Problem(snapshots, times.tolist())


def branches(seed: int, folder: Path) -> Problem:
    """SERGIO's cells of a hundred genes along two branches, in principal axes of those not held out.

    Raises ``Unavailable`` if SERGIO cannot be installed or fails.
    """
    file = folder / f"sergio-{seed}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).parent / "adapters" / "with_sergio.py"
        command = [str(interpreter("sergio", folder)), str(script), str(file), str(seed)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise Unavailable(last_line(done.stderr, f"ended with {done.returncode}"))
    with np.load(file) as found:
        stages = [np.asarray(found[f"stage_{k}"]) for k in range(len(found))]
    axes = PCA(AXES).fit(np.concatenate([rows for k, rows in enumerate(stages) if k != HELD]))
    return Problem([axes.transform(rows) for rows in stages], np.linspace(0.0, 1.0, len(stages)).tolist())


PROBLEMS: dict[str, Callable[[int, Path], Problem]] = {
    "toggle": lambda seed, folder: toggle(seed),
    "petals": lambda seed, folder: petals(seed),
    "tree": lambda seed, folder: tree(seed),
    "branches": branches,
}


def without(problem: Problem, held: int) -> Problem:
    """The problem without one snapshot."""
    keep = [k for k in range(len(problem.times)) if k != held]
    sizes = None if problem.sizes is None else [problem.sizes[k] for k in keep]
    return Problem([problem.snapshots[k] for k in keep], [problem.times[k] for k in keep], sizes)
