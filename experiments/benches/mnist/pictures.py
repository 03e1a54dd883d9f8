"""The pictures of docs/gallery.md, from the models that ``python -m experiments.benches.mnist`` kept.

    python -m experiments.benches.mnist.pictures --data FOLDER --models runs/mnist --output docs/pictures

Samples are those of the first noise, without selection. Paths, edits and round trips use one digit of each
class.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from koopflow import FlowTeacher, KoopmanDistiller, analysis, plotting
from koopflow.spectrum import LevelSpectrum

from ..images import CLASSES
from .judge import Judge
from .models import file_of

TIMES = [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]


def saved(figure: Any, folder: Path, name: str) -> None:
    figure.savefig(folder / f"mnist-{name}.png", dpi=160, bbox_inches="tight")


def same_noise(teacher: FlowTeacher, student: KoopmanDistiller, noise: Any, labels: Any) -> Any:
    """Samples of the same noise, with one row for each sampler."""
    given = {"x0": noise, "condition": labels}
    rows = {
        "teacher\n(adaptive)": teacher.sample(**given),
        "student\n1 evaluation": student.sample(**given),
        "Euler\n8 evaluations": teacher.sample(**given, solver="euler", steps=8),
        "Euler\n2 evaluations": teacher.sample(**given, solver="euler", steps=2),
        "Euler\n1 evaluation": teacher.sample(**given, solver="euler", steps=1),
    }
    figure = plotting.new_figure((0.5 * len(noise) + 1.2, 0.55 * len(rows)))
    axes = figure.subplots(len(rows), 1)
    for ax, (name, images) in zip(axes, rows.items(), strict=True):
        plotting.image_grid(np.asarray(images), ax=ax, columns=len(noise))
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        ax.set_axis_on()
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    return figure


def paths(teacher: FlowTeacher, student: KoopmanDistiller, noise: Any, labels: Any) -> Any:
    """Paths of two digits, by the teacher and in the student's closed form."""
    figure = plotting.new_figure((7.5, 3.2))
    axes = figure.subplots(2, 1)
    solved = np.asarray(teacher.trajectory(noise[3:5], times=TIMES, condition=labels[3:5]))
    known = np.asarray(student.sample_path(noise[3:5], times=TIMES, condition=labels[3:5]))
    for ax, states, name in zip(axes, (solved, known), ("teacher", "student"), strict=True):
        plotting.edit_strip(states, ax=ax, strengths=TIMES, label="time", title=name, limits=(-2.0, 2.0))
    return figure


def round_trips(student: KoopmanDistiller, images: Any, labels: Any) -> Any:
    """Held-out digits, their noise, the samples of that noise, and the differences."""
    noise = np.asarray(student.invert(images, polish=3, method="anderson", condition=labels))
    again = np.asarray(student.sample(x0=noise, condition=labels))
    return plotting.inversion_strip(images, noise, again, title="8 evaluations").figure


def bolder(spectrum: LevelSpectrum, judge: Judge) -> Any:
    """Samples along the direction of the coarse maps that corresponds to more ink."""
    x, labels = judge.train[:1000], judge.train_labels[:1000]
    ink = x.mean(axis=(1, 2, 3))
    direction = analysis.find_directions(
        spectrum.select(levels=[1, 2]), x, scores=(ink - ink.mean()) / ink.std(), condition=labels
    )
    strengths = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    noise, given = judge.noise[:6], judge.labels[:6]
    sweep = direction.sweep(x0=noise, strengths=strengths, condition=given)
    return plotting.edit_strip(
        sweep, strengths=strengths, label="strength", title="less ink, more ink"
    ).figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of MNIST's test files")
    parser.add_argument("--models", type=Path, required=True, help="output of experiments.benches.mnist")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    judge = Judge(options.data, options.models, samples=2 * CLASSES, epochs=20, seed=options.seed)
    teacher = FlowTeacher.load(file_of("teacher", options.seed, options.models))
    student = KoopmanDistiller.load(file_of("hierarchical", options.seed, options.models))
    noise, labels = judge.noise, judge.labels
    saved(same_noise(teacher, student, noise, labels), options.output, "same-noise")
    saved(paths(teacher, student, noise, labels), options.output, "paths")
    of_class = [int(np.flatnonzero(judge.held_out_labels == label)[0]) for label in range(CLASSES)]
    held_out = judge.held_out[of_class], judge.held_out_labels[of_class]
    saved(round_trips(student, *held_out), options.output, "round-trips")
    spectrum = student.spectrum(teacher)
    ax = plotting.level_eigenvalues(spectrum, title="eigenvalues of its maps")
    saved(ax.figure, options.output, "level-eigenvalues")
    ax = plotting.level_build_up(spectrum, noise[:CLASSES], condition=labels[:CLASSES])
    saved(ax.figure, options.output, "levels")
    saved(bolder(spectrum, judge), options.output, "bolder")


if __name__ == "__main__":
    main()
