"""Edits along class directions: in canonical amplitudes, in a student's observables, and of pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from koopflow.analysis import Directions, find_directions

from ..spectrum import AT
from .models import TRAINING, Models, digits

Real = NDArray[np.float64]
STRENGTHS = np.linspace(0.0, 3.0, 13)
WEIGHTS = np.linspace(0.0, 1.0, 13)
RESTS = (0.5, 1.0, 1.5)


def at_equal(x: Real, y: Real, where: float) -> float:
    """The value of y at which x first reaches ``where``, by linear interpolation; NaN if it does not."""
    over = np.flatnonzero(x >= where)
    if len(over) == 0:
        return float("nan")
    after = int(over[0])
    if after == 0:
        return float(y[0])
    share = (where - x[after - 1]) / (x[after] - x[after - 1])
    return float(y[after - 1] + share * (y[after] - y[after - 1]))


def curve(
    edit: Callable[[NDArray[Any], int, int], NDArray[Any]],
    images: NDArray[Any],
    labels: NDArray[Any],
    classifier: LogisticRegression,
) -> tuple[Real, Real]:
    """Results of moving held-out digits of other classes towards each class, at 13 strengths.

    They are the RMS of the change orthogonal to the difference of class means (the rest), and the mean
    probability of the class, both averaged over the classes.
    """
    train, train_labels = images[:TRAINING], labels[:TRAINING]
    held_out, held_out_labels = images[TRAINING:], labels[TRAINING:]
    rests, probabilities = np.zeros((10, len(STRENGTHS))), np.zeros((10, len(STRENGTHS)))
    for target in range(10):
        x = held_out[held_out_labels != target]
        across = train[train_labels == target].mean(axis=0) - train.mean(axis=0)
        across /= np.linalg.norm(across)
        for step in range(len(STRENGTHS)):
            image = np.asarray(edit(x, target, step))
            moved = image - x
            rest = moved - np.outer(moved @ across, across)
            rests[target, step] = np.sqrt((rest**2).sum(axis=1).mean())
            probabilities[target, step] = classifier.predict_proba(image)[:, target].mean()
    return rests.mean(axis=0), probabilities.mean(axis=0)


def measure(models: Models, seeds: Sequence[int], students: int) -> dict[str, list[dict[str, float]]]:
    """A row for each student and kind of edit."""
    images, labels = digits()
    train, train_labels = images[:TRAINING], labels[:TRAINING]
    classifier = LogisticRegression(C=0.1, max_iter=2000).fit(train, train_labels)
    means = [train[train_labels == target].mean(axis=0) for target in range(10)]
    rows: dict[str, list[dict[str, float]]] = {}
    blended = curve(
        lambda x, target, step: x + WEIGHTS[step] * (means[target] - x), images, labels, classifier
    )
    rows["pixels blended with the class's mean"] = [summary(*blended)]
    for seed in seeds:
        for number in range(students):
            kinds: dict[str, Any] = {
                "observables of the generator": models.student(seed, number).spectrum(),
                "canonical amplitudes": models.spectrum(seed, number),
            }
            for name, spectrum in kinds.items():
                found = find_directions(spectrum, train, labels=train_labels, at=AT)
                row = summary(*curve(along(found), images, labels, classifier))
                rows.setdefault(name, []).append({**row, "r2": float(np.mean(found.r2))})
    return rows


def along(directions: Directions) -> Callable[[NDArray[Any], int, int], NDArray[Any]]:
    """Edits along the directions of classes, with ``project``.

    Without it all samples would move by the same image, which is nearly the difference of class means, and
    there would be no orthogonal change to measure.
    """
    return lambda x, target, step: np.asarray(directions.edit(x, target, STRENGTHS[step], project=True))


def summary(rests: Real, probabilities: Real) -> dict[str, float]:
    row = {f"probability_{rest}": at_equal(rests, probabilities, rest) for rest in RESTS}
    return row | {"rest_0.6": at_equal(probabilities, rests, 0.6), "most": float(probabilities.max())}
