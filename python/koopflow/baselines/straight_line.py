"""The trivial path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .._arrays import Array
from ._teacher import TeachersOwn


@dataclass(kw_only=True, eq=False)
class StraightLine(TeachersOwn):
    """The teacher's exact endpoints, by dopri5, and the line to them: the bar for claims about paths.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher, baselines
    >>> line = baselines.StraightLine().fit(FlowTeacher.gaussian([1.0, 2.0], np.eye(2)))
    >>> line.sample_path(np.zeros((1, 2), dtype=np.float32), times=[0.0, 0.5]).round(3)
    array([[[0. , 0. ]],
    <BLANKLINE>
           [[0.5, 1. ]]], dtype=float32)
    """

    def _ends(self, x0: Array, condition: Array | None) -> Array:
        return self._kept().sample(x0=x0, condition=condition)

    def _path(self, x0: Array, times: list[float], condition: Array | None) -> Array:
        start, end = self._kept().trajectory(x0, times=[0.0, 1.0], condition=condition)
        path = [start + t * (end - start) for t in times]
        return torch.stack(path) if isinstance(end, torch.Tensor) else np.stack(path)
