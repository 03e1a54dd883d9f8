"""Sampling for a reward, an observation or an energy, by statistics in noise space.

A one-step map S carries noise z ~ N(0, I) to samples x = S(z). The reward, observation or energy becomes a
weight of the noise. Importance sampling, Markov chains or particles then sample the weighted noise, and
report how reliable the result is. ``student.tilt(...)`` and ``teacher.tilt(...)`` are implemented here, on
the core's models.
"""

from .found import TiltedSamples
from .observation import Observation
from .tilted import Tilted, tilted_model

__all__ = ["Observation", "Tilted", "TiltedSamples", "tilted_model"]
