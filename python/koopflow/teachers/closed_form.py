"""Teachers in closed form, which need no training, and the modes of their data."""

from __future__ import annotations

import math
import warnings
from typing import TypeVar

import torch

from .. import _core
from .._arrays import Array, as_batch, as_integer, as_number, checked_event_shape
from ..exceptions import ArgumentError, ShapeError
from ..options import name_of
from ..progress import ProgressFunction, ProgressMeter
from .attaching import Attachable
from .flow import TrainingData
from .modes import Modes

Teacher = TypeVar("Teacher", bound=Attachable)


class ClosedForm(Attachable):
    """The exact fields of a Gaussian and of a finite set of points."""

    @classmethod
    def gaussian(
        cls: type[Teacher], mean: Array, cov: Array, *, device: str = "cpu", dtype: str = "float32"
    ) -> Teacher:
        """The exact field from N(0, I) to N(mean, cov) for the linear path. Its flow map is affine.

        The mean ``[*event]`` sets the event shape. The covariance ``[d, d]`` of the flattened event must be
        positive semi-definite.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.gaussian([1.0, 2.0], np.diag([4.0, 0.25]))
        >>> teacher.sample(x0=np.zeros((1, 2), dtype=np.float32)).round(3)
        array([[1., 2.]], dtype=float32)
        """
        mean, cov = as_batch(mean, "mean"), as_batch(cov, "cov")
        home = {"device": name_of(device), "dtype": name_of(dtype)}
        shape = checked_event_shape(tuple(mean.shape))
        return cls._around(_core.VelocityField.gaussian(mean, cov, event_shape=shape, **home))

    @classmethod
    def empirical(cls: type[Teacher], data: Array, *, device: str = "cpu", dtype: str = "float32") -> Teacher:
        """The exact field of data points ``[N, *event]`` for the linear path, whose flow ends at the points.

        The teacher keeps all points, and the cost of an evaluation is proportional to N.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.empirical(np.array([[0.0, 3.0]], dtype=np.float32))
        >>> teacher.velocity(0.0, np.zeros((1, 2), dtype=np.float32))
        array([[0., 3.]], dtype=float32)
        """
        data = as_batch(data, "data")
        if len(data.shape) < 2:
            raise ShapeError(f"data: expected shape (N, *event), got {tuple(data.shape)}")
        home = {"device": name_of(device), "dtype": name_of(dtype)}
        teacher = cls._around(_core.VelocityField.empirical(data, **home))
        teacher.training_data_ = TrainingData.copied(data)
        return teacher

    def modes(
        self, bandwidth: float, *, max_steps: int = 1000, progress: bool | ProgressFunction = False
    ) -> Modes:
        """The modes of the data of an :meth:`empirical` teacher, and the mode of each row.

        The method is mean shift (Comaniciu and Meer, PAMI 2002) with a Gaussian kernel, started from every
        row. One step takes x to ``denoise(t, t x)`` at t = 1 / (1 + bandwidth), the time at which noise has
        this deviation in units of the data (arXiv 2305.19947). Rows that converge to within half a bandwidth
        of each other have the same mode.

        Parameters
        ----------
        bandwidth : float
            Deviation of the kernel, above 0, in units of the data.
        max_steps : int, default 1000
            Largest number of steps. Rows that still move are left where they are, with a UserWarning.
        progress : bool or callable, default False
            Progress bar or function. With either, Ctrl-C can interrupt the computation.

        Raises
        ------
        ArgumentError
            If the bandwidth is not above 0, or the teacher is not an empirical one.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> found = FlowTeacher.empirical(np.array([[0.0], [0.2], [5.0]])).modes(0.5)
        >>> len(found), found.assignment
        (2, array([0, 0, 1]))
        """
        if self.field.kind != "empirical":
            raise ArgumentError(f"teacher: expected one of kind 'empirical', got '{self.field.kind}'")
        width = as_number(bandwidth, "bandwidth", "a finite number above 0", lambda h: 0.0 < h < math.inf)
        most = as_integer(max_steps, "max_steps", least=1)
        rows = dict(self.field.tensors())["data"]
        given = None if self.training_data_ is None else self.training_data_.data
        rows = rows if isinstance(given, torch.Tensor) else rows.numpy()
        with ProgressMeter(progress=progress) as meter:
            found = _core.mean_shift(rows, width, max_steps=most, monitor=meter.monitor)
        modes = Modes(*found[:3], bandwidth=width, steps=found[3], converged=found[4])
        if not modes.converged:
            warnings.warn(f"max_steps: rows still moved after {most} steps", UserWarning, stacklevel=2)
        return modes
