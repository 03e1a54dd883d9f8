"""The README's picture of moons and its three numbers: ``python -m experiments.readme``.

It trains the README's teacher and student on two moons (seed 0), draws ``docs/pictures/moons.png`` and prints
the numbers. Times are measured in the same run, each as the median of five. It then trains a teacher on
digits of 8x8 pixels (seed 0), computes its canonical spectrum and draws ``docs/pictures/blueprint.png``, a
picture of docs/spectrum.md; ``--only blueprint`` does only that, in about a minute. ``--only sources`` draws
``docs/pictures/sources.png``, the picture of docs/sources.md: a flow from 8 Gaussians to moons.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps

from koopflow import FlowSpectrum, FlowTeacher, KoopmanDistiller, datasets, plotting
from koopflow.analysis import flow_spectrum

from .environment import versions

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
# The default coupling, whose flow is curved, so that paths are visibly different from straight lines.
COUPLING = "independent"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, help="training steps of the student; by default its own")
    options.add_argument("--output", type=Path, default=PICTURES, help="folder of the pictures")
    options.add_argument("--only", choices=[*PICTURE_OF], help="a single picture; by default all")
    given = options.parse_args()
    torch.set_num_threads(2)
    given.output.mkdir(parents=True, exist_ok=True)
    for name, picture in PICTURE_OF.items():
        if given.only in (None, name):
            picture(given.steps, given.output / f"{name}.png")


def moons(steps: int | None, file: Path) -> None:
    """Draw the first picture and print the numbers."""
    teacher = FlowTeacher((2,), coupling=COUPLING, seed=0).fit(datasets.moons(20_000))
    student = KoopmanDistiller(steps=steps, seed=0).fit(teacher)
    held_out = datasets.moons(4_000, seed=1)
    report = student.evaluate(teacher, held_out)
    print(versions())
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
    draw(teacher, student, datasets.moons(20_000, seed=1), file)
    print(f"wrote {file}")


def digits(steps: int | None, file: Path) -> None:
    """Draw the second picture and print the spectrum."""
    images = datasets.digits()[0].reshape(-1, 64)
    flow = flow_spectrum(FlowTeacher((64,), seed=0).fit(images))
    print(flow.summary())
    draw_blueprint(flow, file)
    print(f"wrote {file}")


def sources(steps: int | None, file: Path) -> None:
    """Draw the picture of docs/sources.md and print the student's error."""
    source, data = datasets.eight_gaussians(20_000), datasets.moons(20_000)
    teacher = FlowTeacher((2,), source=source, seed=0).fit(data)
    student = KoopmanDistiller(steps=steps, seed=0).fit(teacher)
    print(student.evaluate(teacher, datasets.moons(4_000, seed=1)))
    draw_sources(teacher, student, datasets.eight_gaussians(2_500, seed=1), data, file)
    print(f"wrote {file}")


def median_seconds(run: Callable[[], object], times: int = 5) -> float:
    run()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def draw(teacher: FlowTeacher, student: KoopmanDistiller, data: np.ndarray, file: Path) -> None:
    """Draw data, the student's samples, its paths over the teacher's, and its generator's eigenvalues."""
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
    figure.savefig(file, dpi=80, bbox_inches="tight")


def draw_sources(
    teacher: FlowTeacher, student: KoopmanDistiller, start: np.ndarray, data: np.ndarray, file: Path
) -> None:
    """Draw new rows of the source, paths, and both models' samples in the colours of their starts."""
    ends, samples = teacher.sample(x0=start), student.sample(x0=start)
    # Colours show the direction and are darkened, since the palette contains white.
    turn = np.arctan2(start[:, 1], start[:, 0]) / (2.0 * np.pi) + 0.5
    colours = colormaps["hsv"](turn) * (0.85, 0.75, 0.85, 1.0)
    everything = np.concatenate([start, ends, samples, data])
    low, high = everything.min(axis=0) - 0.2, everything.max(axis=0) + 0.2
    limits = (low[0], high[0], low[1], high[1])
    figure = plotting.new_figure((15.0, 4.2))
    axes = figure.subplots(1, 4)
    plotting.samples(start, ax=axes[0], colour=colours, limits=limits, title="source: rows not trained on")
    few, times = start[:60], np.linspace(0, 1, 25)
    both = student.sample_path(few, times=times), teacher.trajectory(few, times=times)
    plotting.paths(*both, ax=axes[1], background=data[:4_000], start="source", title="paths, in closed form")
    axes[1].set(xlim=limits[:2], ylim=limits[2:])
    # The legend is below the axes, since paths come from all sides.
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "ncols": 4, "columnspacing": 1.2}
    axes[1].legend(frameon=False, fontsize=8, handlelength=1.4, **below)
    plotting.samples(ends, ax=axes[2], colour=colours, limits=limits, title="where the teacher leads")
    plotting.samples(
        samples, ax=axes[3], colour=colours, limits=limits, title="where the student leads, in one step"
    )
    figure.savefig(file, dpi=80, bbox_inches="tight")


def draw_blueprint(flow: FlowSpectrum, file: Path) -> None:
    """Draw energies over time, the parts as images, and five samples built from them."""
    noise = np.random.default_rng(3).standard_normal((5, *flow.event_shape)).astype(np.float32)
    figure = plotting.new_figure((15.0, 3.8))
    axes = figure.subplots(1, 3, width_ratios=(1, 1.45, 1.7))
    plotting.blueprint(flow, axes=axes[:2], title="what moves, and when")
    axes[1].set_title("its parts", loc="left", fontsize=10)
    plotting.build_up(flow, noise, ax=axes[2], counts=[2, 6, 20, 60], title="samples, part by part")
    figure.savefig(file, dpi=100, bbox_inches="tight")


PICTURE_OF: dict[str, Callable[[int | None, Path], None]] = {
    "moons": moons,
    "blueprint": digits,
    "sources": sources,
}

if __name__ == "__main__":
    main()
