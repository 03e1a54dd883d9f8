"""Questions to spectra: meaningful directions, signatures of classes, modes of other models.

Functions of a :class:`koopflow.Spectrum`, of a :class:`koopflow.FlowSpectrum` or of selections of them; their
results hold numbers, which :mod:`koopflow.plotting` draws. Arguments that do not fit are a ``ShapeError`` or
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
