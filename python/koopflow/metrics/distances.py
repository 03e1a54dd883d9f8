"""Distances between sets of samples, in float64 by the core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import Any, NamedTuple

from .. import _core
from .._arrays import Array, as_batch, as_numbers, as_seed, checked_count
from ..exceptions import NonFiniteError
from .features import extract_features
from .fidelity import fidelity_distance, fidelity_features


def wasserstein2(a: Array, b: Array) -> float:
    """Exact Wasserstein-2 distance: the root of the mean squared distance under the best assignment.

    It has the units of the samples, and is biased upwards by about N^(-1/d) in d dimensions. ``a`` and ``b``,
    ``[N, *event]``, must have the same number of samples, at most 5,000: time grows with the cube of N.

    >>> wasserstein2([[0.0, 0.0], [1.0, 0.0]], [[1.0, 2.0], [0.0, 2.0]])
    2.0
    """
    return _finite(_core.wasserstein2(as_batch(a, "a"), as_batch(b, "b")))


def sliced_wasserstein(a: Array, b: Array, *, projections: int = 256, seed: int = 0) -> float:
    """Sliced Wasserstein-2 distance (Bonneel et al., JMIV 2015): along random directions, by sorting.

    It has the units of the samples, and is biased upwards by about N^(-1/2) in any dimension. ``a`` is
    ``[N, *event]`` and ``b`` ``[M, *event]``. Squared distances are averaged over ``projections`` random
    directions with the random seed ``seed``.

    >>> sliced_wasserstein([[0.0], [1.0]], [[2.0], [3.0]])
    2.0
    """
    count, seed = checked_count(projections, "projections"), as_seed(seed)
    a, b = as_batch(a, "a"), as_batch(b, "b")
    return _finite(_core.sliced_wasserstein(a, b, projections=count, seed=seed))


def energy_distance(a: Array, b: Array) -> float:
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Szekely and Rizzo, 2013), without a root.

    It has the units of the samples, and is unbiased: for two sets from the same distribution it is near 0,
    sometimes below. ``a`` and ``b``, ``[N, *event]`` and ``[M, *event]``, have at least two samples each.

    >>> energy_distance([[0.0], [2.0]], [[1.0], [3.0]])   # 2 * 1.5 - 2 - 2
    -1.0
    """
    return _finite(_core.energy_distance(as_batch(a, "a"), as_batch(b, "b")))


def mmd(samples: Array, data: Array, *, bandwidths: Sequence[float] | None = None) -> float:
    """Squared maximum mean discrepancy (Gretton et al., JMLR 2012) by a sum of Gaussian kernels.

    k(x, y) is the sum over the bandwidths s of exp(-||x - y||^2 / (2 s^2)). The value has no units, and is
    unbiased: for two sets from the same distribution it is near 0, sometimes below. ``samples`` and ``data``,
    ``[N, *event]`` and ``[M, *event]``, have at least two samples each. ``bandwidths`` are in their units,
    and by default :func:`median_bandwidths` of the data. Compare values of equal bandwidths only.

    >>> round(mmd([[0.0], [1.0]], [[0.0], [1.0]], bandwidths=[1.0]), 3)   # exp(-1/2) - 1
    -0.393
    """
    widths = None if bandwidths is None else as_numbers(bandwidths, "bandwidths", "[0.5, 1, 2]")
    return _core.mmd(as_batch(samples, "samples"), as_batch(data, "data"), bandwidths=widths)


def median_bandwidths(data: Array) -> list[float]:
    """The median distance between samples times 1/2, 1 and 2: bandwidths for :func:`mmd`.

    ``data``, ``[N, *event]``, are at least two samples, most of which differ. A fixed subset of 1,000 is used
    if there are more.

    >>> median_bandwidths([[0.0], [1.0], [3.0]])
    [1.0, 2.0, 4.0]
    """
    found = _core.median_bandwidths(as_batch(data, "data"))
    _finite(found[-1])
    return found


def frechet_distance(
    a: Array,
    b: Array,
    features: Any = None,
    *,
    batch_size: int = 64,
    feature_weights: str | PathLike[str] | None = None,
) -> float:
    """Squared Fréchet distance between Gaussians fitted to features (Heusel et al., arXiv 1706.08500).

    The distance is ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with covariances of divisor N - 1. For
    Inception features it is the Fréchet inception distance (FID). It has squared units of the features. Its
    upward bias is about 1/N, and large unless N is well above the number of features: compare values of equal
    N only.

    Parameters
    ----------
    a, b : array, ``[N, *event]`` and ``[M, *event]``
        At least two samples each, or their features if ``features`` is None.
    features, batch_size, feature_weights
        Network that maps samples to features, number of samples in one call of it, and its weights: see
        :func:`extract_features`. With ``"torch-fidelity"``, or an extractor of that library, the distance is
        the FID by that library's formula.

    Examples
    --------
    >>> import numpy as np
    >>> ends = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> round(frechet_distance(ends, 2 * ends + [0.0, 3.0]), 6)   # 3^2 + (2 - 1)^2
    10.0

    A published FID depends on a specific network and on how images are resized: docs/metrics.md says how to
    reproduce it.
    """
    network = fidelity_features(features, feature_weights, str(getattr(a, "device", "cpu")))
    if features is not None:
        a, b = (extract_features(x, network or features, batch_size=batch_size) for x in (a, b))
        if network is not None and min(len(a), len(b)) > 1:
            return _finite(fidelity_distance(a, b))
    return _finite(_core.frechet_distance(as_batch(a, "a"), as_batch(b, "b")))


class PrecisionRecall(NamedTuple):
    """Fraction of samples in the region of the data, and fraction of data in the region of the samples."""

    precision: float
    recall: float


def precision_recall(
    samples: Array, data: Array, *, k: int = 3, features: Any = None, batch_size: int = 64
) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991).

    The region of a set is the union of balls around its points, each with the distance to the ``k``-th
    nearest neighbour in the set as its radius. Precision is the fraction of samples in the region of the
    data, and measures their quality. Recall is the fraction of data in the region of the samples, and
    measures how much of the data they cover. Each set needs more than ``k`` points. Use sets of equal size,
    since the balls shrink with the number of points. The arguments are those of :func:`frechet_distance`.

    >>> import numpy as np
    >>> data = np.arange(10.0)[:, None]
    >>> precision_recall(data[:5], data, k=1)
    PrecisionRecall(precision=1.0, recall=0.6)
    """
    if features is not None:
        samples, data = (extract_features(x, features, batch_size=batch_size) for x in (samples, data))
    samples, data = as_batch(samples, "samples"), as_batch(data, "data")
    return PrecisionRecall(*_core.precision_recall(samples, data, k=checked_count(k, "k")))


def _finite(distance: float) -> float:
    if not math.isfinite(distance):
        raise NonFiniteError("samples: expected numbers whose squares are finite, got larger ones")
    return distance
