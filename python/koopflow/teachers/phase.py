"""Phase space: flows of positions and velocities (Chen et al. 2310.07805)."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np

from .._arrays import Array, as_batch, to_numpy
from ..exceptions import ArgumentError, ShapeError
from ..progress import ProgressFunction
from .joining import Joinable

Teacher = TypeVar("Teacher", bound="PhaseSpace")


class PhaseSpace(Joinable):
    """A teacher whose states may be positions and velocities."""

    @classmethod
    def phase(
        cls: type[Teacher],
        data: Array,
        *,
        condition: Array | None = None,
        progress: bool | ProgressFunction = True,
        **options: Any,
    ) -> Teacher:
        """Train a flow in phase space, whose paths have a bounded acceleration (Chen et al. 2310.07805).

        A state is a position and its velocity, ``[2, *event]``, both standard normal at time 0; at time 1 the
        position is data. Each pair is joined by the curve of least acceleration between them, p_t = p + t w +
        (3 t^2 - t^3) j / 2 from position p and velocity w to data q, with j = q - p - w. Given q the states
        are Gaussian in closed form. A network regresses the acceleration 3 (1 - t) j; the position's rate is
        the velocity itself. ``coupling="ot"`` is that of least acceleration in a minibatch.

        Positions of samples are ``teacher.sample(n)[:, 0]``, and of a student's ``student.sample(n)[:, 0]``.

        Parameters
        ----------
        data : array, ``[N, *event]``
            Finite positions.
        condition : array, optional
            Labels ``[N]`` or vectors ``[N, condition_dim]``.
        progress : bool or callable, default True
            As in :meth:`koopflow.FlowTeacher.fit`.
        **options
            As in :class:`koopflow.FlowTeacher`, for a perceptron on the linear path from noise.

        Returns
        -------
        FlowTeacher
            A fitted one of event shape ``(2, *event)``. It has no ``training_data_``: its states are not on
            lines between noise and data.

        Raises
        ------
        ArgumentError, ShapeError
            For data without an event, another path or source, and as ``fit`` does.

        Examples
        --------
        >>> from koopflow import FlowTeacher, datasets
        >>> options = {"width": 16, "depth": 1, "steps": 20}
        >>> teacher = FlowTeacher.phase(datasets.moons(256), **options, progress=False)
        >>> teacher.sample(5)[:, 0].shape
        (5, 2)
        """
        for name, only in (("path", "linear"), ("source", "normal"), ("network", "mlp")):
            if name in options and (not isinstance(options[name], str) or options[name] != only):
                raise ArgumentError(f"{name}: expected {only!r} in phase space, got {options[name]!r}")
        rows = to_numpy(as_batch(data, "data"))
        if rows.ndim < 2:
            raise ShapeError(f"data: expected shape (N, *event), got {rows.shape}")
        teacher = cast(Any, cls)((2, *rows.shape[1:]), **options)
        teacher._objective = "acceleration"
        # Between noise (p, w) and (q, q) the squared distance is that of q and p + w, up to what no pairing
        # changes.
        teacher.fit(np.stack([rows, rows], axis=1), condition=condition, progress=progress)
        teacher.training_data_ = None
        return cast(Teacher, teacher)
