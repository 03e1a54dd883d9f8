"""Forecasts of observed sequences by observables with a linear evolution, fitted without a teacher."""

from .forecaster import KoopmanForecaster
from .paths import Paths
from .prior import SequencePrior
from .report import ForecastReport
from .smoothing import SmoothedPaths
from .spectrum import SequenceSpectrum

__all__ = [
    "ForecastReport",
    "KoopmanForecaster",
    "Paths",
    "SequencePrior",
    "SequenceSpectrum",
    "SmoothedPaths",
]
