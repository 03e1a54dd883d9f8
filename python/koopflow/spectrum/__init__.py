"""Spectra of a student's generator and of a flow itself."""

from .flow import FlowSpectrum, read_flow, read_paths
from .flow_comparison import FOUND_AGAIN, SLOWEST, FlowComparison
from .levels import LevelSpectrum, build_level_spectrum
from .maps import MapSpectrum
from .paths import Paths, core_of
from .spectrum import NOISE_SEED, Spectrum, StabilityReport, build_spectrum, checked_spectrum

__all__ = [
    "FOUND_AGAIN",
    "NOISE_SEED",
    "SLOWEST",
    "FlowComparison",
    "FlowSpectrum",
    "LevelSpectrum",
    "MapSpectrum",
    "Paths",
    "Spectrum",
    "StabilityReport",
    "build_level_spectrum",
    "build_spectrum",
    "checked_spectrum",
    "core_of",
    "read_flow",
    "read_paths",
]
