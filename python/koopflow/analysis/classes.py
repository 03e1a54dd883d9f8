"""Classification of data by the first modes of a flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from .._arrays import Array, as_numbers, as_samples, to_numpy
from .._tables import text_table
from ..exceptions import ArgumentError, ShapeError
from ..spectrum import FlowSpectrum, checked_spectrum
from .labels import one_per_sample

_Real = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClassCurve:
    """Accuracy of classification by the first modes, measured by :func:`koopflow.analysis.class_curve`.

    Attributes
    ----------
    counts : array, ``[C]``
        Numbers of modes, axes or components.
    modes, axes, pixels : array, ``[C]``
        Accuracy on held-out data of classification by the nearest class mean, in units of the deviation
        within classes. The features are the amplitudes of the first nonlinear modes (``modes``), those along
        the first affine axes (``axes``) and the first principal components of the data (``pixels``). NaN for
        counts beyond the number of features.
    chance : float
        Relative size of the largest class.
    """

    counts: NDArray[np.int64]
    modes: _Real
    axes: _Real
    pixels: _Real
    chance: float

    def summary(self) -> str:
        """A table with one row for each count."""
        rows = [
            {"first": count, "modes": mode, "affine axes": axis, "components of the data": pixel}
            for count, mode, axis, pixel in zip(
                self.counts.tolist(), self.modes, self.axes, self.pixels, strict=True
            )
        ]
        return f"{text_table(rows, decimals=3, missing='-')}\nchance {self.chance:.3f}"

    def __repr__(self) -> str:
        return f"<ClassCurve: {self.counts.tolist()}>"


def class_curve(
    spectrum: FlowSpectrum,
    x: Array,
    labels: Array,
    held_out: Array,
    held_out_labels: Array,
    *,
    counts: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    condition: tuple[Array, Array] | None = None,
) -> ClassCurve:
    """Measure how accurately the first k modes of a flow classify data, compared with principal components.

    Parameters
    ----------
    spectrum : FlowSpectrum
        Spectrum of a model that can map data back to noise.
    x, labels : array, ``[N, *event]`` and ``[N]``
        Data from which class means and principal components are computed; at least two classes of two samples
        each.
    held_out, held_out_labels : array
        Data on which accuracy is measured.
    counts : sequence of int
        Values of k, each at least 1.
    condition : pair of arrays, optional
        Conditions of ``x`` and of ``held_out``, for a conditional model.
    """
    checked_spectrum("spectrum", spectrum, FlowSpectrum)
    x, held_out = as_samples(x, "x"), as_samples(held_out, "held_out")
    if x.shape[1:] != held_out.shape[1:]:
        raise ShapeError(f"held_out: expected events {tuple(x.shape[1:])}, got {tuple(held_out.shape)}")
    known = one_per_sample("labels", labels, x)
    asked = one_per_sample("held_out_labels", held_out_labels, held_out)
    numbers = [int(count) for count in as_numbers(counts, "counts", "[1, 2, 4]")]
    if min(numbers) < 1:
        raise ArgumentError(f"counts: expected integers from 1 on, got {counts!r}")
    classes, sizes = np.unique(known, return_counts=True)
    if len(classes) < 2 or sizes.min() < 2:
        raise ArgumentError("labels: expected at least two classes of two samples each, got fewer")
    given = condition or (None, None)
    read = [spectrum.readings(part, condition=own)[0] for part, own in zip((x, held_out), given, strict=True)]
    axes = len(spectrum.axis_values)
    flat = [to_numpy(part).reshape(len(part), -1).astype(np.float64) for part in (x, held_out)]
    components = PCA(min(max(numbers), *flat[0].shape)).fit(flat[0])
    sets: dict[str, list[_Real]] = {
        "modes": [part[:, axes:] for part in read],
        "axes": [part[:, :axes] for part in read],
        "pixels": [components.transform(part) for part in flat],
    }
    curves = {name: _accuracies(train, test, known, asked, numbers) for name, (train, test) in sets.items()}
    _, seen = np.unique(asked, return_counts=True)
    return ClassCurve(counts=np.asarray(numbers), chance=float(seen.max() / len(asked)), **curves)


def _accuracies(
    train: _Real, test: _Real, known: NDArray[Any], asked: NDArray[Any], counts: Sequence[int]
) -> _Real:
    """Accuracy of the nearest class mean by the first columns; NaN for counts that exceed the columns."""
    classes, codes = np.unique(known, return_inverse=True)
    means = np.stack([train[codes == code].mean(axis=0) for code in range(len(classes))])
    within = np.maximum((train - means[codes]).std(axis=0), 1e-12)
    gaps = np.cumsum(((test[:, None] - means) / within) ** 2, axis=2)
    found = {
        count: classes[gaps[:, :, count - 1].argmin(axis=1)] for count in counts if count <= gaps.shape[2]
    }
    return np.asarray([np.mean(found[count] == asked) if count in found else np.nan for count in counts])
