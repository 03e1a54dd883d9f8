"""Questions to a spectrum: meaningful directions, signatures of classes, modes of other students.

Functions of a :class:`koopflow.Spectrum` or a selection of one; their results hold numbers, which
:mod:`koopflow.plotting` draws. Arguments that do not fit are a ``ShapeError`` or ``ArgumentError``.
"""

from .directions import Directions, find_directions
from .flow import Consensus, consensus, flow_spectrum
from .matching import SpectrumComparison, compare_spectra
from .signatures import Signatures, measure_signatures, permutation_test

__all__ = [
    "Consensus",
    "Directions",
    "Signatures",
    "SpectrumComparison",
    "compare_spectra",
    "consensus",
    "find_directions",
    "flow_spectrum",
    "measure_signatures",
    "permutation_test",
]
