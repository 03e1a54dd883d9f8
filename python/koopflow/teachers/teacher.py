"""Teachers: velocity fields whose flow carries noise (time 0) to data (time 1)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import clone

from .. import _core
from .._arrays import Array, as_batch, as_condition, to_numpy
from .._ending import tell_ending
from .._parameters import Parameters
from ..exceptions import ArgumentError, NotFittedError, ShapeError
from ..options import Options, Training, UNet, to_json, unet_of
from ..progress import ProgressFunction, ProgressMeter
from .attach import AttachedTeachers
from .flow import check_checkpointing, checked_event_shape
from .torch_models import conditioning_json, probe
from .torchcfm import read_state_dict

if TYPE_CHECKING:
    from typing_extensions import Self

# Options of Training that teachers have.
TRAINING = ("optimizer", "weight_decay", "warmup_steps", "clip_norm", "ema_decay")


class FlowTeacher(AttachedTeachers, Parameters):
    """A flow-matching model: trained here on data, attached from PyTorch, or known in closed form.

    The probability path is x_t = a(t) x1 + s(t) x0 with standard normal x0 (Lipman et al. 2210.02747); a
    network regresses v(t, x_t) on a' x1 + s' x0, and sampling solves dx/dt = v(t, x) from time 0 to 1. With
    ``coupling="ot"`` each minibatch is paired by the exact assignment of squared distance first (Tong et al.
    2302.00482), which straightens the paths.

    Parameters
    ----------
    event_shape : sequence of int
        Shape of one sample: ``(2,)``, ``(64,)``, ``(1, 28, 28)``.
    coupling : {"ot", "independent"}, default "ot"
        Pairing of noise and data in a minibatch.
    path : {"linear", "vp"}, default "linear"
        Probability path. ``"linear"``: a = t, s = 1 - t. ``"vp"`` (variance preserving): a = sin(pi t / 2),
        s = cos(pi t / 2).
    network : {"mlp", "unet"}, UNet or mapping, default "mlp"
        A perceptron, or a U-Net for images ``(C, H, W)``, with the options of a :class:`koopflow.UNet`.
    width, depth : int, optional
        Units of each hidden layer and number of hidden layers of a perceptron; None picks by the dimension of
        the data.
    steps : int, optional
        Training steps; None picks by the dimension of the data.
    batch_size : int, default 256
        Samples of one step.
    learning_rate : float, optional
        Peak learning rate; None picks by the dimension of the data.
    flip : bool, default False
        Whether each row of a minibatch is mirrored left to right with probability one half, before it is
        paired with noise: for images ``(channels, height, width)`` that may as well be mirrored. A student of
        this teacher is then trained on mirrored data too.
    num_classes : int, optional
        Number of classes, for a teacher that is conditioned on labels ``[B]`` in ``0 .. num_classes - 1``.
    condition_dim : int, optional
        Length of vectors, for a teacher that is conditioned on vectors ``[B, condition_dim]``.
    label_dropout : float, default 0
        Probability that training hides a label, in [0, 1); :meth:`guided` needs a teacher that knows the
        velocity without one (0.1 to 0.2; Ho and Salimans 2207.12598).
    training : Training or mapping, optional
        Options ``optimizer``, ``weight_decay``, ``warmup_steps``, ``clip_norm`` and ``ema_decay`` of
        :class:`koopflow.Training`.
    max_seconds : float, optional
        Time limit of training; the teacher so far is kept.
    seed : int, default 0
        Random seed of initialisation and training.
    device : str, default "cpu"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``.
    dtype : {"float32", "float64"}, default "float32"
        Precision of parameters and samples.

    See Also
    --------
    FlowTeacher.from_torch, FlowTeacher.from_torchscript : attach a flow-matching model.
    FlowTeacher.from_diffusion : attach a diffusion model.
    FlowTeacher.from_torchcfm : a U-Net's weights from torchcfm.
    FlowTeacher.gaussian, FlowTeacher.empirical : fields known in closed form.
    koopflow.reflow : straighter paths between the same ends.

    Examples
    --------
    >>> from koopflow import FlowTeacher, datasets
    >>> teacher = FlowTeacher((2,), width=16, depth=1, steps=20).fit(datasets.moons(256), progress=False)
    >>> teacher.sample(5).shape
    (5, 2)
    """

    _nested: ClassVar[Mapping[str, type[Options]]] = {"network": UNet, "training": Training}

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        coupling: str = "ot",
        path: str = "linear",
        network: str | UNet | Mapping[str, Any] = "mlp",
        width: int | None = None,
        depth: int | None = None,
        steps: int | None = None,
        batch_size: int = 256,
        learning_rate: float | None = None,
        flip: bool = False,
        num_classes: int | None = None,
        condition_dim: int | None = None,
        label_dropout: float = 0.0,
        training: Training | Mapping[str, Any] | None = None,
        max_seconds: float | None = None,
        seed: int = 0,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.event_shape = checked_event_shape(event_shape)
        self.coupling = coupling
        self.path = path
        self.network = network
        self.width = width
        self.depth = depth
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.flip = flip
        self.num_classes = num_classes
        self.condition_dim = condition_dim
        self.label_dropout = label_dropout
        self.training = training
        self.max_seconds = max_seconds
        self.seed = seed
        self.device = device
        self.dtype = dtype

    def fit(
        self,
        data: Array,
        *,
        noise: Array | None = None,
        condition: Array | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        progress: bool | ProgressFunction = True,
        callback: ProgressFunction | None = None,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_minutes: float | None = None,
        resume: str | PathLike[str] | None = None,
    ) -> FlowTeacher:
        """Train on data.

        Parameters
        ----------
        data : array, ``[N, *event]``
            NumPy or torch, finite.
        noise : array, ``[N, *event]``, optional
            The noise that each row is paired with, which should be standard normal over all of them: no other
            coupling is drawn. :func:`koopflow.reflow` brings such pairs.
        condition : array, optional
            Labels ``[N]`` or vectors ``[N, condition_dim]``, as the constructor says.
        steps, batch_size : int, optional
            For this call, over those of the constructor.
        progress : bool or callable, default True
            A bar where somebody is looking, nothing, or a function: see :mod:`koopflow.progress`.
        callback : callable, optional
            Called with every progress event besides.
        checkpoint : path, optional
            A file to write the state of training to, atomically, while it goes on and when it ends. At any
            moment it is a whole teacher that :meth:`load` reads.
        checkpoint_every : int, optional
            Steps between two files.
        checkpoint_minutes : float, optional
            Minutes between two files; 10 where ``checkpoint_every`` is not given either.
        resume : path, optional
            A file that ``checkpoint`` wrote, to go on from; on a CPU exactly as if training had never been
            cut. Data, condition and options must be those of the file, except for ``steps``,
            ``max_seconds`` (which counts what was spent before) and ``device``.

        Returns
        -------
        FlowTeacher
            Itself. Ctrl-C ends training early: the teacher so far is kept, a warning says so, and
            ``history["stopped"]`` is ``"interrupted"``.

        Raises
        ------
        ShapeError
            When data, noise or condition do not fit the event shape or each other.
        ArgumentError
            When an option is out of its range, or ``flip`` was asked for and samples are no images or pairs
            are given.
        DivergenceError
            When the loss kept blowing up after ``max_restarts`` restarts. The last good teacher is kept, and
            this object is fitted with it.
        CheckpointError
            When ``resume`` is no file of a training.
        ArgumentError
            When an option is out of its range, or is not that of the file to resume.
        """
        check_checkpointing(checkpoint, checkpoint_every, checkpoint_minutes)
        data = as_batch(data)
        if tuple(data.shape[1:]) != self.event_shape or len(data.shape) == 0:
            raise ShapeError(
                f"data: expected shape (N, {', '.join(map(str, self.event_shape))}), got {tuple(data.shape)}"
            )
        config = self._config(steps=steps, batch_size=batch_size)
        if noise is not None:
            noise, config["coupling"] = as_batch(noise), "given"
        with ProgressMeter(progress=progress, callback=callback) as meter:
            field, history = _core.train_teacher(
                data,
                to_json(config),
                noise=noise,
                condition=as_condition(condition),
                monitor=meter.monitor,
                checkpoint=None if checkpoint is None else fspath(checkpoint),
                checkpoint_every=checkpoint_every,
                checkpoint_seconds=None if checkpoint_minutes is None else 60.0 * checkpoint_minutes,
                header=to_json({"params": self._written(without=["event_shape"])}),
                resume=None if resume is None else fspath(resume),
            )
        self._field, self._history = field, json.loads(history)
        self._training, self._training_noise = (data, condition), noise
        tell_ending(self._history, "the teacher so far")
        return self

    @classmethod
    def _around(cls, field: _core.VelocityField) -> Self:
        kind = json.loads(field.conditioning)
        labels, vector = ({}, {}) if kind == "none" else (kind.get("labels", {}), kind.get("vector", {}))
        teacher = cls(
            field.event_shape,
            num_classes=labels.get("classes"),
            condition_dim=vector.get("dim"),
            device=field.device,
            dtype=field.dtype,
        )
        teacher._field = field
        return teacher

    @classmethod
    def from_torchcfm(
        cls,
        weights: str | PathLike[str] | Mapping[str, Any],
        event_shape: Sequence[int],
        *,
        heads: int = 1,
        head_channels: int | None = None,
        new_attention_order: bool = False,
        key: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> FlowTeacher:
        """A U-Net that torchcfm trained, as a native teacher: no Python is called to evaluate it.

        Everything but the heads of attention is read off the names and shapes of the weights.

        Parameters
        ----------
        weights : path or mapping
            A safetensors file, a file of ``torch.save``, or the state dict of a ``UNetModel`` or
            ``UNetModelWrapper``.
        event_shape : sequence of int
            ``(C, H, W)``.
        heads : int, default 1
            ``num_heads`` of the model.
        head_channels : int, optional
            ``num_head_channels`` of the model.
        new_attention_order : bool, default False
            ``use_new_attention_order`` of the model.
        key : str, optional
            Which entry of a training checkpoint holds the weights; None takes ``"ema_model"`` where there
            is one, then ``"net_model"``, ``"model"``, ``"state_dict"``.
        device, dtype : str
            Where and in what precision the field is evaluated.

        Raises
        ------
        FileNotFoundError, CheckpointError
            When there is no such file, or it holds no state dict.
        ArgumentError
            When the weights are not those of a ``UNetModel``, or not one for images of ``event_shape``.

        See Also
        --------
        FlowTeacher.state_dict : the way back.
        """
        shape = checked_event_shape(event_shape)
        tensors = read_state_dict(weights, key)
        field = _core.VelocityField.torchcfm(
            list(tensors),
            list(tensors.values()),
            event_shape=shape,
            heads=heads,
            head_channels=head_channels,
            qkv_first=new_attention_order,
            device=device,
            dtype=dtype,
        )
        labels = tensors.get("label_emb.weight")
        classes = None if labels is None else int(labels.shape[0])
        teacher = cls(shape, num_classes=classes, device=device, dtype=dtype)
        teacher._field = field
        return teacher

    def state_dict(self) -> dict[str, Any]:
        """The weights of a network as torch tensors on the CPU, by name.

        Those of a U-Net are named as in torchcfm's ``UNetModel``, whose ``load_state_dict`` takes them. A
        teacher trained here answers in units of its data's scale, which the model does not know: only one
        from :meth:`from_torchcfm` gives the same velocities there.
        """
        prefix = "network."
        tensors = self.field.tensors()
        return {name[len(prefix) :]: tensor for name, tensor in tensors if name.startswith(prefix)}

    @classmethod
    def gaussian(cls, mean: Array, cov: Array, *, device: str = "cpu", dtype: str = "float32") -> FlowTeacher:
        """The exact field from N(0, I) to N(mean, cov) under the linear path; its flow map is affine.

                Parameters
                ----------
                mean : array, ``[*event]``
                    Its shape is the event shape.
                cov : array, ``[d, d]``
                    Over the flattened event; symmetric, positive semi-definite.
                device, dtype : str
                    Where and in what precision the field is evaluated.

                Examples
                --------
                >>> import numpy as np
        from sklearn.base import clone
                >>> from koopflow import FlowTeacher
                >>> teacher = FlowTeacher.gaussian([1.0, 2.0], np.diag([4.0, 0.25]))
                >>> teacher.sample(x0=np.zeros((1, 2), dtype=np.float32)).round(3)
                array([[1., 2.]], dtype=float32)
        """
        mean = as_batch(mean)
        teacher = cls(tuple(mean.shape), device=device, dtype=dtype)
        teacher._field = _core.VelocityField.gaussian(
            mean, as_batch(cov), event_shape=teacher.event_shape, device=device, dtype=dtype
        )
        return teacher

    @classmethod
    def empirical(cls, data: Array, *, device: str = "cpu", dtype: str = "float32") -> FlowTeacher:
        """The exact field of a finite data set under the linear path: its flow carries noise onto the data
                points.

                Parameters
                ----------
                data : array, ``[N, *event]``
                    Kept whole; an evaluation costs N times the batch.
                device, dtype : str
                    Where and in what precision the field is evaluated.

                Examples
                --------
                >>> import numpy as np
        from sklearn.base import clone
                >>> from koopflow import FlowTeacher
                >>> teacher = FlowTeacher.empirical(np.array([[0.0, 3.0]], dtype=np.float32))
                >>> teacher.velocity(0.0, np.zeros((1, 2), dtype=np.float32))
                array([[0., 3.]], dtype=float32)
        """
        data = as_batch(data)
        if len(data.shape) < 2:
            raise ShapeError(f"data: expected shape (N, *event), got {tuple(data.shape)}")
        teacher = cls(tuple(data.shape[1:]), device=device, dtype=dtype)
        teacher._field = _core.VelocityField.empirical(data, device=device, dtype=dtype)
        teacher._training = (data, None)
        return teacher

    def guided(self, scale: float, *, null_condition: Array | int | None = None) -> FlowTeacher:
        """This conditional teacher with classifier-free guidance (Ho and Salimans 2207.12598).

        v = v(t, x, null) + scale (v(t, x, c) - v(t, x, null)): 0 is unconditional, 1 this teacher, and more
        pushes samples towards what is typical of their condition. Both velocities come from one evaluation of
        twice the size, which counts as two. The result is a conditional teacher: it samples, has densities
        and can be distilled.

        Parameters
        ----------
        scale : float
            Any finite number.
        null_condition : int or array, optional
            The condition that stands for none: a label, or a vector ``[condition_dim]``. None takes the label
            ``num_classes``, which is that of most class-conditional models and of teachers that were trained
            here with ``label_dropout``; vectors have no such default.

        Raises
        ------
        ArgumentError
            For a teacher that is unconditional, one that was trained here without ``label_dropout``, and a
            null condition that does not fit.
        TeacherError
            When an attached model fails on the null condition, or does not answer with a finite velocity.

        Examples
        --------
        >>> import torch
        >>> from koopflow import FlowTeacher
        >>> means = torch.tensor([[4.0], [-4.0], [0.0]])  # of two classes, and of both
        >>> teacher = FlowTeacher.from_torch(lambda t, x, y: means[y] - x, event_shape=(1,), num_classes=2)
        >>> teacher.guided(1.5).velocity(0.5, torch.zeros(2, 1), torch.tensor([0, 1]))
        tensor([[ 6.],
                [-6.]])
        """
        field = self.field
        kind = json.loads(field.conditioning)
        if null_condition is None and "vector" in kind:
            raise ArgumentError(
                f"null_condition: expected a vector ({kind['vector']['dim']},), got None (it has no default)"
            )
        if "labels" in kind:
            classes = kind["labels"]["classes"]
            null_condition = classes if null_condition is None else null_condition
            untrained = field.kind == "network" and not self.label_dropout
            if untrained and np.array_equal(to_numpy(null_condition), classes):
                raise ArgumentError(
                    "label_dropout: expected above 0 for a teacher that is to be guided, got 0: it has never "
                    "seen data without a label. Train FlowTeacher(..., label_dropout=0.1), or name by "
                    "null_condition the label that stands for none"
                )
        teacher: Self = clone(self)
        teacher._field = field.guided(float(scale), 0 if null_condition is None else null_condition)
        teacher._history = self._history
        probe(teacher._field, f"guidance with null_condition {null_condition!r}")
        return teacher

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> FlowTeacher:
        """Read a teacher that :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        CheckpointError
            When the file is not a whole koopflow teacher.
        """
        field, text = _core.VelocityField.load(fspath(path), device=device)
        header = json.loads(text)
        params = header.get("params")
        if params is None:
            # Before options were grouped, None did not clip.
            params = header.get("options", {})
            if params.get("clip_norm", 1.0) is None:
                params["clip_norm"] = 0.0
        known = {"event_shape": field.event_shape, "device": field.device, "dtype": field.dtype}
        teacher = cls._read(path, params, **known)
        teacher._field = field
        teacher._history = header.get("history", {})
        return teacher

    def save(self, path: str | PathLike[str]) -> None:
        """Write the teacher to one safetensors file, atomically.

        Raises
        ------
        TeacherError
            For a teacher that was attached: its code and weights are not koopflow's to write.
        """
        self.field.save(fspath(path), to_json(self._header()))

    def _header(self) -> dict[str, Any]:
        """What a file says about the teacher."""
        return {"params": self._written(without=["event_shape"]), "history": self._history}

    @property
    def history_(self) -> dict[str, Any]:
        """Training: ``steps``, ``seconds``, ``stopped``, ``loss``, a list of ``[step, loss]``,
        ``skipped_steps``, whose loss or gradient was not finite, ``restarts`` after a divergence, ``notes``
        (a list of ``step`` and ``text``) and ``config``, the options with every None resolved.

        Empty for a teacher that was not trained here.
        """
        if self._field is None:
            raise NotFittedError("this FlowTeacher is not fitted yet: call fit(data) first")
        return self._history

    @property
    def history(self) -> dict[str, Any]:
        """Another name of :attr:`history_`."""
        return self.history_

    def _pairing(self) -> dict[str, Any]:
        # The options of a teacher that was not trained here say nothing about it.
        if self._field is None or self._field.kind != "network":
            return super()._pairing()
        known = self._history.get("config", {})
        return {name: known.get(name, getattr(self, name)) for name in ("coupling", "path", "flip")}

    def _config(self, *, steps: int | None, batch_size: int | None) -> dict[str, Any]:
        """The options that are set, by the core's flat names; the core decides on the others."""
        conditioning = conditioning_json(self.num_classes, self.condition_dim)
        config = {
            name: value
            for name in self._get_param_names()
            if name not in ("event_shape", "network", "training", "num_classes", "condition_dim")
            and (value := getattr(self, name)) is not None
        }
        training = Training.of("training", self.training)
        config |= training.given(only=TRAINING, of="a FlowTeacher's training")
        if config.get("clip_norm") == 0:
            config["clip_norm"] = None
        config |= {name: n for name, n in (("steps", steps), ("batch_size", batch_size)) if n is not None}
        config["conditioning"] = json.loads(conditioning)
        unet = unet_of("network", self.network, "mlp")
        if unet is not None:
            config["unet"] = unet.options()
        return config

    def __sklearn_is_fitted__(self) -> bool:
        return self._field is not None

    def __repr__(self) -> str:
        defaults = FlowTeacher.__init__.__kwdefaults__ or {}
        params = self.get_params(deep=False)
        changed = [f"{k}={v!r}" for k, v in params.items() if k in defaults and v != defaults[k]]
        kind = "not fitted" if self._field is None else self._field.kind
        return f"<FlowTeacher({', '.join([f'event_shape={self.event_shape}', *changed])}): {kind}>"
