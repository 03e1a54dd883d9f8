"""Other ways to sample a flow in few steps or in one: what a Koopman student is to be measured against.

All have one face: ``fit(teacher)``, ``sample``, ``sample_path`` where ``has_path`` says so, ``save`` and
``load``. Those that are trained (:class:`PlainNetwork`, :class:`KDM`, :class:`MeanVelocity`) see what
:class:`koopflow.KoopmanDistiller` sees, the same number of trajectories through networks of the same width
and depth, and have the same options:

width, depth : int, optional
    Of each network; None takes those of a Koopman student.
steps : int, optional
    Training steps; None picks by the dimension of the data, and lets the clock alone decide where
    ``max_seconds`` is given.
batch_size : int, optional
    Rows a step, 256 by default.
learning_rate : float, optional
    Peak of a cosine after ``warmup_steps`` of linear warm-up; None picks by the dimension of the data.
ema_decay : float, optional
    Of the averaged weights, which are what is kept; 0.999 by default.
clip_norm : float, optional
    The largest norm of a gradient, 1 by default.
trajectories, path_steps : int, optional
    How many of the teacher's trajectories to store, and the steps of each; None takes those of a Koopman
    student.
max_seconds : float, optional
    For the whole fit, trajectories included. The learning rate then follows the clock.
seed : int, default 0
    Fixes everything random; on a CPU and without ``max_seconds`` the same seed gives the same student.
device, dtype : str
    ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``; ``"float32"`` or ``"float64"``.
"""

from ._baseline import Baseline, load
from .consistency_flow import ConsistencyFlow
from .kdm import KDM
from .mean_velocity import MeanVelocity
from .ode_solver import OdeSolver
from .plain_network import PlainNetwork
from .straight_line import StraightLine

__all__ = [
    "KDM",
    "Baseline",
    "ConsistencyFlow",
    "MeanVelocity",
    "OdeSolver",
    "PlainNetwork",
    "StraightLine",
    "load",
]
