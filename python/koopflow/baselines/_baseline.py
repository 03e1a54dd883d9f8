"""The face that all baselines have."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _core
from .._arrays import Array, as_condition
from ..exceptions import ArgumentError, CheckpointError, NotFittedError
from ..progress import ProgressFunction
from ..teachers.flow import Flow, noise_or

if TYPE_CHECKING:
    from typing_extensions import Self

# By the name that files know them by.
_kinds: dict[str, type[Baseline]] = {}


class Baseline(ABC):
    """A way to sample a teacher's flow.

    Attributes
    ----------
    has_path : bool
        Whether there is a ``sample_path``.
    has_inverse : bool
        Whether there is an ``invert``.
    event_shape_ : tuple of int
        The shape of one sample.
    history_ : dict
        ``steps``, ``seconds`` (of the whole fit), ``trajectory_seconds``, ``trajectories``,
        ``teacher_evaluations``, ``stopped`` (``"completed"``, ``"interrupted"`` or ``"budget"``) and
        ``loss``, a list of ``[step, loss]``.
    """

    has_path: ClassVar[bool] = False
    has_inverse: ClassVar[bool] = False
    event_shape_: tuple[int, ...]
    history_: dict[str, Any]

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        _kinds[cls.__name__] = cls

    @abstractmethod
    def fit(
        self,
        teacher: Flow,
        *,
        condition: Array | None = None,
        trajectory_file: str | PathLike[str] | None = None,
        refresh: bool = False,
        progress: bool | ProgressFunction = True,
    ) -> Self:
        """Distil a teacher, or keep it.

        Parameters
        ----------
        teacher : FlowTeacher
            Fitted or attached.
        condition : array, optional
            For a conditional teacher: labels ``[P]`` or vectors ``[P, dim]`` that trajectories draw from.
            None: every class equally often, or the vectors that the teacher was trained with.
        trajectory_file : path, optional
            Where solved trajectories are kept and found again, as of :meth:`koopflow.KoopmanDistiller.fit`.
        refresh : bool, default False
            Solve the trajectories of that file anew.
        progress : bool or callable, default True
            A bar where somebody is looking, nothing, or a function: see :mod:`koopflow.progress`.

        Returns
        -------
        Baseline
            Itself. Ctrl-C ends training early: what was learnt so far is kept, a warning says so, and
            ``history_["stopped"]`` is ``"interrupted"``.

        Raises
        ------
        TypeError
            When the teacher is not a FlowTeacher.
        TeacherError
            When the teacher's velocity fails, or is not finite.
        DivergenceError
            When the loss stops being finite.
        CheckpointError
            When ``trajectory_file`` is damaged, or was made by another teacher or for other options.
        ArgumentError
            When an option is out of its range.
        """

    def sample(
        self,
        n: int | None = None,
        *,
        x0: Array | None = None,
        seed: int = 0,
        condition: Array | None = None,
    ) -> Array:
        """Data from noise.

        Parameters
        ----------
        n : int, optional
            How many fresh samples; or give ``x0``.
        x0 : array, ``[B, *event]``, optional
            Noise to start from.
        seed : int, default 0
            Fixes the fresh noise.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, dim]`` for a conditional teacher.

        Returns
        -------
        array, ``[B, *event]``
            Of the kind of ``x0``; NumPy for fresh samples.
        """
        return self._ends(self._noise(x0, n, seed), as_condition(condition))

    @abstractmethod
    def _ends(self, x0: Array, condition: Array | None) -> Array:
        """Data of noise ``[B, *event]``."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """The number of batched evaluations of what samples are made with so far (NFE)."""

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """The number of trainable values behind the samples."""

    @abstractmethod
    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one safetensors file, atomically."""

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        CheckpointError
            When the file is not a whole koopflow file of such a baseline.
        """
        kind, options = _described(path)
        if not issubclass(kind, cls):
            raise CheckpointError(
                f"{fspath(path)}: holds a baseline {kind.__name__}, expected {cls.__name__}"
            )
        return kind._read(path, options, device)

    @classmethod
    @abstractmethod
    def _read(cls, path: str | PathLike[str], options: dict[str, Any], device: str) -> Self:
        """A fitted one from its file, which was found to be of this class."""

    @classmethod
    def _with_options(cls, path: str | PathLike[str], options: dict[str, Any]) -> Self:
        """One that is not fitted yet, with the options of a file."""
        try:
            return cls(**options)
        except TypeError as error:
            raise CheckpointError(
                f"{fspath(path)}: the header holds options that {cls.__name__} has not"
            ) from error

    def _options(self) -> dict[str, Any]:
        """What the constructor was given."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.init} if is_dataclass(self) else {}

    def _facts(self) -> dict[str, Any]:
        """What a file says about this object, besides what it holds."""
        return {"baseline": {"kind": type(self).__name__, "options": self._options()}}

    def _noise(self, x0: Array | None, n: int | None, seed: int) -> Array:
        if not hasattr(self, "event_shape_"):
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit(teacher) first")
        return noise_or(x0, n, self.event_shape_, seed)


class PathBaseline(Baseline):
    """A baseline that also says where a sample is on its way."""

    has_path = True

    def sample_path(
        self,
        x0: Array | int | None = None,
        *,
        n: int | None = None,
        times: Sequence[float],
        seed: int = 0,
        condition: Array | None = None,
    ) -> Array:
        """States along the path from noise.

        Parameters
        ----------
        x0 : array, ``[B, *event]``, or int, optional
            Noise to start from; an integer counts fresh samples, as ``n`` does.
        n : int, optional
            How many fresh samples.
        times : sequence of float
            In [0, 1] and any order; 0 is noise and 1 is data.
        seed : int, default 0
            Fixes the fresh noise.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, dim]`` for a conditional teacher.

        Returns
        -------
        array, ``[len(times), B, *event]``
            Of the kind of ``x0``; NumPy for fresh samples.
        """
        if isinstance(x0, int | np.integer):
            n, x0 = int(x0), None
        noise = self._noise(x0, n, seed)
        moments = [float(t) for t in times]
        if not moments or not all(0.0 <= t <= 1.0 for t in moments):
            raise ArgumentError(f"times: expected one or more times in [0, 1], got {moments}")
        return self._path(noise, moments, as_condition(condition))

    @abstractmethod
    def _path(self, x0: Array, times: list[float], condition: Array | None) -> Array:
        """States ``[len(times), B, *event]`` of noise ``[B, *event]``."""


def load(path: str | PathLike[str], *, device: str = "cpu") -> Baseline:
    """Read the baseline that a file holds, of whatever kind.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    CheckpointError
        When the file is not a whole koopflow file of a baseline.

    Examples
    --------
    >>> import numpy as np, tempfile, pathlib
    >>> from koopflow import FlowTeacher, baselines
    >>> solver = baselines.OdeSolver(steps=2).fit(FlowTeacher.gaussian([1.0], np.eye(1)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     solver.save(pathlib.Path(folder) / "solver.safetensors")
    ...     baselines.load(pathlib.Path(folder) / "solver.safetensors")
    OdeSolver(solver='euler', steps=2)
    """
    return Baseline.load(path, device=device)


def _described(path: str | PathLike[str]) -> tuple[type[Baseline], dict[str, Any]]:
    """The class that a file says it holds, and the options that it was made with."""
    thing, text = _core.describe_file(fspath(path))
    described = json.loads(text).get("baseline")
    if not isinstance(described, dict):
        raise CheckpointError(f"{fspath(path)}: holds a {thing}, expected a baseline")
    kind, options = _kinds.get(str(described.get("kind"))), described.get("options")
    if kind is None or not isinstance(options, dict):
        raise CheckpointError(f"{fspath(path)}: holds a baseline that this koopflow does not know")
    return kind, options
