"""Analysis of spectra: semantic directions, signatures of classes, and modes shared by several models.

The functions take a :class:`koopflow.Spectrum`, a :class:`koopflow.FlowSpectrum` or selections of them. Their
results hold numbers; :mod:`koopflow.plotting` draws them. Invalid arguments raise ``ShapeError`` or
``ArgumentError``.
"""

from .classes import ClassCurve, class_curve
from .directions import Directions, find_directions
from .flow import Consensus, consensus, flow_spectrum
from .matching import SpectrumComparison, compare_spectra
from .signatures import Signatures, measure_signatures, permutation_test

__all__ = [
    "ClassCurve",
    "Consensus",
    "Directions",
    "Signatures",
    "SpectrumComparison",
    "class_curve",
    "compare_spectra",
    "consensus",
    "find_directions",
    "flow_spectrum",
    "measure_signatures",
    "permutation_test",
]
