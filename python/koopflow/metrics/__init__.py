"""Metrics of samples against data, of students against their teachers, and of the shape of paths.

Distances between sets of samples are plain numbers, computed in float64 by the core. :func:`measured` adds a
sampling floor and an interval. Errors of models on the same noise are an :class:`Estimate` with a bootstrap
interval. Invalid arguments raise ``ShapeError``, ``DtypeError``, ``NonFiniteError`` or ``ArgumentError``,
which name them. A model without the required method raises ``TypeError``.
docs/metrics.md says what each metric measures and when it misleads.
"""

from .distances import (
    PrecisionRecall,
    energy_distance,
    frechet_distance,
    median_bandwidths,
    mmd,
    precision_recall,
    sliced_wasserstein,
    wasserstein2,
)
from .errors import endpoint_error, inversion_error, path_error, round_trip_error, straightness
from .estimate import Estimate, LogLikelihood, log_likelihood, measured
from .features import extract_features
from .geometry import PathGeometry, path_geometry

__all__ = [
    "Estimate",
    "LogLikelihood",
    "PathGeometry",
    "PrecisionRecall",
    "endpoint_error",
    "energy_distance",
    "extract_features",
    "frechet_distance",
    "inversion_error",
    "log_likelihood",
    "measured",
    "median_bandwidths",
    "mmd",
    "path_error",
    "path_geometry",
    "precision_recall",
    "round_trip_error",
    "sliced_wasserstein",
    "straightness",
    "wasserstein2",
]
