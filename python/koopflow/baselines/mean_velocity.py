"""A flow map by mean velocities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._arrays import Array
from ._baseline import PathBaseline
from .trained import TrainedBaseline


@dataclass(kw_only=True, eq=False, repr=False)
class MeanVelocity(PathBaseline, TrainedBaseline):
    """A flow map between any two times, X_{s,t}(x) = x + (t - s) u(x, s, t) (MeanFlow, arXiv 2505.13447).

    (t - s) u(x_s, s, t) is the integral of the velocity along the path from s to t. Its derivative in s along
    the flow gives the identity that u is trained by,

        u = v(s, x_s) + (t - s) du/ds,    du/ds = J u · (v, 1, 0) in (x, s, t),

    with the right-hand side taken as given. (In the paper time runs from data to noise: its t is s here, its
    r is t, and there u = v - (t - r) du/dt.) The points x_s lie along the teacher's stored trajectories, v is
    its velocity there, and du/ds is exact, by forward-mode derivatives through the network. Errors are
    weighted as in the paper, with p = 1/2. Endpoints are never regressed on.

    It has a path, X_{0,t}(x0), in one evaluation for each time, and no inverse.

    Parameters
    ----------
    instant_share : float, default 0.25
        Share of a batch, in [0, 1], that has s = t, where u is the velocity itself. Of the rest one half has
        t = 1, the other a random t between s and 1.
    width, depth, steps, ...
        As in :class:`TrainedBaseline`.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher, baselines
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], np.eye(2))
    >>> student = baselines.MeanVelocity(width=16, depth=1, steps=50, trajectories=256)
    >>> student.fit(teacher, progress=False).sample_path(4, times=[0.0, 0.5, 1.0]).shape
    (3, 4, 2)
    """

    _method: ClassVar[str] = "mean_velocity"

    instant_share: float = 0.25

    def _path(self, x0: Array, times: list[float], condition: Array | None) -> Array:
        return self._fitted().sample_path(x0, times, condition=condition)
