"""Baselines whose networks the core trains on stored trajectories."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, ClassVar

from .. import _core
from .._arrays import Array, as_condition
from ..exceptions import NotFittedError
from ..progress import ProgressFunction, ProgressMeter
from ..teachers.flow import Flow, checked_teacher
from ._baseline import Baseline

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(kw_only=True, eq=False)
class TrainedBaseline(Baseline):
    """The options that all of them have; :mod:`koopflow.baselines` says what they mean."""

    # Of the core's.
    _method: ClassVar[str]

    width: int | None = None
    depth: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    ema_decay: float | None = None
    clip_norm: float | None = None
    trajectories: int | None = None
    path_steps: int | None = None
    max_seconds: float | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    _student: _core.Baseline | None = field(default=None, init=False, repr=False)

    def fit(
        self,
        teacher: Flow,
        *,
        condition: Array | None = None,
        trajectory_file: str | PathLike[str] | None = None,
        refresh: bool = False,
        progress: bool | ProgressFunction = True,
    ) -> Self:
        flow = checked_teacher(teacher)
        config = {name: value for name, value in self._options().items() if value is not None}
        if condition is None and "vector" in json.loads(flow.field.conditioning) and flow._training:
            condition = flow._training[1]
        with ProgressMeter(progress=progress) as meter:
            student = _core.Baseline.fit(
                flow.field,
                json.dumps({"method": self._method, **config}),
                condition=as_condition(condition),
                trajectory_file=None if trajectory_file is None else fspath(trajectory_file),
                refresh=refresh,
                monitor=meter.monitor,
            )
        self._adopt(student)
        if self.history_["stopped"] == "interrupted":
            warnings.warn(
                f"interrupted after {self.history_['steps']} steps; the student so far is kept",
                RuntimeWarning,
                stacklevel=2,
            )
        return self

    @property
    def config_(self) -> dict[str, Any]:
        """The configuration with every None resolved, but for steps where the clock decides."""
        config: dict[str, Any] = json.loads(self._fitted().config)
        return config

    @property
    def evaluations(self) -> int:
        """The number of batched evaluations of the student so far (NFE)."""
        return self._fitted().evaluations

    @property
    def parameter_count(self) -> int:
        """The number of trainable values, those that only training needs included."""
        return self._fitted().parameter_count

    def save(self, path: str | PathLike[str]) -> None:
        """Write the student to one safetensors file, atomically."""
        self._fitted().save(fspath(path), json.dumps(self._facts()))

    @classmethod
    def _read(cls, path: str | PathLike[str], options: dict[str, Any], device: str) -> Self:
        student, _ = _core.Baseline.load(fspath(path), device=device)
        baseline = cls._with_options(path, {**options, "device": student.device})
        baseline._adopt(student)
        return baseline

    def _ends(self, x0: Array, condition: Array | None) -> Array:
        return self._fitted().sample(x0, condition=condition)

    def _adopt(self, student: _core.Baseline) -> None:
        self._student = student
        self.event_shape_ = tuple(student.event_shape)
        self.history_ = json.loads(student.history)

    def _fitted(self) -> _core.Baseline:
        if self._student is None:
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit(teacher) first")
        return self._student
