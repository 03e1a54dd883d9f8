"""Consistency flow matching: straight flows from velocity consistency (Yang et al. 2407.02398)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from .. import _core
from .._arrays import Array, as_batch, as_condition
from ..exceptions import ArgumentError, NotFittedError, ShapeError
from ..options import UNet, plain
from ..progress import ProgressFunction, ProgressMeter
from ..teachers.flow import Flow
from ..teachers.teacher import FlowTeacher
from ._baseline import Baseline

if TYPE_CHECKING:
    from typing_extensions import Self

# The options that are the objective's own.
OBJECTIVE = ("segments", "delta", "alpha", "boundary", "anchoring")


@dataclass(kw_only=True, eq=False)
class ConsistencyFlow(Baseline):
    """A velocity field whose flow is straight, trained from data without a teacher's help.

    With f(t, x) = x + (e - t) v(t, x), the end of a straight line from (t, x) to the time e at which a
    segment ends, training minimises ``|f(t, x_t) - f'(r, x_r)|^2 + alpha |v(t, x_t) - v'(r, x_r)|^2`` for two
    points of the same pair's line, r = t + delta; f' and v' are those of the averaged weights (Yang et al.
    2407.02398). From ``boundary`` on the data themselves take the place of f'. Sampling takes one Euler step
    for each segment.

    Parameters
    ----------
    steps : int, optional
        Training steps; None takes twice those of a :class:`koopflow.FlowTeacher`.
    segments : int, default 1
        Equal segments of [0, 1], each with a straight flow of its own: 1 to 64.
    delta : float, default 0.1
        How far apart in time the two points are: above 0, below ``1 / segments``. Less takes longer to learn;
        more biases samples where many pairs cross, as with ``coupling="independent"``.
    alpha : float, default 1e-5
        Weight of the velocities, at least 0; the authors' value.
    boundary : float, default 0.9
        Share of a segment, in (0, 1], from which on the target is the pair's own end; the authors' value.
    anchoring : float, default 0.2
        Share of the steps, in [0, 1), for which that is the target everywhere: the authors' first stage.
    coupling : {"ot", "independent"}, default "ot"
        How noise and data are paired.
    network, width, depth, batch_size, learning_rate, ema_decay, max_seconds, seed, device, dtype
        As in :class:`koopflow.FlowTeacher`.

    Attributes
    ----------
    event_shape_ : tuple of int
        The shape of one sample.
    history_ : dict
        ``steps``, ``seconds``, ``stopped``, ``loss``, a list of ``[step, loss]``, and ``config``.

    Notes
    -----
    A biased model: what it loses on curved pairs is in docs/results.md.

    Examples
    --------
    >>> from koopflow import FlowTeacher, datasets
    >>> from koopflow.baselines import ConsistencyFlow
    >>> teacher = FlowTeacher((2,), width=16, depth=1, steps=20).fit(datasets.moons(256), progress=False)
    >>> model = ConsistencyFlow(width=16, depth=1, steps=20).fit(teacher, progress=False)
    >>> model.sample(5).shape
    (5, 2)
    """

    steps: int | None = None
    segments: int = 1
    delta: float = 0.1
    alpha: float = 1e-5
    boundary: float = 0.9
    anchoring: float = 0.2
    coupling: str = "ot"
    network: str | UNet | Mapping[str, Any] = "mlp"
    width: int | None = None
    depth: int | None = None
    batch_size: int = 256
    learning_rate: float | None = None
    ema_decay: float | None = None
    max_seconds: float | None = None
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    # A teacher in name only: whose field is this model's.
    _flow: FlowTeacher | None = field(default=None, init=False, repr=False)

    def fit(
        self,
        teacher: Flow,
        *,
        data: Array | None = None,
        condition: Array | None = None,
        trajectory_file: str | PathLike[str] | None = None,
        refresh: bool = False,
        progress: bool | ProgressFunction = True,
    ) -> Self:
        """Train on the data of a teacher.

        Parameters
        ----------
        teacher : FlowTeacher
            Whose samples are to be matched. Only its data, event shape and kind of condition matter.
        data : array, ``[N, *event]``, optional
            None takes those that the teacher was trained on in this process.
        condition : array, optional
            Given with ``data``: labels ``[N]`` or vectors ``[N, dim]``, for a conditional teacher.
        trajectory_file, refresh
            For the sake of the other baselines: nothing is solved here.
        progress : bool or callable, default True
            See :mod:`koopflow.progress`.

        Returns
        -------
        ConsistencyFlow
            Itself. Ctrl-C ends training early: the model so far is kept, and a warning says so.

        Raises
        ------
        ArgumentError
            When an option is out of its range, or nobody knows the teacher's data.
        ShapeError
            When data or condition do not fit the teacher or each other.
        DivergenceError
            When the loss stops being finite.
        """
        if data is None:
            if teacher._training is None:
                raise ArgumentError(
                    "data: expected the teacher's training data, which this process does not know, got None"
                )
            data, condition = teacher._training
        data, shape = as_batch(data), tuple(teacher.event_shape)
        if tuple(data.shape[1:]) != shape:
            raise ShapeError(
                f"data: expected shape (N, {', '.join(map(str, shape))}), got {tuple(data.shape)}"
            )
        kind = json.loads(teacher.field.conditioning)
        labels, vector = ({}, {}) if kind == "none" else (kind.get("labels", {}), kind.get("vector", {}))
        options = {name: value for name, value in self._options().items() if name not in OBJECTIVE}
        classes, dim = labels.get("classes"), vector.get("dim")
        flow = FlowTeacher(shape, num_classes=classes, condition_dim=dim, **options)
        config = flow._config(steps=None, batch_size=None)
        config["objective"] = {"consistency": {name: getattr(self, name) for name in OBJECTIVE}}
        with ProgressMeter(progress=progress) as meter:
            flow._field, history = _core.train_teacher(
                data,
                json.dumps(config),
                condition=as_condition(condition),
                monitor=meter.monitor,
            )
        self._adopt(flow, json.loads(history))
        if self.history_["stopped"] == "interrupted":
            warnings.warn(
                f"interrupted after {self.history_['steps']} steps; the model so far is kept",
                RuntimeWarning,
                stacklevel=2,
            )
        return self

    def sample(
        self,
        n: int | None = None,
        *,
        x0: Array | None = None,
        steps: int | None = None,
        seed: int = 0,
        condition: Array | None = None,
    ) -> Array:
        """Data from noise, by Euler steps.

        Parameters
        ----------
        n : int, optional
            How many fresh samples; or give ``x0``.
        x0 : array, ``[B, *event]``, optional
            Noise to start from.
        steps : int, optional
            Equal ones, each an evaluation; None takes one for each segment.
        seed : int, default 0
            Fixes the fresh noise.
        condition : array, optional
            Labels ``[B]`` or vectors ``[B, dim]``.

        Returns
        -------
        array, ``[B, *event]``
            Of the kind of ``x0``; NumPy for fresh samples.
        """
        noise = self._noise(x0, n, seed)
        return self._euler(noise, self.segments if steps is None else steps, as_condition(condition))

    def _ends(self, x0: Array, condition: Array | None) -> Array:
        return self._euler(x0, self.segments, condition)

    def _euler(self, x0: Array, steps: int, condition: Array | None) -> Array:
        return self._fitted().sample(x0=x0, solver="euler", steps=steps, condition=condition)

    @property
    def evaluations(self) -> int:
        """The number of batched evaluations of the network so far (NFE), those of training left out."""
        return self._fitted().evaluations

    @property
    def parameter_count(self) -> int:
        """The number of trainable values."""
        return sum(tensor.numel() for tensor in self._fitted().state_dict().values())

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to one safetensors file, atomically."""
        self._fitted().field.save(fspath(path), json.dumps({**self._facts(), "history": self.history_}))

    @classmethod
    def _read(cls, path: str | PathLike[str], options: dict[str, Any], device: str) -> Self:
        weights, text = _core.VelocityField.load(fspath(path), device=device)
        model = cls._with_options(path, {**options, "device": weights.device})
        model._adopt(FlowTeacher._around(weights), json.loads(text)["history"])
        return model

    def _options(self) -> dict[str, Any]:
        """What the constructor was given, as plain data."""
        options = super()._options()
        return options if isinstance(self.network, str) else {**options, "network": plain(self.network)}

    def _adopt(self, flow: FlowTeacher, history: dict[str, Any]) -> None:
        self._flow, self.event_shape_ = flow, flow.event_shape
        # It asks no teacher for anything.
        nothing = {"trajectory_seconds": 0.0, "trajectories": 0, "teacher_evaluations": 0}
        self.history_ = {**nothing, **history}

    def _fitted(self) -> FlowTeacher:
        if self._flow is None:
            raise NotFittedError("this ConsistencyFlow is not fitted yet: call fit(teacher) first")
        return self._flow
