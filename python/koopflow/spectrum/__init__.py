"""Spectra: eigenvalues, eigenfunctions and modes of a student's generator."""

from .levels import LevelSpectrum, MapSpectrum, build_level_spectrum
from .spectrum import NOISE_SEED, Spectrum, StabilityReport, build_spectrum, checked_spectrum

__all__ = [
    "NOISE_SEED",
    "LevelSpectrum",
    "MapSpectrum",
    "Spectrum",
    "StabilityReport",
    "build_level_spectrum",
    "build_spectrum",
    "checked_spectrum",
]
