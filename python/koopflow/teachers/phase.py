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
    """A teacher that can be trained in phase space."""

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

        A state is a position and its velocity, ``[2, *event]``. Both are standard normal at time 0, and the
        position at time 1 is data. The path of a pair is the curve of least acceleration from position p and
        velocity w to data q: p_t = p + t w + (3 t^2 - t^3) j / 2, with j = q - p - w. Given q, the states are
        Gaussian in closed form. A network regresses the acceleration 3 (1 - t) j. The derivative of the
        position is the velocity itself. ``coupling="ot"`` minimises the acceleration within a minibatch.

        The positions of samples are ``teacher.sample(n)[:, 0]``, or ``student.sample(n)[:, 0]`` for a
        student.

        Parameters
        ----------
        data : array, ``[N, *event]``
            Finite positions.
        condition : array, optional
            Labels ``[N]`` or vectors ``[N, condition_dim]``.
        progress : bool or callable, default True
            As in :meth:`koopflow.FlowTeacher.fit`.
        **options
            Options of :class:`koopflow.FlowTeacher`. The path must be linear, the source normal and the
            network a perceptron.

        Returns
        -------
        FlowTeacher
            Fitted teacher with event shape ``(2, *event)``. It has no ``training_data_``, because its states
            are not on lines between noise and data.

        Raises
        ------
        ArgumentError, ShapeError
            If the data have no event shape or the path, source or network is another, and the errors of
            ``fit``.

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
        # The squared distance between noise (p, w) and (q, q) depends on the pairing only by that between q
        # and p + w.
        teacher.fit(np.stack([rows, rows], axis=1), condition=condition, progress=progress)
        teacher.training_data_ = None
        return cast(Teacher, teacher)
