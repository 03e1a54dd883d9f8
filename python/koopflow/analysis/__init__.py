"""Questions to a spectrum: meaningful directions, signatures of classes, modes of other students.

Functions of a :class:`koopflow.Spectrum` or a selection of one; their results hold numbers, which
:mod:`koopflow.plotting` draws. Arguments that do not fit are a ``ShapeError`` or ``ArgumentError``.
"""

from .directions import Directions, find_directions
from .matching import SpectrumComparison, compare_spectra
from .signatures import Signatures, measure_signatures, permutation_test

__all__ = [
    "Directions",
    "Signatures",
    "SpectrumComparison",
    "compare_spectra",
    "find_directions",
    "measure_signatures",
    "permutation_test",
]
