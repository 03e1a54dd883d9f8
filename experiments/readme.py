"""The README's picture and its three numbers: ``python -m experiments.readme``.

Trains the README's teacher and student on two moons (seed 0), draws ``docs/pictures/moons.png`` and prints
the figures. Times are measured side by side in one run, each as the median of five.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from koopflow import FlowTeacher, KoopmanDistiller, datasets, plotting

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "moons.png"
# The default: a curved flow, so that paths are worth looking at.
COUPLING = "independent"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, help="training steps of the student; its default otherwise")
    options.add_argument("--output", type=Path, default=PICTURE, help="file of the picture")
    given = options.parse_args()
    torch.set_num_threads(2)

    teacher = FlowTeacher((2,), coupling=COUPLING, seed=0).fit(datasets.moons(20_000))
    student = KoopmanDistiller(steps=given.steps, seed=0).fit(teacher)
    held_out = datasets.moons(4_000, seed=1)
    report = student.evaluate(teacher, held_out)
    print(report)

    noise = np.random.default_rng(2).standard_normal((10_000, 2)).astype(np.float32)
    runs: dict[str, Callable[[], object]] = {
        "student": lambda: student.sample(x0=noise),
        "dopri5 at 1e-5": lambda: teacher.sample(x0=noise),
        "Euler, 100 steps": lambda: teacher.sample(x0=noise, solver="euler", steps=100),
    }
    seconds = {name: median_seconds(run) for name, run in runs.items()}
    for name, value in seconds.items():
        ratio = value / seconds["student"]
        print(f"{name}: {value:.4f} s for 10,000 samples, {ratio:.0f} times the student's")
    draw(teacher, student, datasets.moons(20_000, seed=1), given.output)
    print(f"wrote {given.output}")


def median_seconds(run: Callable[[], object], times: int = 5) -> float:
    run()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def draw(teacher: FlowTeacher, student: KoopmanDistiller, data: np.ndarray, file: Path) -> None:
    """Data, the student's samples, its paths over the teacher's, and the eigenvalues of its generator."""
    noise = np.random.default_rng(3).standard_normal((20_000, 2)).astype(np.float32)
    figure = plotting.new_figure((15.0, 3.8))
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.25))
    low, high = data.min(axis=0) - 0.3, data.max(axis=0) + 0.3
    limits = (low[0], high[0], low[1], high[1])
    plotting.samples(data, ax=axes[0], kind="density", limits=limits, title="data")
    samples = student.sample(x0=noise)
    plotting.samples(samples, ax=axes[1], kind="density", limits=limits, title="one step of the student")
    paths = student.sample_path(noise[:40], times=np.linspace(0, 1, 25))
    plotting.paths(paths, ax=axes[2], title="its paths, in closed form")
    plotting.spectrum(student.spectrum(teacher), ax=axes[3], title="eigenvalues of its generator")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
