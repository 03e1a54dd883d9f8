"""Teachers made of other teachers: chains and reversed flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar, cast

from .. import _core
from .._arrays import Array, as_numbers
from .._clock import UNIT, Clock
from ..exceptions import ArgumentError
from ..twins.teacher import ChainField, ReversedField, TeacherModule
from .attaching import Attachable, attaching
from .flow import Flow, checked_teacher
from .source import KEPT

Teacher = TypeVar("Teacher", bound="Joinable")


class Joinable(Attachable):
    """A teacher that can be chained and reversed."""

    @classmethod
    @attaching
    def chain(
        cls: type[Teacher], teachers: Sequence[Flow], *, breaks: Array | Sequence[float] | None = None
    ) -> Teacher:
        """A chain of teachers, in which each flow starts where the previous one ends.

        The chain starts from the source of the first teacher. Its velocity is discontinuous where one teacher
        follows another, so its paths have kinks there, and solvers restart at these times. The change of the
        log-density along the chain is the sum of the changes along its parts.

        Parameters
        ----------
        teachers : sequence of FlowTeacher
            Fitted or attached teachers with the same event shape, conditioning, device and dtype. Only the
            source of the first one is used.
        breaks : sequence of float, optional
            Rising times, ``len(teachers) + 1`` of them, at which the teachers begin and the last one ends.
            The first and the last are the ``horizon`` of the chain. The default is the teachers' own times if
            each begins when the previous one ends, and otherwise equal parts of [0, 1].

        Returns
        -------
        FlowTeacher
            Fitted teacher that can be sampled, distilled and saved. It has no ``training_data_``, because its
            states are not on lines between its source and data. The stored paths of a student include the
            kinks if ``Trajectories(path_steps=...)`` allows it; otherwise a note in its history says so.

        Raises
        ------
        ArgumentError, ShapeError, DtypeError
            If there is no teacher, one does not match the first, or the breaks do not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> wide = FlowTeacher.gaussian([0.0, 0.0], 4.0 * np.eye(2))
        >>> moved = FlowTeacher.gaussian([3.0, 0.0], np.eye(2))
        >>> FlowTeacher.chain([wide, moved]).sample(x0=np.ones((1, 2), dtype=np.float32)).round(2)
        array([[5., 2.]], dtype=float32)
        """
        if isinstance(teachers, (Flow, str)) or not isinstance(teachers, Sequence):
            raise ArgumentError(f"teachers: expected a sequence of teachers, got {type(teachers).__name__}")
        parts = [checked_teacher(teacher, f"teachers[{k}]") for k, teacher in enumerate(teachers)]
        times = _breaks([part.clock for part in parts], breaks)
        clock = UNIT if times is None else Clock.of((times[0], times[-1]), "breaks")
        own = None if times is None else [0.0, *(clock.own(t) for t in times[1:-1]), 1.0]
        field = _core.VelocityField.chain([part.field for part in parts], breaks=own)
        return cls._joined(field, parts, clock, partial(_chain_twin, [part._twin for part in parts], own))

    @attaching
    def reversed(self: Teacher) -> Teacher:
        """The reversed flow: v(t, x) = -u(1 - t, x) for this teacher's velocity u, on the same clock.

        Its source is the distribution of this teacher's samples, each of which takes the solution of an ODE.
        Its flow ends at this teacher's source.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.gaussian([1.0, 2.0], np.diag([4.0, 0.25]))
        >>> teacher.reversed().sample(x0=np.array([[1.0, 2.0]], dtype=np.float32)).round(3) + 0.0
        array([[0., 0.]], dtype=float32)
        """
        field = self.field.reversed()
        return self._joined(field, [self], self.clock, partial(_reversed_twin, self._twin))

    @classmethod
    def _joined(
        cls: type[Teacher],
        field: _core.VelocityField,
        parts: Sequence[Flow],
        clock: Clock,
        twin: Callable[[], TeacherModule],
    ) -> Teacher:
        """The teacher of a field that is composed of those of ``parts``."""
        # The PyTorch module of a stored field is a copy. That of an attached model contains the model.
        attached = any(part._attached is not None for part in parts)
        teacher = cls._around(field, twin if attached else None, clock)
        if field.source.kind != "normal":
            cast(Any, teacher).source = KEPT
        known = [set(part.history_["classes"]) for part in parts if "classes" in part.history_]
        if known:
            teacher._history = {"classes": sorted(set.intersection(*known))}
        spaces = [getattr(part, "latent_", None) for part in parts]
        if any(part.history_.get("latent") for part in parts):
            teacher._history = {**teacher._history, "latent": True}
        if all(space is spaces[0] for space in spaces):
            cast(Any, teacher).latent_ = spaces[0]
        return teacher


def _breaks(clocks: Sequence[Clock], given: Any) -> list[float] | None:
    """The times at which the teachers begin and the last one ends, or None for equal parts of [0, 1]."""
    if given is not None:
        times = as_numbers(given, "breaks", "[0.0, 0.5, 1.0]")
        if len(times) != len(clocks) + 1 or not all(end > start for start, end in pairwise(times)):
            expected = f"{len(clocks) + 1} rising times around {len(clocks)} teacher(s)"
            raise ArgumentError(f"breaks: expected {expected}, got {times}")
        return times
    follows = all(abs(a.end - b.start) <= 1e-9 * a.length for a, b in pairwise(clocks))
    return [clock.start for clock in clocks] + [clocks[-1].end] if clocks and follows else None


def _chain_twin(
    blocks: Sequence[Callable[[], TeacherModule]], breaks: Sequence[float] | None
) -> TeacherModule:
    count = len(blocks)
    return ChainField([block() for block in blocks], breaks or [k / count for k in range(count)] + [1.0])


def _reversed_twin(model: Callable[[], TeacherModule]) -> TeacherModule:
    return ReversedField(model())
