"""Distillation of the ends alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .trained import TrainedBaseline


@dataclass(kw_only=True, eq=False)
class PlainNetwork(TrainedBaseline):
    """A network from noise to the teacher's endpoint: x1 = skip(x0) + network(x0).

    It sees what a Koopman student sees of the noise, and has its linear skip. The loss is the mean square of
    endpoint errors over the data's variance. It has neither a path, nor an inverse, nor a spectrum.

    Parameters
    ----------
    width, depth, steps, batch_size, ...
        Those of every baseline that is trained: see :mod:`koopflow.baselines`.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher, baselines
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], np.eye(2))
    >>> plain = baselines.PlainNetwork(width=16, depth=1, steps=50, trajectories=256)
    >>> plain.fit(teacher, progress=False).sample(4).shape
    (4, 2)
    """

    _method: ClassVar[str] = "plain_network"
