"""The whole of a spectrum as arrays: asked of the core once, shared by all selections of it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .. import _core

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]
Places = NDArray[np.int64]


class SpectralFacts:
    """All r modes of a student, in the core's order.

    Attributes
    ----------
    student : _core.Student
        The student whose generator was decomposed.
    core : _core.Spectrum
        Its decomposition.
    """

    def __init__(self, student: _core.Student, core: _core.Spectrum) -> None:
        self.student, self.core = student, core

    def __len__(self) -> int:
        return len(self.partners)

    @cached_property
    def eigenvalues(self) -> Complex:
        return self.core.eigenvalues

    @cached_property
    def partners(self) -> Places:
        """The place of the other of each conjugate pair; real modes are their own."""
        return np.asarray(self.core.partners, dtype=np.int64)

    @cached_property
    def rank(self) -> Places:
        """The place of each mode among all of them by energy."""
        rank = np.empty(len(self), dtype=np.int64)
        rank[self.core.order("energy")] = np.arange(len(self))
        return rank

    @cached_property
    def energy(self) -> Real:
        return np.asarray(self.core.energy([1.0])[0])

    @cached_property
    def power(self) -> Real:
        return self.core.power

    @cached_property
    def spread(self) -> Real:
        return self.core.spread

    @cached_property
    def residuals(self) -> Real | None:
        return self.core.residuals

    @cached_property
    def condition_numbers(self) -> Real:
        return self.core.condition_numbers

    @cached_property
    def modes(self) -> Complex:
        """Complex ``[r, d]``."""
        return self.core.modes

    @cached_property
    def mode_rates(self) -> Complex:
        """Complex ``[r, d]``."""
        return self.core.mode_rates
