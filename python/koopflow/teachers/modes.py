"""The modes of a data set, which are the fixed points of its denoiser."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._arrays import Array


@dataclass(frozen=True, eq=False)
class Modes:
    """The modes of a Gaussian kernel density, as :meth:`koopflow.FlowTeacher.modes` finds them.

    Attributes
    ----------
    modes : array, ``[K, *event]``
        Local maxima of the density, the highest first.
    assignment : array, ``[N]``
        Index of the mode that each row of the data converges to, from 0 to K - 1, int64.
    log_density : array, ``[K]``
        Log of the kernel density at the modes, in nats, float64.
    bandwidth : float
        Deviation of the kernel, in units of the data.
    steps : int
        Number of steps of the slowest row.
    converged : bool
        Whether all rows converged.
    """

    modes: Array
    assignment: Array
    log_density: Array
    bandwidth: float
    steps: int
    converged: bool

    def __len__(self) -> int:
        return len(self.modes)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of rows of each mode, ``[K]``."""
        return np.bincount(np.asarray(self.assignment), minlength=len(self)).astype(np.int64)

    def __repr__(self) -> str:
        rest = "" if self.converged else ", not at rest"
        return f"<Modes: {len(self)} at bandwidth {self.bandwidth:g}, {self.steps} steps{rest}>"
