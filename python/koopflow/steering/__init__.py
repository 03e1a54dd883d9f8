"""Samples given something: a reward, an observation or an energy, by statistics in noise space.

A one-step map S carries noise z ~ N(0, I) to samples x = S(z). What is asked of samples becomes a weight of
their noise, and importance weights, Markov chains or particles sample it, with figures that say how far to
trust them. ``student.tilt(...)`` and ``teacher.tilt(...)`` begin here; this room knows the models of the core
alone.
"""

from .found import TiltedSamples
from .observation import Observation
from .tilted import Tilted, tilted_model

__all__ = ["Observation", "Tilted", "TiltedSamples", "tilted_model"]
