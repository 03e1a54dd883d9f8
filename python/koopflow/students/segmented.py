"""Few-step students: a sequence of students, each for a part of the teacher's time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from sklearn.base import clone

from .. import _core
from .._arrays import (
    Array,
    as_condition,
    as_number,
    as_numbers,
    as_path,
    as_seed,
    as_states,
    checked_count,
    starts_or,
    to_numpy,
)
from .._clock import UNIT, Clock
from .._conditioning import Conditioning
from .._parameters import Parameters
from ..exceptions import ArgumentError, CheckpointError, NotFittedError
from ..metrics import Estimate, endpoint_error, inversion_error, path_error, round_trip_error
from ..options import name_of, to_json
from ..progress import ProgressEvent, ProgressFunction, ProgressMeter
from ..teachers.flow import Flow, checked_teacher
from ..teachers.teacher import FlowTeacher
from .distiller import KoopmanDistiller
from .inverse import inverted


@dataclass(eq=False, repr=False)
class SegmentedDistiller(Parameters):
    """K students in sequence, each for one segment of the teacher's time.

    A sample takes K evaluations, and the paths of each segment are less curved than those of the whole flow.
    Each student has its own observables and generator. The first starts from the teacher's source. The others
    learn from trajectories that start at states of the teacher's flow and, for a share of them, at outputs of
    the preceding students, which are the states that they are given when sampling. Each segment has its own
    spectrum: ``students_[j].spectrum()``.

    Parameters
    ----------
    segments : int or sequence of float, default 2
        Number of equal segments of the teacher's clock, or the times that separate them, with both ends.
    student : KoopmanDistiller, optional
        Options of each student, by default those of ``KoopmanDistiller()``. This object itself is not fitted.
    predecessors : float, default 0.5
        Share of trajectories, in [0, 1), that start at outputs of the preceding students.

    Attributes
    ----------
    students_ : list of KoopmanDistiller
        Fitted student of each segment, on the teacher's clock.
    event_shape_ : tuple of int
        Shape of one sample.
    history_ : dict
        Totals over the fits of all segments.
    has_path, has_inverse : bool
        Always True: see :meth:`sample_path` and :meth:`invert`.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher, KoopmanDistiller, SegmentedDistiller
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], np.diag([2.0, 0.5]))
    >>> small = KoopmanDistiller(observables=8, width=16, steps=50, trajectories=256)
    >>> student = SegmentedDistiller(2, student=small).fit(teacher, progress=False)
    >>> student.sample(5).shape, student.sample_path(5, times=[0.0, 0.4, 1.0]).shape
    ((5, 2), (3, 5, 2))
    """

    _kind: ClassVar[str] = "segments"
    has_path: ClassVar[bool] = True
    has_inverse: ClassVar[bool] = True

    segments: int | Sequence[float] = 2
    _: KW_ONLY
    student: KoopmanDistiller | None = None
    predecessors: float = 0.5

    _segments: ClassVar[_core.Segments | None] = None
    students_: ClassVar[list[KoopmanDistiller]]

    def fit(
        self,
        teacher: FlowTeacher,
        *,
        condition: Array | None = None,
        progress: bool | ProgressFunction = True,
        callback: ProgressFunction | None = None,
    ) -> SegmentedDistiller:
        """Distil a teacher, one segment after another.

        Parameters
        ----------
        teacher : FlowTeacher
            Teacher, fitted or attached.
        condition : array, optional
            As in :meth:`koopflow.KoopmanDistiller.fit`.
        progress, callback
            As in :meth:`koopflow.KoopmanDistiller.fit`. The values of each event include ``segment``, which
            is 1 for the first.

        Returns
        -------
        SegmentedDistiller
            The fitted object itself. Ctrl-C raises KeyboardInterrupt and leaves this object unchanged, since
            a path cannot do without its last segments.
        """
        if not isinstance(checked_teacher(teacher), FlowTeacher):
            raise TypeError(f"teacher: expected a FlowTeacher, got {type(teacher).__name__}")
        breaks = self._breaks(teacher.clock)
        share = as_number(self.predecessors, "predecessors", "a number in [0, 1)", lambda n: 0.0 <= n < 1.0)
        pattern = KoopmanDistiller() if self.student is None else self.student
        if not isinstance(pattern, KoopmanDistiller):
            raise ArgumentError(f"student: expected a KoopmanDistiller, got {type(pattern).__name__}")
        made: list[KoopmanDistiller] = []
        for place, (start, end) in enumerate(pairwise(breaks)):
            part = teacher.window(start, end)
            if place and share:
                part = part.starting_from(_states_at(teacher, made, breaks[: place + 1], share))
            fitted = clone(pattern).fit(
                part,
                condition=condition,
                progress=_told(progress, place),
                callback=None if callback is None else _told(callback, place),
            )
            if fitted.history_["stopped"] == "interrupted":
                raise KeyboardInterrupt(f"segment {place + 1} was interrupted: nothing is fitted")
            made.append(fitted)
        own = [teacher.clock.own(t) for t in breaks]
        own[0], own[-1] = 0.0, 1.0
        self._adopt(_core.Segments([one._fitted() for one in made], own), made)
        return self

    def _breaks(self, clock: Clock) -> list[float]:
        if isinstance(self.segments, int | np.integer):
            count = checked_count(self.segments, "segments")
            return [clock.read(place / count) for place in range(count)] + [clock.end]
        times = as_numbers(self.segments, "segments", "2 or [0.0, 0.3, 1.0]")
        rising = all(a < b for a, b in pairwise(times))
        if not rising or len(times) < 2 or (times[0], times[-1]) != (clock.start, clock.end):
            expected = f"a number, or rising times from {clock.start:g} to {clock.end:g}"
            raise ArgumentError(f"segments: expected {expected}, got {self.segments!r}")
        return times

    def sample(
        self,
        n: int | None = None,
        *,
        x0: Array | None = None,
        seed: int | None = 0,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Array:
        """Data ``[B, *event]`` by one evaluation per segment, of the kind of ``x0``: see
        :meth:`koopflow.KoopmanDistiller.sample`."""
        model, condition = self._fitted(), self._checked(condition)
        with ProgressMeter(progress=progress) as meter:
            if x0 is None and n is not None:
                given = {"condition": condition, "monitor": meter.monitor}
                return model.sample_count(checked_count(n), seed=as_seed(seed), **given)
            start = starts_or(x0, n, model, seed, condition)
            return model.sample(start, condition=condition, monitor=meter.monitor)

    def sample_path(
        self,
        x0: Array | int | None = None,
        *,
        n: int | None = None,
        times: Array | Sequence[float],
        seed: int | None = 0,
        condition: Array | None = None,
    ) -> Array:
        """States ``[len(times), B, *event]`` from one encoding at the beginning of each segment: see
        :meth:`koopflow.KoopmanDistiller.sample_path`."""
        if isinstance(x0, int | np.integer):
            x0, n = None, checked_count(x0)
        model, condition = self._fitted(), self._checked(condition)
        own = self.clock.times(times, extrapolate=True)
        return model.sample_path(starts_or(x0, n, model, seed, condition), own, condition=condition)

    def invert(
        self,
        x: Array,
        *,
        polish: int = 0,
        method: str = "newton",
        damping: float = 1e-3,
        residuals: bool = False,
        condition: Array | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Any:
        """Inverse of data, ``[B, *event]``, by the students' inverses in turn, of the kind of ``x``.

        Parameters
        ----------
        x : array, ``[B, *event]``
            Data.
        polish, method, damping
            Refinement steps of each student's inverse, the last student first: see
            :meth:`koopflow.KoopmanDistiller.invert`.
        residuals : bool, default False
            Whether to return a tuple of the inverse and the distances ``||sample(x0) - x||``, ``[B]``, of the
            whole sequence.
        condition, progress
            As in :meth:`sample`. With ``progress``, Ctrl-C can interrupt the computation.

        Raises
        ------
        ArgumentError
            If ``polish``, ``method`` or ``damping`` is out of range.
        DivergenceError
            If an inverse is not finite.
        """
        return inverted(
            self._fitted(),
            x,
            polish=polish,
            method=method,
            damping=damping,
            residuals=residuals,
            condition=self._checked(condition),
            progress=progress,
        )

    def evaluate(
        self,
        teacher: Flow,
        data: Array | None = None,
        *,
        n: int = 2000,
        seed: int = 987_654_321,
        condition: Array | None = None,
        **interval: Any,
    ) -> dict[str, Estimate]:
        """Errors relative to a teacher on fresh samples of its source.

        They are ``endpoint_error``, ``path_error``, ``inversion_error`` and ``round_trip_error`` of
        :mod:`koopflow.metrics`. The unit is the total deviation of ``data``, or else of the teacher's
        samples; that of the inversion error is the size of the noise.
        """
        teacher, count = checked_teacher(teacher), checked_count(n)
        known = None if teacher.training_data_ is None else teacher.training_data_.condition
        pool = Conditioning.of(teacher.field).pool(as_condition(condition), known)
        if pool is not None:
            condition = pool[np.arange(count) % len(pool)]
        noise = teacher.field.source.draw(count, as_seed(seed), condition=condition)
        scale = None if data is None else _core.total_std(as_states(data, "data"))
        given = {"condition": condition, **interval}
        ends = to_numpy(teacher.sample(x0=noise, condition=condition))
        return {
            "endpoint_error": endpoint_error(self, teacher, noise, scale=scale, **given),
            "path_error": path_error(self, teacher, noise, scale=scale, **given),
            "inversion_error": inversion_error(self, teacher, noise, **given),
            "round_trip_error": round_trip_error(self, ends, scale=scale, **given),
        }

    def score(self, teacher: Flow, y: Any = None) -> float:
        """Minus the endpoint error of :meth:`evaluate`. ``y`` is ignored."""
        return -self.evaluate(teacher)["endpoint_error"].value

    @property
    def clock(self) -> Clock:
        """The teacher's clock: the times of source and data."""
        made = getattr(self, "students_", None)
        return Clock(made[0].clock.start, made[-1].clock.end) if made else UNIT

    @property
    def history_(self) -> dict[str, Any]:
        """Totals over all segments: ``steps``, ``seconds``, ``trajectory_seconds``, ``teacher_evaluations``
        and ``stopped``, which is ``"completed"`` if every fit was completed."""
        self._fitted()
        each = [one.history_ for one in self.students_]
        totals = {
            name: sum(one[name] for one in each)
            for name in ("steps", "seconds", "trajectory_seconds", "teacher_evaluations")
        }
        ended = [one["stopped"] for one in each if one["stopped"] != "completed"]
        return {**totals, "stopped": ended[0] if ended else "completed"}

    @property
    def event_shape_(self) -> tuple[int, ...]:
        return tuple(self._fitted().event_shape)

    @property
    def evaluations(self) -> int:
        """Number of batched evaluations of the students so far (NFE)."""
        return self._fitted().evaluations

    def save(self, path: str | PathLike[str]) -> None:
        """Write all students to one safetensors file, atomically."""
        each = [
            {
                "history": json.loads(one._fitted().history),
                "config": json.loads(one._fitted().config),
                "about": json.loads(one._about()),
            }
            for one in self.students_
        ]
        facts = {"students": each, "predecessors": float(self.predecessors)}
        self._fitted().save(as_path(path), to_json(facts))

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> SegmentedDistiller:
        """Read a file that :meth:`save` wrote. Raises ``FileNotFoundError`` if there is no such file, and
        ``CheckpointError`` if it is not a complete file of this class."""
        model, text = _core.Segments.load(as_path(path), device=name_of(device))
        facts = json.loads(text)
        try:
            made = [
                KoopmanDistiller._made(
                    path,
                    model.student(place, to_json(one["history"]), to_json(one["config"])),
                    one["about"],
                )
                for place, one in enumerate(facts["students"])
            ]
            predecessors = float(facts["predecessors"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{as_path(path)}: its header is damaged ({error})") from error
        times = [one.clock.start for one in made] + [made[-1].clock.end]
        other = cls(times, student=clone(made[0]), predecessors=predecessors)
        other._adopt(model, made)
        return other

    def _adopt(self, model: _core.Segments, students: list[KoopmanDistiller]) -> None:
        self._segments, self.students_ = model, students  # type: ignore[misc]

    def _fitted(self) -> _core.Segments:
        if self._segments is None:
            raise NotFittedError("this SegmentedDistiller is not fitted yet: call fit(teacher) first")
        return self._segments

    def __sklearn_is_fitted__(self) -> bool:
        return self._segments is not None

    def _checked(self, condition: Array | None) -> Array | None:
        self._fitted()
        return self.students_[0]._checked(condition)


def _states_at(teacher: Flow, made: list[KoopmanDistiller], times: list[float], share: float) -> _core.Source:
    """A source of states at the last of ``times``: a given share are outputs of the students, and the others
    are states of the teacher's flow."""
    own = [teacher.clock.own(t) for t in times]
    before = _core.Segments([one._fitted() for one in made], [t / own[-1] for t in own[:-1]] + [1.0])
    field = teacher.field

    def draw(count: int, seed: int, condition: Any) -> np.ndarray[Any, Any]:
        start = field.source.draw(count, seed, condition=condition)
        # The two kinds alternate, so that held-out rows contain both.
        by_students = np.floor(np.arange(1, count + 1) * share) > np.floor(np.arange(count) * share)
        states = np.empty_like(start)
        for chosen, led in ((by_students, _led(before)), (~by_students, _flown(field, own[-1]))):
            if chosen.any():
                states[chosen] = led(start[chosen], None if condition is None else condition[chosen])
        return states

    return _core.Source.sampler(draw, None, event_shape=list(field.event_shape), conditional=True)


def _led(model: _core.Segments) -> Callable[[Any, Any], Any]:
    return lambda x, condition: to_numpy(model.sample(x, condition=condition))


def _flown(field: _core.VelocityField, time: float) -> Callable[[Any, Any], Any]:
    return lambda x, condition: to_numpy(
        field.solve(x, [0.0, time], condition=condition, rtol=1e-4, atol=1e-4)[-1]
    )


def _told(listener: bool | ProgressFunction, place: int) -> Any:  # noqa: FBT001 (as fit takes it)
    """A listener whose events have the number of the segment; a boolean as it is."""
    if not callable(listener):
        return listener

    def heard(event: ProgressEvent) -> object:
        if "values" in event:
            event = {**event, "values": {**event["values"], "segment": place + 1.0}}
        return listener(event)

    return heard
