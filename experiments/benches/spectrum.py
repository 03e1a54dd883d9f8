"""Measurements of students' spectra on digits, and the time to compute them: the tables of docs/spectrum.md.

    python -m experiments.benches.spectrum                 # seeds 0 1 2
    python -m experiments.benches.spectrum --seeds 0 --steps 3000 --output spectrum.json
    python -m experiments.benches.spectrum --large         # eigen-analysis of 2000 observables only

For each seed a teacher is trained on digits and a default student distilled. The measurements are: energy of
modes that follow the flow, number of modes needed, inversion and its polishing, edits along class directions
compared with blending pixels, and class signatures compared with raw pixels. Directions, signatures and
classifiers use training digits; measurements use held-out ones. Cells are means over the seeds, with their
range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from koopflow import FlowTeacher, KoopmanDistiller, datasets
from koopflow.analysis import compare_spectra, find_directions, measure_signatures, permutation_test
from koopflow.spectrum import Spectrum

from ..environment import machine, versions

STRENGTHS = np.linspace(0.0, 1.5, 7)
WEIGHTS = np.linspace(0.0, 1.0, 7)
AT = 0.5
ROWS = {
    "trusted": "energy in modes with residual at most 0.5",
    "modes": "modes for a truncation error of 10%",
    "round_trip": "round trip of held-out digits, of their norm",
    "polished": "the same after 8 Newton steps",
    "rises": "steps of strength at which the class's probability rises, of 6 x 10",
    "probability": "probability of the class at strength 1.5",
    "rest": "rest moved at probability 0.6, by the direction",
    "rest_pixels": "the same, by blending pixels",
    "signature": "nearest signature, held-out accuracy",
    "neighbours": "5 nearest neighbours on pixels",
    "separated": "pairs of classes apart at 5% after Bonferroni, of 45",
    "reproducible": "energy of modes found again with another seed",
    "correlation": "median correlation of matched eigenfunctions",
}


def distilled(seed: int, steps: int | None) -> tuple[Any, ...]:
    images, labels = datasets.digits()
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order].reshape(len(images), -1), labels[order]
    teacher = FlowTeacher(event_shape=(64,), seed=seed).fit(images[:1300], progress=False)
    students = [
        KoopmanDistiller(seed=s, steps=steps).fit(teacher, progress=False) for s in (seed, seed + 100)
    ]
    return images, labels, teacher, *students


def edits(
    spectrum: Spectrum, images: np.ndarray, labels: np.ndarray, classifier: LogisticRegression
) -> dict[str, float]:
    """Edits along class directions and blending with the class's mean, on held-out digits of other classes.

    The rest is the change of an image orthogonal to the difference of class means.
    """
    train, train_labels = images[:1300], labels[:1300]
    held_out, held_out_labels = images[1300:], labels[1300:]
    directions = find_directions(spectrum, train, labels=train_labels, at=AT)
    ours, theirs = np.zeros((10, 7, 2)), np.zeros((10, 7, 2))
    for target in range(10):
        x = held_out[held_out_labels != target]
        mean = train[train_labels == target].mean(axis=0)
        across = mean - train.mean(axis=0)
        across /= np.linalg.norm(across)
        for step in range(7):
            edited = directions.edit(x, target, STRENGTHS[step], project=True)
            blended = x + WEIGHTS[step] * (mean - x)
            for row, image in ((ours, edited), (theirs, blended)):
                moved = image - x
                rest = moved - np.outer(moved @ across, across)
                probability = classifier.predict_proba(image)[:, target].mean()
                row[target, step] = probability, np.sqrt((rest**2).sum(axis=1).mean())
    rests = [float(np.interp(0.6, *rows.mean(axis=0).T)) for rows in (ours, theirs)]
    return {
        "rises": float((np.diff(ours[:, :, 0], axis=1) > 0).sum()),
        "probability": float(ours[:, -1, 0].mean()),
        "rest": rests[0],
        "rest_pixels": rests[1],
    }


def measure(seed: int, steps: int | None) -> dict[str, float]:
    """The measurements of one seed."""
    images, labels, teacher, student, other = distilled(seed, steps)
    spectrum = student.spectrum(teacher)
    noise = np.random.default_rng(seed).normal(size=(500, 64)).astype(np.float32)
    counts, errors = spectrum.truncation_curve(noise, counts=range(1, len(spectrum) + 1, 3))
    held_out = images[1300:]
    size = np.sqrt((held_out**2).sum(axis=1).mean())
    trips = [student.invert(held_out, polish=polish, residuals=True)[1] for polish in (0, 8)]
    classifier = LogisticRegression(C=0.1, max_iter=2000).fit(images[:1300], labels[:1300])
    signatures = measure_signatures(spectrum, images[:1300], labels[:1300])
    p = permutation_test(signatures, 999)[np.triu_indices(10, 1)]
    neighbours = KNeighborsClassifier(5).fit(images[:1300], labels[:1300])
    comparison = compare_spectra(spectrum, other.spectrum())
    return {
        "trusted": float(spectrum.trusted_energy or 0.0),
        "modes": float(counts[np.argmax(errors < 0.1)]),
        "round_trip": float(np.sqrt((trips[0] ** 2).mean()) / size),
        "polished": float(np.sqrt((trips[1] ** 2).mean()) / size),
        **edits(spectrum, images, labels, classifier),
        "signature": signatures.accuracy(held_out, labels[1300:]),
        "neighbours": float(neighbours.score(held_out, labels[1300:])),
        "separated": float((p <= 0.05 / 45).sum()),
        "reproducible": comparison.reproducible_energy,
        "correlation": float(np.median(comparison.correlation)),
    }


def large() -> None:
    """Time the eigen-analysis of 2000 observables for 1x28x28 events; students are not trained."""
    teacher = FlowTeacher.gaussian(np.zeros((1, 28, 28)), np.eye(784))
    small = {"width": 8, "depth": 1, "steps": 1, "batch_size": 8}
    small["trajectories"] = {"count": 16, "path_steps": 2}
    for generator in ("dense", "spectral"):
        student = KoopmanDistiller(generator=generator, observables=1214, **small)
        student.fit(teacher, progress=False)
        started = time.perf_counter()
        spectrum = student.spectrum(n=64)
        seconds = time.perf_counter() - started
        print(
            f"{generator}: {student.n_observables_} observables, {len(spectrum)} modes, {seconds:.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="training steps of the students, instead of the default")
    parser.add_argument(
        "--large", action="store_true", help="only time the eigen-analysis of 2000 observables"
    )
    parser.add_argument("--output", type=Path, help="write every number as JSON")
    options = parser.parse_args()
    print(f"{versions()}, seeds {options.seeds}\n")
    if options.large:
        large()
        return
    rows = [measure(seed, options.steps) for seed in options.seeds]
    if options.output:
        options.output.write_text(
            json.dumps({"machine": machine(), "seeds": options.seeds, "rows": rows}, indent=2)
        )
    print("| digits | mean (range) |\n|---|---|")
    for name, text in ROWS.items():
        values = [row[name] for row in rows]
        print(f"| {text} | {statistics.mean(values):.3g} ({min(values):.3g}-{max(values):.3g}) |")


if __name__ == "__main__":
    main()
