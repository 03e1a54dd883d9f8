"""Teachers: velocity fields whose flow carries noise (time 0) to data (time 1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone

from .. import _core
from .._arrays import (
    Array,
    as_batch,
    as_condition,
    as_number,
    as_path,
    as_seed,
    checked_event_shape,
    to_numpy,
)
from .._batches import MOST_BYTES, Rows, Stream
from .._checkpointing import checkpointing
from .._clock import UNIT, Clock
from .._conditioning import Conditioning
from .._ending import tell_ending
from .._parameters import Parameters
from ..distributed import world
from ..exceptions import ArgumentError, KoopflowError, ShapeError
from ..hub import HubFolder
from ..options import SHARED_TRAINING, Options, Training, UNet, name_of, to_json, unet_of
from ..progress import ProgressFunction, ProgressMeter
from ..twins.teacher import GuidedField, TeacherModule
from .attaching import attaching
from .closed_form import ClosedForm
from .flow import Flow, TrainingData, checked_teacher
from .local import Local
from .parts import Parts
from .phase import PhaseSpace
from .populations import Populations
from .source import KEPT, OF_THE_FIELD, as_source
from .time_sampler import as_time_sampler
from .torch_models import probe
from .weighting import weighted_rows

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(eq=False, repr=False)
class FlowTeacher(HubFolder, ClosedForm, Parts, Local, PhaseSpace, Populations, Parameters):
    """A flow-matching model: trained here on data, attached from PyTorch, or known in closed form.

    The probability path is x_t = a(t) x1 + s(t) x0, with data x1 and with x0 standard normal (Lipman et al.
    2210.02747) or from another source. A network regresses v(t, x_t) on a' x1 + s' x0. Sampling solves
    dx/dt = v(t, x) from time 0 to 1.

    Parameters
    ----------
    event_shape : sequence of int
        Shape of one sample: ``(2,)``, ``(64,)``, ``(1, 28, 28)``.
    coupling : {"ot", "independent"}, default "ot"
        Pairing of noise and data in a minibatch. ``"ot"`` is the exact assignment of least squared distance
        (Tong et al. 2302.00482), which straightens the paths.
    source : "normal", array ``[N, *event]``, FlowTeacher or callable, default "normal"
        Distribution that the flow starts from: standard normal noise, rows of an array, the samples of
        another teacher, or samples ``source(n, seed)`` of a function. The function may have an attribute
        ``log_prob``, which takes ``[B, *event]`` and returns log-densities ``[B]``. Files of the teacher and
        of its students hold rows and teachers, but not functions. ``"kept"`` stands for the source of a
        teacher that was loaded (docs/sources.md).
    source_noise : float, default 0
        Standard deviation of normal noise that is added to rows as ``source``, fresh for each sample. With
        noise the source has a density; rows alone have none.
    horizon : (float, float), default (0.0, 1.0)
        Times of source and data. :meth:`trajectory`, :meth:`velocity` and the paths of students use them.
    path : {"linear", "vp"}, default "linear"
        Probability path: a = t, s = 1 - t, or the variance-preserving a = sin(pi t / 2), s = cos(pi t / 2).
    time_sampler : {"uniform", "logit_normal", "power"} or mapping, default "uniform"
        Distribution of the times of training pairs. ``{"logit_normal": {"mean": 0.0, "deviation": 1.0}}`` is
        the logistic function of a normal variable (Esser et al. 2403.03206).
        ``{"power": {"exponent": 1.0}}`` has density (p + 1) t^p, with exponent p above -1. A name alone takes
        the numbers shown here.
    network : {"mlp", "unet"}, UNet or mapping, default "mlp"
        Network of the velocity: a perceptron, or a U-Net for images ``(C, H, W)`` with the options of a
        :class:`koopflow.UNet`.
    preconditioning : {"scaled", "edm"}, default "scaled"
        What the network learns: the velocity in units of its deviation at each time, or (``"edm"``) what the
        best linear prediction leaves of it, in units of the deviation of that rest. The expected data are
        then c_skip x + c_out F(c_in x, t) with the coefficients of Karras et al. (2206.00364, table 1), and
        the loss has their weighting 1 / c_out^2, so its value cannot be compared with that of ``"scaled"``.
        Not for snapshots and phase space.
    width, depth : int, optional
        Units of each hidden layer, and number of hidden layers, of a perceptron. If these, ``steps`` or
        ``learning_rate`` are None, they are chosen from the dimension of the data.
    steps : int, optional
        Number of training steps.
    batch_size : int, default 256
        Number of samples per step.
    learning_rate : float, optional
        Peak learning rate.
    flip : bool, default False
        Whether to mirror each image ``(C, H, W)`` of a minibatch left to right with probability one half,
        before it is paired with noise. A student of this teacher is then trained on mirrored data too.
    augment : float, default 0
        Probability in [0, 1] of each of six changes of a training image: mirrored left to right, mirrored top
        to bottom, scaled, rotated, stretched and translated (Karras et al. 2206.00364, appendix F.2, who use
        0.12 for 32x32 pixels). The network is told the changes, and sampling tells it that there are none, so
        that samples are like the data. Only for a U-Net, and not for snapshots or given pairs.
    standardise : bool, default True
        Whether data far from mean 0 and deviation 1 are learnt in standard coordinates, so that results do
        not depend on their units. Inputs and outputs of the teacher remain in the data's own units.
    num_classes : int, optional
        Number of classes, for a teacher that is conditioned on labels ``[B]`` in ``0 .. num_classes - 1``.
    condition_dim : int, optional
        Length of the vectors, for a teacher that is conditioned on vectors ``[B, condition_dim]``.
    label_dropout : float, default 0
        Probability that training hides a label, in [0, 1). :meth:`guided` needs the velocity without a label,
        which a teacher learns from hidden ones (0.1 to 0.2 is usual; Ho and Salimans 2207.12598).
    training : Training or mapping, optional
        Options ``optimizer``, ``weight_decay``, ``warmup_steps``, ``clip_norm``, ``ema_decay`` and
        ``max_restarts`` of :class:`koopflow.Training`.
    max_seconds : float, optional
        Time limit of training. A step that has begun is finished, and the teacher so far is kept.
    seed : int or None, default 0
        Random seed of initialisation and training. None draws a seed, which is stored in
        ``history_["seed"]``.
    device : str or torch.device, default "cpu"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``.
    dtype : {"float32", "float64"}, default "float32"
        Precision of parameters and samples.

    Examples
    --------
    >>> from koopflow import FlowTeacher, datasets
    >>> teacher = FlowTeacher((2,), width=16, depth=1, steps=20).fit(datasets.moons(256), progress=False)
    >>> teacher.sample(5).shape
    (5, 2)
    """

    _kind: ClassVar[str] = "teacher"
    # The core's name of the objective; None for flow matching.
    _objective: ClassVar[str | None] = None
    _nested: ClassVar[Mapping[str, type[Options]]] = {"network": UNet, "training": Training}

    event_shape: Sequence[int]
    _: KW_ONLY
    coupling: str = "ot"
    source: Any = "normal"
    source_noise: float = 0.0
    horizon: Sequence[float] = (0.0, 1.0)
    path: str = "linear"
    time_sampler: str | Mapping[str, Any] = "uniform"
    network: str | UNet | Mapping[str, Any] = "mlp"
    preconditioning: str = "scaled"
    width: int | None = None
    depth: int | None = None
    steps: int | None = None
    batch_size: int = 256
    learning_rate: float | None = None
    flip: bool = False
    augment: float = 0.0
    standardise: bool = True
    num_classes: int | None = None
    condition_dim: int | None = None
    label_dropout: float = 0.0
    training: Training | Mapping[str, Any] | None = None
    max_seconds: float | None = None
    seed: int | None = 0
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        self.event_shape = checked_event_shape(self.event_shape)

    def fit(
        self,
        data: Array,
        y: Array | None = None,
        *,
        noise: Array | None = None,
        condition: Array | None = None,
        weights: Array | None = None,
        initial: Flow | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        progress: bool | ProgressFunction = True,
        callback: ProgressFunction | None = None,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_minutes: float | None = None,
        resume: str | PathLike[str] | None = None,
        distributed: bool | None = None,
    ) -> FlowTeacher:
        """Train on data.

        Parameters
        ----------
        data : array, ``[N, *event]``, or batches of them
            Finite data: an array of NumPy or torch, a numeric frame of pandas or polars, a torch ``Dataset``,
            a ``DataLoader``, or another iterable of batches ``x`` or ``(x, condition)``. Batches are
            streamed: at most about 65,536 samples or 256 MiB are in memory at once. So are larger files that
            ``numpy.load(mmap_mode="r")`` maps. Copies of the arrays, or of the first samples of a stream,
            stay in :attr:`training_data_`.
        y : array, optional
            Condition of each row, as scikit-learn passes it. It is ignored for an unconditional teacher.
        noise : array, ``[N, *event]``, optional
            Standard normal noise that each row is paired with, in place of a coupling. See
            :func:`koopflow.reflow`.
        condition : array, optional
            Labels ``[N]`` or vectors ``[N, condition_dim]``, according to the constructor.
        weights : array, ``[N]``, optional
            Weight of each row, at least 0, such as those of :class:`koopflow.TiltedSamples`. Rows are
            resampled by weight once, before training. Not available for streamed data.
        initial : FlowTeacher, optional
            Teacher whose weights training starts from. It must be a network of the same shape, trained by
            koopflow.
        steps, batch_size : int, optional
            Values for this call, in place of those of the constructor.
        progress : bool or callable, default True
            Progress bar (True), silence (False) or a function: see :mod:`koopflow.progress`.
        callback : callable, optional
            Function that is also called with every progress event.
        checkpoint : path, optional
            File to which the state of training is written atomically, during training and at its end. At any
            moment it is a complete teacher that :meth:`load` can read.
        checkpoint_every : int, optional
            Number of steps between two checkpoints.
        checkpoint_minutes : float, optional
            Minutes between two checkpoints. The default is 10, unless ``checkpoint_every`` is given.
        resume : path, optional
            File that ``checkpoint`` wrote, from which training continues. On a CPU the result is exactly that
            of an uninterrupted training. Data, condition and options must be those of the file, except for
            ``steps``, ``max_seconds`` (which includes the time spent before) and ``device``. Not available
            for streamed data.
        distributed : bool, optional
            Whether the ranks of ``torch.distributed`` share the fit. By default they do if there is a process
            group. True requires one, and False ignores it. See :mod:`koopflow.distributed`.

        Returns
        -------
        FlowTeacher
            The fitted teacher itself. Ctrl-C ends training early with a warning. The teacher so far is kept,
            and ``history_["stopped"]`` is ``"interrupted"``.

        Raises
        ------
        ShapeError, ArgumentError
            If arrays do not fit the event shape or each other, or options are out of range or differ from
            those of the file to resume.
        DivergenceError
            If the loss still diverges after ``max_restarts`` restarts. The last good teacher is kept.
        CheckpointError, FileNotFoundError
            If ``resume`` is not a checkpoint of a training, or the folder of ``checkpoint`` does not exist.
        DistributedError
            If ranks have different data or options, or if a rank fails or ends.
        Exception
            Any exception raised by ``callback`` or a function given as ``progress``, unchanged. Training
            ends, ``checkpoint`` keeps what was trained, and this object does not change.
        """
        conditioning = Conditioning(self.num_classes, self.condition_dim)
        condition = conditioning.of_rows(y, condition)
        Clock.of(self.horizon)  # Raises here rather than after training.
        start = as_source(self.source, self.event_shape, noise=self.source_noise, known=self._field)
        files = checkpointing("a teacher", checkpoint, checkpoint_every, checkpoint_minutes, resume)
        if isinstance(data, np.memmap) and data.nbytes > MOST_BYTES and noise is resume is None:
            data, condition = Rows(data, condition), None
        stream, portions = Stream.of(data, "data", self.event_shape), None
        if stream is not None:
            for name, given in (("noise", noise), ("condition", condition), ("weights", weights)):
                if given is not None:
                    raise ArgumentError(f"{name}: expected None with batches of data, got an array")
            stream.conditional = bool(conditioning)
            data, condition = stream()
            portions = stream.rest()
            if portions is not None and resume is not None:
                raise ArgumentError(f"resume: expected None for data that are streamed, got {resume!r}")
        if initial is not None and resume is not None:
            raise ArgumentError("initial: expected None for a training that is resumed, got a teacher")
        data = as_batch(data, "data")
        if tuple(data.shape[1:]) != self.event_shape or len(data.shape) == 0:
            raise ShapeError(
                f"data: expected shape (N, {', '.join(map(str, self.event_shape))}), got {tuple(data.shape)}"
            )
        condition = as_condition(condition)
        config = self._config(steps=steps, batch_size=batch_size)
        if self.seed is None and resume is not None:
            header = json.loads(_core.VelocityField.load(as_path(resume))[1])
            config["seed"] = header.get("params", {}).get("seed", 0)
        if noise is not None:
            noise, config["coupling"] = as_batch(noise, "noise"), "given"
        if weights is not None:
            data, condition, noise = weighted_rows(weights, self.seed or 0, data, condition, noise)
        written = self._written(without=OF_THE_FIELD)
        ranks = world(distributed=distributed)
        config = ranks.options(config, seeded=self.seed is not None)
        ranks.agree(data=data, condition=condition, noise=noise)
        files, progress, callback = ranks.leading(files, progress, callback)
        with ProgressMeter(progress=progress, callback=callback) as meter:
            field, history = _core.train_teacher(
                data,
                to_json(config),
                noise=noise,
                condition=condition,
                monitor=meter.monitor,
                header=to_json({"params": {**written, "seed": config["seed"]}}),
                portions=portions,
                source=start,
                initial=None if initial is None else checked_teacher(initial, "initial").field,
                world=ranks.core,
                **files,
            )
        self._take(field, {"seed": config["seed"], **json.loads(history)})
        if self.num_classes is not None:
            seen = np.unique(to_numpy(condition)).tolist() if stream is None else sorted(stream.labels)
            self._history["classes"] = [int(label) for label in seen]
        self.training_data_ = TrainingData.copied(data, condition, noise)
        tell_ending(self._history, "the teacher so far")
        return self

    def _take(self, field: _core.VelocityField, history: dict[str, Any]) -> None:
        """Take over the result of training."""
        self._field, self._attached, self._history = field, None, history
        self._clock = Clock.of(self.horizon)
        if isinstance(self.source, _core.Source):
            self.source = KEPT

    def state_dict(self) -> dict[str, Any]:
        """The weights of a network as torch tensors on the CPU, by name.

        Those of a U-Net have the names of torchcfm's ``UNetModel``, whose ``load_state_dict`` takes them. A
        teacher trained here also scales inputs and outputs by its data, which that model does not do. Only a
        teacher from :meth:`from_torchcfm` has the same velocities in both.
        """
        tensors, own = self.field.tensors(), "network."
        return {name.removeprefix(own): tensor for name, tensor in tensors if name.startswith(own)}

    @attaching
    def guided(self, scale: float, *, null_condition: Array | int | None = None) -> FlowTeacher:
        """This conditional teacher with classifier-free guidance (Ho and Salimans 2207.12598).

        The guided velocity is v(t, x, null) + scale (v(t, x, c) - v(t, x, null)). A scale of 0 is the
        unconditional flow, 1 is this teacher, and larger values push samples towards what is typical of their
        condition. Both velocities come from one evaluation with twice the batch, which counts as two. The
        result is a conditional teacher like any other.

        Parameters
        ----------
        scale : float
            Strength of the guidance, any finite number.
        null_condition : int or array, optional
            Condition that means "no condition". A label is by default ``num_classes``, as in most
            class-conditional models and in teachers trained here with ``label_dropout``. A vector has no
            default. An error is raised if it does not fit, or if an attached model fails on it.

        Examples
        --------
        >>> import torch
        >>> from koopflow import FlowTeacher
        >>> means = torch.tensor([[4.0], [-4.0], [0.0]])  # of class 0, of class 1, and without a class
        >>> teacher = FlowTeacher.from_torch(lambda t, x, y: means[y] - x, event_shape=(1,), num_classes=2)
        >>> teacher.guided(1.5).velocity(0.5, torch.zeros(2, 1), torch.tensor([0, 1]))
        tensor([[ 6.],
                [-6.]])
        """
        field = self.field
        kind = Conditioning.of(field)
        if null_condition is None and kind.dim is not None:
            raise ArgumentError(f"null_condition: expected a vector ({kind.dim},), got None")
        if kind.classes is not None:
            null_condition = kind.classes if null_condition is None else null_condition
            # From the history of training: the parameter may have been set since then.
            dropout = self._history.get("config", {}).get("label_dropout") or field.kind != "network"
            if not dropout and np.array_equal(to_numpy(null_condition), kind.classes):
                cure = (
                    "train FlowTeacher(..., label_dropout=0.1), or give the label for none as null_condition"
                )
                raise ArgumentError(
                    f"label_dropout: expected above 0 for a teacher to be guided, got 0; {cure}"
                )
        teacher: FlowTeacher = clone(self)
        teacher._field = field.guided(
            as_number(scale, "scale"), 0 if null_condition is None else null_condition
        )
        teacher._history, teacher._clock = self._history, self._clock
        if self._attached is not None:
            teacher._attached = partial(_guided_twin, self._attached, scale, null_condition)
        probe(teacher._field, f"guidance with null_condition {null_condition!r}")
        return teacher

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> FlowTeacher:
        """Read a teacher that :meth:`save` wrote. Raises ``FileNotFoundError`` if there is no such file, and
        ``CheckpointError`` if it is not a complete koopflow teacher."""
        field, text = _core.VelocityField.load(as_path(path), device=name_of(device))
        return cls._restored(field, json.loads(text), path)

    @classmethod
    def from_torch_module(cls, module: Any) -> FlowTeacher:
        """A teacher with the current weights of a module that :meth:`to_torch` made.

        Raises ``ArgumentError`` for other modules, for the module of an attached model, and for layers that
        were added or replaced. Raises ``NonFiniteError`` for weights that are not finite.

        Examples
        --------
        >>> from koopflow import FlowTeacher, datasets
        >>> teacher = FlowTeacher((2,), width=16, depth=1, steps=20).fit(datasets.moons(256), progress=False)
        >>> module = teacher.to_torch()
        >>> _ = module.network[-1].bias.data.add_(1.0)  # in place of fine-tuning
        >>> FlowTeacher.from_torch_module(module).velocity(0.5, [[0.0, 0.0]]).shape
        (1, 2)
        """
        stored = TeacherModule.of(module).stored()
        device = next(iter(stored.tensors.values())).device
        field = _core.VelocityField.from_bytes(stored.to_bytes(), str(device))
        return cls._restored(field, stored.header["facts"], "module")

    @classmethod
    def _restored(cls, field: _core.VelocityField, header: dict[str, Any], path: Any) -> FlowTeacher:
        """The teacher of a field, with the other facts of a file's header."""
        params = header.get("params")
        if params is None:
            # In files written before options were grouped, None meant no clipping.
            params = header.get("options", {})
            if params.get("clip_norm", 1.0) is None:
                params["clip_norm"] = 0.0
        known: dict[str, Any] = {
            "event_shape": tuple(field.event_shape),
            "device": field.device,
            "dtype": field.dtype,
        }
        if "horizon" in params:
            known["horizon"] = tuple(params["horizon"])
        if field.source.kind != "normal":
            known |= {"source": KEPT, "source_noise": field.source.noise}
        teacher = cls._read(path, params, **known)
        teacher._field, teacher._clock = field, Clock.of(teacher.horizon)
        teacher._history = header.get("history", {})
        return teacher

    def save(self, path: str | PathLike[str]) -> None:
        """Write the teacher to one safetensors file, atomically. Raises ``TeacherError`` for an attached
        teacher, since koopflow does not write the code and weights of an attached model."""
        self.field.save(as_path(path), to_json(self._facts()))

    def _facts(self) -> dict[str, Any]:
        written = self._written(without=OF_THE_FIELD)
        return {"params": {**written, "horizon": self.clock.plain()}, "history": self._history}

    # Former name of history_.
    history = Flow.history_

    @classmethod
    def _around(
        cls,
        field: _core.VelocityField,
        twin: Callable[[], TeacherModule] | None = None,
        clock: Clock = UNIT,
        source: Any = "normal",
    ) -> Self:
        kind = Conditioning.of(field)
        teacher = cls(
            tuple(field.event_shape),
            source=source,
            source_noise=field.source.noise,
            horizon=(clock.start, clock.end),
            num_classes=kind.classes,
            condition_dim=kind.dim,
            device=field.device,
            dtype=field.dtype,
        )
        teacher._field, teacher._attached, teacher._clock = field, twin, clock
        return teacher

    def _config(self, *, steps: int | None = None, batch_size: int | None = None) -> dict[str, Any]:
        """The options that are set, by the core's flat names. The core chooses the others."""
        grouped = (*OF_THE_FIELD, "horizon", "network", "num_classes", "condition_dim", "training")
        config = {name: n for name, n in self.get_params(deep=False).items() if name not in grouped}
        config["seed"] = as_seed(self.seed)
        config |= {name: n for name, n in (("steps", steps), ("batch_size", batch_size)) if n is not None}
        training = Training.of("training", self.training)
        config |= training.given(only=SHARED_TRAINING, of="a FlowTeacher's training")
        config["conditioning"] = Conditioning(self.num_classes, self.condition_dim).plain()
        config["objective"] = self._objective
        config["time_sampler"] = as_time_sampler(self.time_sampler)
        if (unet := unet_of("network", self.network, "mlp")) is not None:
            config["unet"] = unet.options()
        return {name: value for name, value in config.items() if value is not None}

    def __sklearn_clone__(self) -> FlowTeacher:
        # A teacher as the source is data: it is not cloned, so that it stays fitted.
        params = {
            name: value if name == "source" else clone(value, safe=False)
            for name, value in self.get_params(deep=False).items()
        }
        if self.source is KEPT and self._field is not None:
            params["source"] = self._field.source
        return type(self)(**params)

    def __sklearn_is_fitted__(self) -> bool:
        return self._field is not None

    def _source_name(self) -> str:
        try:
            start = as_source(self.source, self.event_shape, known=self._field)
        except KoopflowError:
            # fit raises the error.
            return type(self.source).__name__
        return "normal" if start is None else start.kind

    def __repr__(self) -> str:
        defaults = FlowTeacher.__init__.__kwdefaults__ or {}
        params = self.get_params(deep=False)
        params["source"] = params["source"] if isinstance(params["source"], str) else self._source_name()
        changed = [f"{k}={v!r}" for k, v in params.items() if k in defaults and v != defaults[k]]
        kind = "not fitted" if self._field is None else self._field.kind
        return f"<FlowTeacher({', '.join([f'event_shape={self.event_shape}', *changed])}): {kind}>"


def _guided_twin(model: Callable[[], TeacherModule], scale: float, null_condition: Any) -> TeacherModule:
    return GuidedField(model(), float(scale), torch.as_tensor(to_numpy(null_condition)))
