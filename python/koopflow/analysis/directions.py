"""Semantic directions: changes of eigenfunction values with a label or a score, used to edit data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict

from .._arrays import Array, as_condition, as_flag, as_number, as_numbers, as_samples, to_numpy
from ..exceptions import ArgumentError, NonFiniteError
from ..spectrum import FlowSpectrum, LevelSpectrum, Spectrum, checked_spectrum
from .labels import number_per_sample, one_per_sample

RIDGES = np.logspace(-3, 4, 15)
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions that :func:`koopflow.analysis.find_directions` found.

    Ridge regression predicts a label (as 0 or 1) or a score from eigenfunction values; the prediction is the
    *reading*. To change it, all observables are shifted by their covariance with the reading, divided by the
    variance of the reading. This is the pattern of Haufe et al., NeuroImage 87 (2014). A strength of 1 raises
    the reading by 1.

    Attributes
    ----------
    names : list
        The labels, or ``["score"]``.
    shifts : array, ``[len(names), m]``
        Shifts of the observables for strength 1.
    r2 : array, ``[len(names)]``
        Coefficients of determination of the readings, by five-fold cross-validation. A direction with 0 or
        less has no meaning.
    at : float
        Time of the eigenfunctions and of the edit.

    With a FlowSpectrum, readings are made from its amplitudes and those along the affine axes, which are
    constant in time; ``shifts`` are ``[len(names), A + K]``, with the axes first. With a LevelSpectrum, the
    selected eigenfunctions at every pixel are both read and shifted, and ``shifts`` are
    ``[len(names), F]``. Other feature maps do not change, so a direction of one level shows how classes
    differ at that level.
    """

    spectrum: Spectrum | FlowSpectrum | LevelSpectrum
    names: list[Any]
    shifts: NDArray[np.float64]
    r2: NDArray[np.float64]
    at: float

    def _shift(self, name: Any) -> NDArray[np.float64]:
        if getattr(name, "ndim", 0) or name not in self.names:
            raise ArgumentError(f"name: expected one of {self.names}, got {name!r}")
        return np.asarray(self.shifts[self.names.index(name)])

    def image(self, name: Any) -> NDArray[np.float64]:
        """The change ``[*event]`` of a sample by strength 1 of a direction, without ``project``.

        A hierarchy's decoder is not linear. There it is the change of the sample that belongs to the means of
        the eigenfunctions over noise.
        """
        return self.spectrum.shift_image(self._shift(name), self.at)

    def edit(
        self,
        x: Array | None = None,
        name: Any = None,
        strength: float | Array = 1.0,
        *,
        x0: Array | None = None,
        project: bool = False,
        condition: Array | None = None,
    ) -> Array:
        """Move data ``x``, or samples of noise ``x0``, along a direction; returns ``[B, *event]``.

        ``name`` is not needed if there is only one direction. ``strength``, a number or an array ``[B]``, is
        the distance along it; 0 returns the data unchanged. With ``project`` the edited state is decoded and
        encoded again before it is propagated, which keeps it among possible states. At time 0 that changes
        the noise.
        """
        if (x is None) == (x0 is None):
            raise ArgumentError(f"expected one of x and x0, got {'neither' if x is None else 'both'}")
        given = as_samples(x0, "x0") if x is None else as_samples(x, "x")
        if isinstance(strength, list | tuple) or getattr(strength, "ndim", 0) > 0:
            far = number_per_sample("strength", strength, given)
        else:
            far = np.full(len(given), as_number(strength, "strength"))
        shift = self._shift(self.names[0] if name is None and len(self.names) == 1 else name)
        how: dict[str, Any] = {"project": as_flag(project, "project"), "condition": as_condition(condition)}
        return self.spectrum.move(given, far[:, None] * shift, noise=x is None, at=self.at, **how)

    def sweep(
        self,
        x: Array | None = None,
        name: Any = None,
        strengths: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
        **options: Any,
    ) -> Array:
        """:meth:`edit` at several strengths, with its options, ``[len(strengths), B, *event]``."""
        each = as_numbers(strengths, "strengths", "[-1, 0, 1]")
        return np.stack([to_numpy(self.edit(x, name, strength, **options)) for strength in each])


def find_directions(
    spectrum: Spectrum | FlowSpectrum | LevelSpectrum,
    x: Array,
    *,
    labels: Array | None = None,
    scores: Array | None = None,
    at: float = 1.0,
    condition: Array | None = None,
) -> Directions:
    """Find directions of eigenfunction values or amplitudes along which labels or a score change.

    Parameters
    ----------
    spectrum : Spectrum, FlowSpectrum or LevelSpectrum
        A spectrum, or a selection of one, from whose eigenfunctions or amplitudes the labels are predicted.
    x : array, ``[N, *event]``
        Data, at least 10 samples.
    labels, scores : array, ``[N]``
        Either labels, which give one direction for each class, or scores, which give a single direction.
        Scores are finite numbers, the values of any function of the data.
    at : float, default 1.0
        Time, from noise at 0 to data at 1, at which eigenfunctions are read and edited.
    condition : array, optional
        Labels ``[N]`` or vectors ``[N, dim]`` for a conditional student.

    Examples
    --------
    ``find_directions(spectrum, x, labels=labels).sweep(x, "cat")`` makes the data less, then more cat-like.
    """
    checked_spectrum("spectrum", spectrum, Spectrum, FlowSpectrum, LevelSpectrum)
    x = as_samples(x, "x")
    if (labels is None) == (scores is None):
        raise ArgumentError(
            f"expected one of labels and scores, got {'neither' if labels is None else 'both'}"
        )
    if len(x) < 2 * FOLDS:
        raise ArgumentError(f"x: expected at least {2 * FOLDS} samples to regress on, got {len(x)}")
    if scores is None:
        given = one_per_sample("labels", labels, x)
        values = np.unique(given)
        names, targets = values.tolist(), (given[:, None] == values).astype(np.float64)
    else:
        names, targets = ["score"], number_per_sample("scores", scores, x)[:, None]
    if (targets == targets[0]).all():
        raise ArgumentError(f"{'labels' if scores is None else 'scores'}: expected several values, got one")
    # Scores are divided by the largest one, so that their squares neither overflow nor underflow.
    unit = abs(targets).max()
    targets = targets / unit
    features, g = spectrum.readings(x, as_number(at, "at"), condition)
    features -= features.mean(axis=0)
    features /= np.maximum(features.std(axis=0), 1e-12)
    # Folds are shuffled, since data are often sorted by label.
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    readings = cross_val_predict(RidgeCV(RIDGES), features, targets, cv=folds).reshape(targets.shape)
    r2 = r2_score(targets, readings, multioutput="raw_values")
    fitted = RidgeCV(RIDGES).fit(features, targets).predict(features).reshape(targets.shape)
    fitted -= fitted.mean(axis=0)
    shifts = (fitted.T @ (g - g.mean(axis=0))) / np.maximum((fitted**2).sum(axis=0), 1e-300)[:, None]
    with np.errstate(over="ignore"):
        shifts = shifts / unit
    if not np.isfinite(shifts).all():
        raise NonFiniteError(f"scores: expected larger numbers, got none beyond {unit:g}")
    return Directions(spectrum, names, shifts, r2, float(at))
