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
    """All r modes of a student, in the core's order; arrays ``[r]``, the modes ``[r, d]``.

    Attributes
    ----------
    student : _core.Student
        The student whose generator was decomposed.
    core : _core.Spectrum
        Its decomposition.
    partners : array, ``[r]``, int
        Place of the other of each conjugate pair; real modes are their own.
    rank : array, ``[r]``, int
        Place of each mode among all of them by energy.
    """

    def __init__(self, student: _core.Student, core: _core.Spectrum) -> None:
        self.student, self.core = student, core
        self.eigenvalues: Complex = core.eigenvalues
        self.partners: Places = np.asarray(core.partners, dtype=np.int64)
        self.rank: Places = np.empty(len(self), dtype=np.int64)
        self.rank[core.order("energy")] = np.arange(len(self))
        self.energy: Real = np.asarray(core.energy([1.0])[0])
        self.power, self.spread, self.residuals = core.power, core.spread, core.residuals
        self.condition_numbers: Real = core.condition_numbers

    def __len__(self) -> int:
        return len(self.eigenvalues)

    @cached_property
    def modes(self) -> Complex:
        return self.core.modes

    @cached_property
    def mode_rates(self) -> Complex:
        return self.core.mode_rates
