"""Spectra: eigenvalues, eigenfunctions and modes of a student's generator."""

from .levels import LevelSpectrum
from .spectrum import Spectrum, StabilityReport

__all__ = ["LevelSpectrum", "Spectrum", "StabilityReport"]
