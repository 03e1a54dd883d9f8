"""Consistency flow matching: straight flows from velocity consistency (Yang et al. 2407.02398)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .. import _core
from .._arrays import Array
from .._batches import with_condition
from .._conditioning import Conditioning
from ..distributed import World
from ..exceptions import ArgumentError, ShapeError
from ..options import Options, Training, UNet, to_json
from ..progress import ProgressMeter
from ..teachers.flow import Flow
from ..teachers.teacher import FlowTeacher
from ._baseline import Baseline

# The parameters of the objective. The others are those of a FlowTeacher.
OBJECTIVE = ("segments", "delta", "alpha", "boundary", "anchoring")


@dataclass(kw_only=True, eq=False, repr=False)
class ConsistencyFlow(Baseline):
    """A velocity field with a straight flow, trained on data by velocity consistency.

    Let f(t, x) = x + (e - t) v(t, x) be the end of the straight line from (t, x) to the time e at which a
    segment ends. Training minimises ``|f(t, x_t) - f'(r, x_r)|^2 + alpha |v(t, x_t) - v'(r, x_r)|^2`` for two
    points on the line of a pair, with r = t + delta, where f' and v' use the averaged weights (Yang et al.
    2407.02398). In the last part of a segment, after ``boundary``, the target is the end of the pair's line
    instead of f'. Sampling takes one Euler step per segment. Only the teacher's data, source, event shape and
    conditioning are used. The model is biased where paths are curved; docs/results.md has measurements.

    Parameters
    ----------
    segments : int, default 1
        Number of equal segments of [0, 1], each with its own straight flow, from 1 to 64.
    delta : float, default 0.1
        Time between the two points, above 0 and below ``1 / segments``. A smaller value needs more training.
        A larger one biases samples where many pairs cross, as with ``coupling="independent"``.
    alpha : float, default 1e-5
        Weight of the velocities, at least 0.
    boundary : float, default 0.9
        Share of a segment, in (0, 1], after which the target is the end of the pair's line.
    anchoring : float, default 0.2
        Share of the steps, in [0, 1), in which that is the target at all times (the first stage of the
        authors).
    steps : int, optional
        Number of training steps, by default twice that of a :class:`koopflow.FlowTeacher`.
    coupling, network, width, depth, batch_size, learning_rate, training, max_seconds, seed, device, dtype
        As in :class:`koopflow.FlowTeacher`.

    Examples
    --------
    >>> from koopflow import FlowTeacher, datasets
    >>> from koopflow.baselines import ConsistencyFlow
    >>> teacher = FlowTeacher((2,), width=16, depth=1, steps=20).fit(datasets.moons(256), progress=False)
    >>> model = ConsistencyFlow(width=16, depth=1, steps=20).fit(teacher, progress=False)
    >>> model.sample(5).shape
    (5, 2)
    """

    _nested: ClassVar[Mapping[str, type[Options]]] = {"network": UNet, "training": Training}

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
    training: Training | Mapping[str, Any] | None = None
    max_seconds: float | None = None
    seed: int | None = 0
    device: str = "cpu"
    dtype: str = "float32"

    def _fit(
        self, teacher: Flow, *, data: Any, condition: Any, progress: Any, ranks: World, **file: Any
    ) -> None:
        if data is None:
            known = teacher.training_data_
            if known is None:
                unknown = "the teacher's training data, since it was not trained in this process"
                raise ArgumentError(f"data: expected {unknown}, got None")
            data, condition = known.data, known.condition
        shape, kind = teacher.event_shape_, Conditioning.of(teacher.field)
        data, condition = with_condition(data, condition, shape, conditional=bool(kind))
        if tuple(data.shape[1:]) != shape:
            expected = ", ".join(map(str, shape))
            raise ShapeError(f"data: expected shape (N, {expected}), got {tuple(data.shape)}")
        params = {name: value for name, value in self.get_params(deep=False).items() if name not in OBJECTIVE}
        flow = FlowTeacher(shape, num_classes=kind.classes, condition_dim=kind.dim, **params)
        consistency = {name: getattr(self, name) for name in OBJECTIVE}
        own = ranks.options(flow._config(), seeded=self.seed is not None)
        config = {**own, "objective": {"consistency": consistency}}
        ranks.agree(data=data, condition=condition)
        with ProgressMeter(progress=progress) as meter:
            train, start = _core.train_teacher, teacher.field.source
            flow._field, history = train(
                data,
                to_json(config),
                condition=condition,
                monitor=meter.monitor,
                source=start,
                world=ranks.core,
            )
        self._adopt(flow, shape, {"seed": config["seed"], **json.loads(history)})

    def _ends(self, x0: Array, steps: int | None, condition: Array | None) -> Array:
        steps = self.segments if steps is None else steps
        return self._model.sample(x0=x0, solver="euler", steps=steps, condition=condition)

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), "history": self.history_}

    def _restore(self, path: str, device: str) -> None:
        weights, text = _core.VelocityField.load(path, device=device)
        self.device = weights.device
        self._adopt(FlowTeacher._around(weights), tuple(weights.event_shape), json.loads(text)["history"])
