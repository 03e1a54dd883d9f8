"""A teacher's flow from another source, or a part of it in time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .._arrays import as_number
from .._clock import Clock
from ..exceptions import ArgumentError
from ..twins.teacher import TeacherModule, WindowField
from .attaching import Attachable, attaching
from .source import KEPT, started

# Entries of a history that also hold for parts of a flow.
TOLD = ("classes", "latent")


class Parts(Attachable):
    """Teachers made from a teacher's own flow."""

    @attaching
    def starting_from(self, source: Any, *, noise: float = 0.0) -> Any:
        """The same velocity field with another source.

        ``source`` and ``noise`` are ``source`` and ``source_noise`` of :class:`koopflow.FlowTeacher`.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.gaussian([1.0, 0.0], np.eye(2)).starting_from(np.zeros((1, 2)))
        >>> teacher.sample(2).round(3)
        array([[1., 0.],
               [1., 0.]], dtype=float32)
        """
        field = started(self.field, source, noise, argument="noise")
        label = KEPT if isinstance(source, str) and source != "normal" else source
        other = self._told(self._around(field, self._attached, self.clock, label))
        # The field is the same, and so is its training.
        other._history = self._history
        return other

    @attaching
    def window(self, start: float, end: float) -> Any:
        """The flow between two times of :attr:`clock`, as a teacher on the same clock.

        Its source is the distribution of the whole flow at ``start``, and its data are the distribution at
        ``end``. A student of it learns only that part (see :class:`koopflow.SegmentedDistiller`). Raises
        ``ArgumentError`` unless ``start`` and ``end`` rise within the clock.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> late = FlowTeacher.gaussian([2.0, 0.0], np.eye(2)).window(0.5, 1.0)
        >>> late.trajectory([[0.0, 0.0]], times=[0.5, 1.0]).shape
        (2, 1, 2)
        """
        own = self.clock.times([as_number(start, "start"), as_number(end, "end")], "window")
        if own[0] >= own[1]:
            raise ArgumentError(f"window: expected rising times, got {start!r} and {end!r}")
        first, last = max(own[0], 0.0), min(own[1], 1.0)
        twin = None if self._attached is None else partial(_window_twin, self._attached, first, last)
        clock = Clock(self.clock.read(first), self.clock.read(last))
        return self._told(self._around(self.field.window(first, last), twin, clock, KEPT))

    def _told(self, other: Any) -> Any:
        """``other``, with the classes that this teacher's training saw, and its latent coordinates."""
        other._history = {name: self._history[name] for name in TOLD if name in self._history}
        other.latent_ = getattr(self, "latent_", None)
        return other


def _window_twin(model: Callable[[], TeacherModule], start: float, end: float) -> TeacherModule:
    return WindowField(model(), start, end)
