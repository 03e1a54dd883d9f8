"""Baselines that learn nothing: they follow the teacher's own flow."""

from __future__ import annotations

import json
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from .._arrays import Array
from ..exceptions import NotFittedError
from ..progress import ProgressFunction
from ..teachers.flow import Flow, checked_teacher
from ..teachers.teacher import FlowTeacher
from ._baseline import PathBaseline

if TYPE_CHECKING:
    from typing_extensions import Self


class TeachersOwn(PathBaseline):
    """A baseline that keeps its teacher; its file is the teacher's, with a word more."""

    _teacher: Flow | None = None

    def fit(
        self,
        teacher: Flow,
        *,
        condition: Array | None = None,
        trajectory_file: str | PathLike[str] | None = None,
        refresh: bool = False,
        progress: bool | ProgressFunction = True,
    ) -> Self:
        """Keep a teacher; nothing is trained, and all else is for the sake of the other baselines.

        Raises
        ------
        TypeError
            When the teacher is not a FlowTeacher.
        ArgumentError
            When an option is out of its range.
        """
        self._check()
        self.event_shape_ = tuple(checked_teacher(teacher).field.event_shape)
        self._teacher = teacher
        self.history_ = {
            "steps": 0,
            "seconds": 0.0,
            "trajectory_seconds": 0.0,
            "trajectories": 0,
            "teacher_evaluations": 0,
            "stopped": "completed",
            "loss": [],
        }
        return self

    def _check(self) -> None:
        """Raises ``ArgumentError`` for options out of their ranges."""

    @property
    def evaluations(self) -> int:
        """The number of batched evaluations of the teacher so far (NFE), whoever asked for them."""
        return self._kept().evaluations

    @property
    def parameter_count(self) -> int:
        """The number of values in the teacher's network; 0 where koopflow does not own it, or it has none."""
        tensors = self._kept().field.tensors()
        return sum(tensor.numel() for name, tensor in tensors if name.startswith("network."))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the teacher and the options to one safetensors file, atomically.

        Raises
        ------
        TeacherError
            For a teacher that was attached: its code and weights are not koopflow's to write.
        """
        teacher = self._kept()
        header = teacher._header() if isinstance(teacher, FlowTeacher) else {}
        teacher.field.save(fspath(path), json.dumps({**header, **self._facts()}))

    @classmethod
    def _read(cls, path: str | PathLike[str], options: dict[str, Any], device: str) -> Self:
        return cls._with_options(path, options).fit(FlowTeacher.load(path, device=device))

    def _kept(self) -> Flow:
        if self._teacher is None:
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit(teacher) first")
        return self._teacher
