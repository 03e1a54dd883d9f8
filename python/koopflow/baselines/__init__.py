"""Other ways to sample a flow in few steps or in one: what a Koopman student is to be measured against.

All are used alike (:class:`Baseline`). Those that are trained on a teacher's trajectories,
:class:`PlainNetwork`, :class:`KDM` and :class:`MeanVelocity`, have the parameters of
:class:`koopflow.KoopmanDistiller` and its budget. :class:`ConsistencyFlow` is trained on data;
:class:`OdeSolver` and :class:`StraightLine` are the teacher itself.
"""

from ._baseline import Baseline, load
from .consistency_flow import ConsistencyFlow
from .ode_solver import OdeSolver, StraightLine
from .trained import KDM, MeanVelocity, PlainNetwork, TrainedBaseline

__all__ = [
    "KDM",
    "Baseline",
    "ConsistencyFlow",
    "MeanVelocity",
    "OdeSolver",
    "PlainNetwork",
    "StraightLine",
    "TrainedBaseline",
    "load",
]
