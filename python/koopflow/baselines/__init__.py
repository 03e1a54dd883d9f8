"""Other methods that sample a flow in one or a few steps, for comparison with a Koopman student.

All have the same interface (:class:`Baseline`). :class:`PlainNetwork`, :class:`KDM` and :class:`MeanVelocity`
are trained on a teacher's trajectories, and have the parameters and budget of
:class:`koopflow.KoopmanDistiller`. :class:`ConsistencyFlow` is trained on data. :class:`OdeSolver` and
:class:`StraightLine` use the teacher itself.
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
