"""What can be asked of a spectrum: meaningful directions, class signatures, other students' modes."""

from .directions import Directions
from .matching import SpectrumComparison
from .signatures import Signatures

__all__ = ["Directions", "Signatures", "SpectrumComparison"]
