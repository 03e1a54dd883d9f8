"""The shape of paths: curvature, torsion and principal directions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_batch


@dataclass(frozen=True, eq=False)
class PathGeometry:
    """The shape of each of B paths, measured by :func:`path_geometry`.

    Attributes
    ----------
    chord : array, ``[B]``
        Distance from the first state to the last, in units of x.
    length : array, ``[B]``
        Length of the polygon through the states, in units of x.
    deviation : array, ``[B]``
        Largest distance of a state from the line through the first and the last, in units of x.
    curvature : array, ``[B]``
        Mean curvature: the sum of the angles between successive segments, divided by the length, in radians
        per unit of x.
    torsion : array, ``[B]``
        Mean torsion without sign: the sum of the angles between successive planes of curvature, divided by
        the length, in radians per unit of x. It is 0 in the plane. Corners of less than 1e-4 radians count as
        straight.
    energy : array, ``[B, 3]``
        Shares of a path's variance about its mean along its first three principal directions, in decreasing
        order.
    """

    chord: NDArray[np.float64]
    length: NDArray[np.float64]
    deviation: NDArray[np.float64]
    curvature: NDArray[np.float64]
    torsion: NDArray[np.float64]
    energy: NDArray[np.float64]

    @property
    def length_ratio(self) -> NDArray[np.float64]:
        """Length over chord, ``[B]``: 1 for straight paths, infinite for closed ones, NaN for points."""
        return _over(self.length, self.chord)

    @property
    def relative_deviation(self) -> NDArray[np.float64]:
        """Deviation divided by chord, ``[B]``: 0 for straight paths, 1/2 for half circles."""
        return _over(self.deviation, self.chord)

    def summary(self) -> str:
        """One line of means over the paths."""
        return (
            f"{len(self.chord)} paths: length {self.length_ratio.mean():.3f} chords, deviation "
            f"{self.relative_deviation.mean():.3f} chords, curvature {self.curvature.mean():.3g}, torsion "
            f"{self.torsion.mean():.3g}, energy in 1, 2, 3 directions "
            + ", ".join(f"{share:.1%}" for share in self.energy.cumsum(axis=1).mean(axis=0))
        )

    def __repr__(self) -> str:
        return f"<PathGeometry: {self.summary()}>"


def _over(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(a / b)


def path_geometry(paths: Array) -> PathGeometry:
    """Measure chord, length, deviation, curvature, torsion and principal directions of each path.

    Chen et al., arXiv 2305.19947, do this for flows from noise to data. A path is taken as the polygon
    through its states. With more states, its curvature and torsion are closer to those of a smooth path. The
    times of the states do not matter.

    Parameters
    ----------
    paths : array, ``[T, B, *event]``
        At least four states of each path, as ``teacher.trajectory`` and ``student.sample_path`` return them.

    Raises
    ------
    ShapeError, ArgumentError, DtypeError, NonFiniteError
        For paths of another shape, with fewer states, or with values that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow.metrics import path_geometry
    >>> angle = np.linspace(0.0, np.pi, 257)
    >>> half = path_geometry(np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None])
    >>> half.curvature.round(3), half.relative_deviation.round(3), half.length_ratio.round(3)
    (array([0.996]), array([0.5]), array([1.571]))
    """
    return PathGeometry(*_core.path_geometry(as_batch(paths, "paths")))
