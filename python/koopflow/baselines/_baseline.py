"""The base classes of all baselines."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _core
from .._arrays import Array, as_condition, as_integer, as_path, as_seed, as_states, checked_count
from .._checkpointing import check_place
from .._clock import UNIT, Clock
from .._ending import tell_ending
from .._parameters import Parameters
from ..distributed import World, world
from ..exceptions import ArgumentError, CheckpointError, NotFittedError
from ..options import to_json
from ..progress import ProgressFunction
from ..teachers.flow import Flow, checked_teacher

if TYPE_CHECKING:
    from typing_extensions import Self

# Classes by their names in files.
_kinds: dict[str, type[Baseline]] = {}


class Baseline(Parameters, ABC):
    """A method that samples a teacher's flow, with the parameters of a scikit-learn estimator.

    Attributes
    ----------
    has_path, has_inverse : bool
        Whether there is a ``sample_path``, and an ``invert``.
    event_shape_ : tuple of int
        Shape of one sample.
    history_ : dict
        Record of the fit: ``seed``, ``steps``, ``seconds`` (of the whole fit), ``trajectory_seconds``,
        ``trajectories``, ``teacher_evaluations``, ``stopped`` (``"completed"``, ``"interrupted"``,
        ``"budget"`` or ``"diverged"``) and ``loss``, a list of ``[step, loss]``. Trained baselines also have
        ``skipped_steps``, ``restarts`` and ``notes``.
    """

    has_path: ClassVar[bool] = False
    has_inverse: ClassVar[bool] = False
    event_shape_: tuple[int, ...]
    history_: dict[str, Any]
    # The fitted sampler: a Flow, unless a subclass has another.
    _model: Any = None
    # Kind of the teacher's source, and times of source and data.
    _source: str = "normal"
    _clock: Clock = UNIT

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        _kinds[cls.__name__] = cls

    def fit(
        self,
        teacher: Flow,
        *,
        data: Array | None = None,
        condition: Array | None = None,
        trajectory_file: str | PathLike[str] | None = None,
        refresh: bool = False,
        progress: bool | ProgressFunction = True,
        distributed: bool | None = None,
    ) -> Self:
        """Distil a teacher, or keep it. Interruptions and errors are those of
        :meth:`koopflow.KoopmanDistiller.fit`.

        Parameters
        ----------
        teacher : FlowTeacher
            Fitted or attached teacher.
        data : array, ``[N, *event]``, optional
            Data for :class:`ConsistencyFlow`. By default those that the teacher was trained on in this
            process. The other baselines learn from the teacher alone.
        condition : array, optional
            Label or vector of each row of ``data``. Without ``data``, as in
            :meth:`koopflow.KoopmanDistiller.fit`.
        trajectory_file, refresh, progress, distributed
            As in :meth:`koopflow.KoopmanDistiller.fit`.
        """
        teacher = checked_teacher(teacher)
        place = check_place("trajectory_file", trajectory_file, "trajectories", reads=not refresh)
        file = {"trajectory_file": place, "refresh": refresh}
        self._source, self._clock = teacher.field.source.kind, teacher.clock
        ranks = world(distributed=distributed)
        ranks.agree(data=data, condition=as_condition(condition))
        ranks.agree_on_teacher(teacher.field)
        _, progress, _ = ranks.leading({}, progress)
        given = {"data": data, "condition": as_condition(condition), "progress": progress}
        self._fit(teacher, **given, ranks=ranks, **file)
        tell_ending(self.history_, "the student so far")
        return self

    @abstractmethod
    def _fit(
        self, teacher: Flow, *, data: Any, condition: Any, progress: Any, ranks: World, **file: Any
    ) -> None:
        """Train with the arguments of ``fit``, and adopt the sampler."""

    def _adopt(self, model: Any, event_shape: tuple[int, ...], history: dict[str, Any]) -> None:
        # Without solved trajectories, the teacher is never evaluated.
        nothing = {"trajectory_seconds": 0.0, "trajectories": 0, "teacher_evaluations": 0}
        self._model, self.event_shape_, self.history_ = model, event_shape, {**nothing, **history}

    def sample(
        self,
        n: int | None = None,
        *,
        x0: Array | None = None,
        steps: int | None = None,
        seed: int | None = 0,
        condition: Array | None = None,
    ) -> Array:
        """Data from noise, ``[B, *event]``, of the kind of ``x0`` (NumPy for fresh samples).

        Parameters
        ----------
        n, x0, seed, condition
            As in :meth:`koopflow.KoopmanDistiller.sample`.
        steps : int, optional
            Number of equal steps in time, each with one evaluation. The default is 1 for
            :class:`MeanVelocity`, and the number of segments for :class:`ConsistencyFlow`. Other methods
            raise ``ArgumentError``.
        """
        steps = None if steps is None else as_integer(steps, "steps", least=1)
        return self._ends(self._noise(x0, n, seed), steps, as_condition(condition))

    def _fresh(self, n: int, seed: int | None, condition: Array | None) -> Array:
        """Fresh draws of the source."""
        return self._noise(None, n, seed)

    @property
    def clock(self) -> Clock:
        """The teacher's clock: the times of source and data."""
        return self._clock

    @abstractmethod
    def _ends(self, x0: Array, steps: int | None, condition: Array | None) -> Array:
        """Data from noise ``[B, *event]``."""

    @property
    def evaluations(self) -> int:
        """Number of batched evaluations of the sampler's network so far (NFE): its own, or the teacher's."""
        return int(self._fitted().evaluations)

    @property
    def parameter_count(self) -> int:
        """Number of trainable values, including those that only training needs. 0 for the weights of an
        attached teacher."""
        tensors = self._fitted().field.tensors()
        return sum(tensor.numel() for name, tensor in tensors if name.startswith("network."))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the baseline to one safetensors file, atomically. Raises ``TeacherError`` if it contains an
        attached teacher, whose code and weights koopflow does not write."""
        self._fitted().field.save(as_path(path), to_json(self._facts()))

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> Self:
        """Read a file that :meth:`save` wrote. Raises ``FileNotFoundError`` if there is no such file, and
        ``CheckpointError`` if it is not a complete koopflow file of such a baseline."""
        path = as_path(path)
        thing, text = _core.describe_file(path)
        found, expected = json.loads(text).get("baseline"), cls.__name__
        if not isinstance(found, dict):
            raise CheckpointError(f"{path}: holds a {thing}, expected a baseline")
        kind, written = _kinds.get(str(found.get("kind"))), found.get("options")
        if kind is None or not isinstance(written, dict) or not issubclass(kind, cls):
            raise CheckpointError(f"{path}: holds a baseline {found.get('kind')}, expected {expected}")
        baseline = kind._read(path, written)
        baseline._restore(path, device)
        baseline._source = str(found.get("source", "normal"))
        baseline._clock = Clock.of(found.get("horizon", (0.0, 1.0)))
        return baseline

    @abstractmethod
    def _restore(self, path: str, device: str) -> None:
        """Adopt the sampler of a file of this class."""

    def _facts(self) -> dict[str, Any]:
        """The facts of a file besides the model."""
        known: dict[str, Any] = {"kind": type(self).__name__, "options": self._written()}
        if self._source != "normal":
            known["source"] = self._source
        if not self._clock.is_unit:
            known["horizon"] = self._clock.plain()
        return {"baseline": known}

    def _noise(self, x0: Array | None, n: int | None, seed: int | None) -> Array:
        self._fitted()
        if (x0 is None) == (n is None):
            raise ArgumentError(f"expected one of n and x0, got {'neither' if n is None else 'both'}")
        if x0 is not None:
            return as_states(x0, "x0")
        return self._starts(checked_count(n), as_seed(seed))

    def _starts(self, n: int, seed: int) -> Array:
        """Fresh samples of the teacher's source."""
        if isinstance(self._model, Flow):
            return self._model.field.source.draw(n, seed)
        if self._source != "normal":
            raise ArgumentError(f"x0: expected samples of the teacher's source, {self._source!r}, got None")
        return _core.normal((n, *self.event_shape_), seed)

    def _fitted(self) -> Any:
        if self._model is None:
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit(teacher) first")
        return self._model

    def __sklearn_is_fitted__(self) -> bool:
        return self._model is not None


class PathBaseline(Baseline):
    """A baseline that also gives the path of a sample."""

    has_path = True

    def sample_path(
        self,
        x0: Array | int | None = None,
        *,
        n: int | None = None,
        times: Sequence[float],
        seed: int | None = 0,
        condition: Array | None = None,
    ) -> Array:
        """States along the path from noise, ``[len(times), B, *event]``.

        The parameters are those of :meth:`koopflow.KoopmanDistiller.sample_path`, but ``times`` must be
        within :attr:`clock`.
        """
        if isinstance(x0, int | np.integer):
            n, x0 = int(x0), None
        own = self.clock.times(times)
        return self._path(self._noise(x0, n, seed), own, as_condition(condition))

    @abstractmethod
    def _path(self, x0: Array, times: list[float], condition: Array | None) -> Array:
        """States ``[len(times), B, *event]`` from noise ``[B, *event]``."""


# Reads a baseline of any kind.
load = Baseline.load
