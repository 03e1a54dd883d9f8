"""Baselines that are trained on stored trajectories: a plain network, a KDM and a flow map."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._arrays import Array, as_path, as_seed
from .._conditioning import Conditioning
from ..distributed import World
from ..options import SHARED_TRAINING, Options, Training, Trajectories, to_json
from ..progress import ProgressMeter
from ..teachers.flow import Flow
from ._baseline import Baseline, PathBaseline

# The options of Trajectories that these trainers have.
TRAJECTORIES = ("count", "path_steps", "solver", "solver_steps")


@dataclass(kw_only=True, eq=False, repr=False)
class TrainedBaseline(Baseline):
    """A baseline trained on as many trajectories as a :class:`koopflow.KoopmanDistiller`, with networks
    of the same width and depth.

    Parameters
    ----------
    width, depth, batch_size, seed, device, dtype
        As in :class:`koopflow.KoopmanDistiller`, with a batch size of 256 by default.
    steps : int, optional
        Number of training steps. By default it is chosen from the dimension of the data, or limited only by
        ``max_seconds`` if that is given.
    learning_rate : float, optional
        Peak learning rate of a cosine schedule. By default it is chosen from the dimension of the data.
    training : Training, optional
        Options that teachers have too: ``optimizer``, ``weight_decay``, ``warmup_steps`` (100 by default),
        ``clip_norm`` (1), ``ema_decay`` (0.999; the averaged weights are kept) and ``max_restarts`` (3).
    trajectories : int or Trajectories, optional
        Number of stored trajectories, or the options ``count``, ``path_steps``, ``solver`` and
        ``solver_steps``. By default those of a Koopman student.
    max_seconds : float, optional
        Time limit of the whole fit, including trajectories, as in :class:`koopflow.KoopmanDistiller`. The
        learning rate then depends on the elapsed time.
    """

    _nested: ClassVar[Mapping[str, type[Options]]] = {"training": Training, "trajectories": Trajectories}
    # The core's name of the method.
    _method: ClassVar[str]

    width: int | None = None
    depth: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    training: Training | Mapping[str, Any] | None = None
    trajectories: Trajectories | Mapping[str, Any] | int | None = None
    max_seconds: float | None = None
    seed: int | None = 0
    device: str = "cpu"
    dtype: str = "float32"

    def _fit(
        self, teacher: Flow, *, data: Any, condition: Any, progress: Any, ranks: World, **file: Any
    ) -> None:
        known = teacher.training_data_
        if condition is None and known is not None and Conditioning.of(teacher.field).dim is not None:
            condition = known.condition
        with ProgressMeter(progress=progress) as meter:
            config = ranks.options(self._config(), seeded=self.seed is not None)
            student = _core.Baseline.fit(
                teacher.field,
                to_json({"method": self._method, **config}),
                condition=condition,
                monitor=meter.monitor,
                world=ranks.core,
                **file,
            )
        self._keep(student)

    def _keep(self, student: _core.Baseline) -> None:
        seed, history = json.loads(student.config)["seed"], json.loads(student.history)
        self._adopt(student, student.event_shape, {"seed": seed, **history})

    def _config(self) -> dict[str, Any]:
        """The options that are set, by the core's flat names."""
        name = f"a {type(self).__name__}"
        flat = {key: value for key, value in self.get_params(deep=False).items() if value is not None}
        training = Training.of("training", flat.pop("training", None)).given(only=SHARED_TRAINING, of=name)
        solved = Trajectories.of("trajectories", flat.pop("trajectories", None))
        trajectories = solved.given(only=TRAJECTORIES, of=name)
        if "count" in trajectories:
            trajectories["trajectories"] = trajectories.pop("count")
        return {**flat, "seed": as_seed(self.seed), **training, **trajectories}

    @property
    def config_(self) -> dict[str, Any]:
        """The core's configuration with every None resolved, except for steps if only time limits them."""
        return dict(json.loads(self._fitted().config))

    @property
    def parameter_count(self) -> int:
        return int(self._fitted().parameter_count)

    def save(self, path: str | PathLike[str]) -> None:
        self._fitted().save(as_path(path), to_json(self._facts()))

    def _restore(self, path: str, device: str) -> None:
        student, _ = _core.Baseline.load(path, device=device)
        self.device = student.device
        self._keep(student)

    def _ends(self, x0: Array, steps: int | None, condition: Array | None) -> Array:
        return self._model.sample(x0, steps=1 if steps is None else steps, condition=condition)


@dataclass(kw_only=True, eq=False, repr=False)
class PlainNetwork(TrainedBaseline):
    """A network from noise to the teacher's endpoint, x1 = skip(x0) + network(x0), without path or inverse.

    It has the inputs and the linear skip connection of a Koopman student. The loss is the mean squared
    endpoint error divided by the data's variance. Parameters are those of :class:`TrainedBaseline`.

    Examples
    --------
    >>> from koopflow import FlowTeacher, baselines
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], [[1, 0], [0, 1]])
    >>> plain = baselines.PlainNetwork(width=16, depth=1, steps=50, trajectories=256)
    >>> plain.fit(teacher, progress=False).sample(4).shape
    (4, 2)
    """

    _method: ClassVar[str] = "plain_network"


@dataclass(kw_only=True, eq=False, repr=False)
class KDM(TrainedBaseline):
    """The Koopman distillation model (arXiv 2505.13358): x1 = D(E0(x0) K).

    Noise and data have separate encoders, and one linear operator maps the latents of noise to those of data.
    It is a single map rather than a generator in time, so there is no path. The paper's adversarial term,
    which is for images, is left out. Further parameters are those of :class:`TrainedBaseline`.

    Parameters
    ----------
    observables : int, optional
        Size of the latents, by default the number of a Koopman student's observables.
    weights : dict, optional
        Weights of the terms of the loss, by default 1 each: ``target`` (D(E0(x0) K) against x1), ``latent``
        (E0(x0) K against E1(x1)) and ``reconstruction`` (D(E1(x1)) against x1). Each term is divided by the
        variance of its target.

    Examples
    --------
    >>> from koopflow import FlowTeacher, baselines
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], [[1, 0], [0, 1]])
    >>> kdm = baselines.KDM(observables=8, width=16, depth=1, steps=50, trajectories=256)
    >>> kdm.fit(teacher, progress=False).operator().shape
    (8, 8)
    """

    _method: ClassVar[str] = "kdm"

    observables: int | None = None
    weights: Mapping[str, float] | None = None

    def operator(self) -> NDArray[np.float64]:
        """The operator K, ``[m, m]`` in float64, with (latents of data) = (latents of noise) K as rows."""
        return np.asarray(self._fitted().operator())

    def eigenvalues(self) -> NDArray[np.complex128]:
        """The eigenvalues of K, ``[m]`` in complex128, by decreasing modulus."""
        values = np.linalg.eigvals(self.operator()).astype(np.complex128)
        return values[np.argsort(-np.abs(values), kind="stable")]


@dataclass(kw_only=True, eq=False, repr=False)
class MeanVelocity(PathBaseline, TrainedBaseline):
    """A flow map between any two times, X_{s,t}(x) = x + (t - s) u(x, s, t) (MeanFlow, arXiv 2505.13447).

    The term (t - s) u(x_s, s, t) is the integral of the velocity along the path from s to t. Its derivative
    in s along the flow gives the identity

        u = v(s, x_s) + (t - s) du/ds,    du/ds = J u · (v, 1, 0) in (x, s, t).

    Training regresses u on the right-hand side, without a gradient through it. (In the paper time runs from
    data to noise: its t is s here, its r is t, and there u = v - (t - r) du/dt.) The points x_s lie on the
    teacher's stored trajectories, v is its velocity there, and du/ds is exact, by forward-mode derivatives
    through the network. Errors are weighted as in the paper, with p = 1/2. The endpoints of trajectories are
    not used as targets. The path X_{0,t}(x0) takes one evaluation per time. Further parameters are those of
    :class:`TrainedBaseline`.

    Parameters
    ----------
    instant_share : float, default 0.25
        Share of a batch, in [0, 1], with s = t, where u is the velocity itself. Half of the other rows have
        t = 1, and half a random t between s and 1.

    Examples
    --------
    >>> from koopflow import FlowTeacher, baselines
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], [[1, 0], [0, 1]])
    >>> student = baselines.MeanVelocity(width=16, depth=1, steps=50, trajectories=256)
    >>> student.fit(teacher, progress=False).sample_path(4, times=[0.0, 0.5, 1.0]).shape
    (3, 4, 2)
    """

    _method: ClassVar[str] = "mean_velocity"

    instant_share: float = 0.25

    def _path(self, x0: Array, times: list[float], condition: Array | None) -> Array:
        return self._model.sample_path(x0, times, condition=condition)
