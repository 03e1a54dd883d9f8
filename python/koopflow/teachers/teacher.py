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
from .._conditioning import Conditioning
from .._ending import tell_ending
from .._parameters import Parameters
from ..exceptions import ArgumentError, ShapeError
from ..hub import HubFolder
from ..options import SHARED_TRAINING, Options, Training, UNet, name_of, to_json, unet_of
from ..progress import ProgressFunction, ProgressMeter
from ..twins.diffusion import DiffusionField
from ..twins.teacher import GuidedField, TeacherModule
from .attaching import Attachable, attaching
from .flow import Flow, TrainingData
from .torch_models import PREDICTION, TorchModel, probe, scripted, scripted_twin, sizes
from .torchcfm import read_state_dict

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(eq=False, repr=False)
class FlowTeacher(Attachable, HubFolder, Flow, Parameters):
    """A flow-matching model: trained here on data, attached from PyTorch, or known in closed form.

    The probability path is x_t = a(t) x1 + s(t) x0 with standard normal x0 (Lipman et al. 2210.02747); a
    network regresses v(t, x_t) on a' x1 + s' x0, and sampling solves dx/dt = v(t, x) from time 0 to 1.

    Parameters
    ----------
    event_shape : sequence of int
        Shape of one sample: ``(2,)``, ``(64,)``, ``(1, 28, 28)``.
    coupling : {"ot", "independent"}, default "ot"
        Pairing of noise and data in a minibatch; ``"ot"``, the exact assignment of least squared distance
        (Tong et al. 2302.00482), straightens the paths.
    path : {"linear", "vp"}, default "linear"
        Probability path: a = t, s = 1 - t, or the variance-preserving a = sin(pi t / 2), s = cos(pi t / 2).
    network : {"mlp", "unet"}, UNet or mapping, default "mlp"
        A perceptron, or a U-Net for images ``(C, H, W)``, with the options of a :class:`koopflow.UNet`.
    width, depth : int, optional
        Units of each hidden layer and number of hidden layers of a perceptron. These, ``steps`` and
        ``learning_rate`` are picked by the dimension of the data where they are None.
    steps : int, optional
        Training steps.
    batch_size : int, default 256
        Samples of one step.
    learning_rate : float, optional
        Peak learning rate.
    flip : bool, default False
        Whether each row of a minibatch is mirrored left to right with probability one half, before it is
        paired with noise: for images ``(C, H, W)``. A student of this teacher is then trained on mirrored
        data too.
    standardise : bool, default True
        Whether data far from mean 0 and deviation 1 are learnt in standard coordinates, so that results do
        not depend on their units; everything the teacher takes and answers is in the data's own.
    num_classes : int, optional
        Number of classes, for a teacher that is conditioned on labels ``[B]`` in ``0 .. num_classes - 1``.
    condition_dim : int, optional
        Length of vectors, for a teacher that is conditioned on vectors ``[B, condition_dim]``.
    label_dropout : float, default 0
        Probability that training hides a label, in [0, 1); :meth:`guided` needs a teacher that knows the
        velocity without one (0.1 to 0.2; Ho and Salimans 2207.12598).
    training : Training or mapping, optional
        Options ``optimizer``, ``weight_decay``, ``warmup_steps``, ``clip_norm``, ``ema_decay`` and
        ``max_restarts`` of :class:`koopflow.Training`.
    max_seconds : float, optional
        Time limit of training; the teacher so far is kept. A step that is under way is finished.
    seed : int or None, default 0
        Random seed of initialisation and training; None draws one, which ``history_["seed"]`` tells.
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
    _nested: ClassVar[Mapping[str, type[Options]]] = {"network": UNet, "training": Training}

    event_shape: Sequence[int]
    _: KW_ONLY
    coupling: str = "ot"
    path: str = "linear"
    network: str | UNet | Mapping[str, Any] = "mlp"
    width: int | None = None
    depth: int | None = None
    steps: int | None = None
    batch_size: int = 256
    learning_rate: float | None = None
    flip: bool = False
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
        data : array, ``[N, *event]``, or batches of them
            Finite data: NumPy, torch, a numeric frame of pandas or polars; or a torch ``Dataset``, a
            ``DataLoader`` or another iterable of batches ``x`` or ``(x, condition)``, of which no more than
            65,536 samples or 256 MiB are held at once, as of files that ``numpy.load(mmap_mode="r")`` maps.
            Copies of the arrays, or of those first samples, stay in :attr:`training_data_`.
        y : array, optional
            The condition, as scikit-learn passes it; an unconditional teacher passes it over.
        noise : array, ``[N, *event]``, optional
            Standard normal noise that each row is paired with, instead of a coupling, as
            :func:`koopflow.reflow` has it.
        condition : array, optional
            Labels ``[N]`` or vectors ``[N, condition_dim]``, as the constructor says.
        steps, batch_size : int, optional
            Values for this call, instead of those of the constructor.
        progress : bool or callable, default True
            Progress bar, silence, or a function: see :mod:`koopflow.progress`.
        callback : callable, optional
            Function that is called with every progress event as well.
        checkpoint : path, optional
            File that the state of training is written to, atomically, while it goes on and when it ends. At
            any moment it is a whole teacher that :meth:`load` reads.
        checkpoint_every : int, optional
            Steps between two files.
        checkpoint_minutes : float, optional
            Minutes between two files; 10 if ``checkpoint_every`` is not given either.
        resume : path, optional
            File that ``checkpoint`` wrote, to go on from; on a CPU exactly as if training had never stopped.
            Data, condition and options must be those of the file, except for ``steps``, ``max_seconds``
            (which counts what was spent before) and ``device``. Not for data that do not fit into memory.

        Returns
        -------
        FlowTeacher
            Itself. Ctrl-C ends training early, with a warning: the teacher so far is kept, and
            ``history_["stopped"]`` is ``"interrupted"``.

        Raises
        ------
        ShapeError, ArgumentError
            For arrays that do not fit the event shape or each other, and options that are out of their range
            or not those of the file to resume.
        DivergenceError
            When the loss kept blowing up; the last good teacher is kept.
        CheckpointError, FileNotFoundError
            When ``resume`` is not a file of a training, or there is no folder for ``checkpoint``.
        Exception
            What ``callback`` or a function as ``progress`` raises, unchanged: training ends, ``checkpoint``
            keeps what was trained, and this object stays as it was.
        """
        conditioning = Conditioning(self.num_classes, self.condition_dim)
        condition = conditioning.of_rows(y, condition)
        files = checkpointing("a teacher", checkpoint, checkpoint_every, checkpoint_minutes, resume)
        if isinstance(data, np.memmap) and data.nbytes > MOST_BYTES and noise is resume is None:
            data, condition = Rows(data, condition), None
        stream, source = Stream.of(data, "data", self.event_shape), None
        if stream is not None:
            for name, given in (("noise", noise), ("condition", condition)):
                if given is not None:
                    raise ArgumentError(f"{name}: expected None with batches of data, which bring their own")
            stream.conditional = bool(conditioning)
            data, condition = stream()
            source = stream.rest()
            if source is not None and resume is not None:
                raise ArgumentError("resume: expected None for data that are streamed, which begin anew")
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
        written = self._written(without=["event_shape"])
        with ProgressMeter(progress=progress, callback=callback) as meter:
            field, history = _core.train_teacher(
                data,
                to_json(config),
                noise=noise,
                condition=condition,
                monitor=meter.monitor,
                header=to_json({"params": {**written, "seed": config["seed"]}}),
                source=source,
                **files,
            )
        self._field, self._attached = field, None
        self._history = {"seed": config["seed"], **json.loads(history)}
        if self.num_classes is not None:
            seen = np.unique(to_numpy(condition)).tolist() if stream is None else sorted(stream.labels)
            self._history["classes"] = [int(label) for label in seen]
        self.training_data_ = TrainingData.copied(data, condition, noise)
        tell_ending(self._history, "the teacher so far")
        return self

    @classmethod
    @attaching
    def from_torch(
        cls,
        model: Callable[..., Any],
        event_shape: Sequence[int],
        *,
        convention: str = "torchcfm",
        device: str | None = None,
        dtype: str | None = None,
        num_classes: int | None = None,
        condition_dim: int | None = None,
        condition_name: str | None = None,
        timestep_scale: float = 1000.0,
        whole_timesteps: bool = False,
        prediction: str = "velocity",
        time_range: Sequence[float] | None = None,
        gradients: str = "autograd",
        max_batch: int | None = None,
        **extras: Any,
    ) -> FlowTeacher:
        """Attach a PyTorch module or function, in one of the field's three conventions.

        ``"torchcfm"`` calls ``model(t, x)``, where time 0 is noise, for data - noise; ``"flow_matching"``
        calls ``model(x=x, t=t)`` for the same; ``"diffusers"``, for flow-matching models of that library,
        calls ``model(x, timestep)`` with ``timestep = timestep_scale * (1 - t)`` for noise - data. The answer
        is a tensor, the ``.sample`` of an object or the first of a tuple.

        Parameters
        ----------
        model : torch.nn.Module, callable, torch.export.ExportedProgram or path
            Model of t ``[B]`` and x ``[B, *event]``, or a ``.pt2`` file of an exported one. A module is asked
            where it is and in its own precision, and in evaluation mode, which is undone after each call.
            It may change its arguments in place: they are copies.
        event_shape : sequence of int
            Shape of one sample.
        convention : {"torchcfm", "flow_matching", "diffusers"}, default "torchcfm"
            Convention of the model's arguments and of its answer.
        device, dtype : str, optional
            Device and precision of the flow; by default those of the module's parameters, or else ``"cpu"``
            and ``"float32"``. Modules in half precision are solved and, unless they refuse, told times in
            float32.
        num_classes, condition_dim : int, optional
            Number of classes of labels ``[B]``, or length of vectors ``[B, condition_dim]``, that it takes.
        condition_name : str, optional
            Keyword that passes the condition; by default one that the model has, such as ``"y"``,
            ``"class_labels"``, ``"labels"`` or ``"cond"``.
        timestep_scale : float, default 1000
            Factor of ``"diffusers"``.
        whole_timesteps : bool, default False
            Whether timesteps are int64, at most ``timestep_scale - 1``, for models that look them up in a
            table. The velocity then jumps: solve it by fixed steps.
        prediction : {"velocity", "data"}, default "velocity"
            Velocity of the convention, or the data x1 that x will become: the velocity is (x1 - x) / (1 - t).
        time_range : (float, float), optional
            Times between which the model is asked; (0, 0.999) for ``prediction="data"``.
        gradients : {"autograd", "differences"}, default "autograd"
            Derivatives of :meth:`log_prob`; differences serve models that run under ``no_grad`` or detach.
        max_batch : int, optional
            Most samples that the model gets at once. A batch that runs out of memory is halved, for good.
        **extras
            Keywords that the model is given at every call.

        Raises
        ------
        TeacherError, FileNotFoundError, CheckpointError
            When a few samples do not come back as a finite velocity (the model's own exception is the cause),
            or the file is not there or not a whole program.

        Examples
        --------
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.from_torch(lambda t, x: 1.0 - x, event_shape=(2,))
        >>> teacher.velocity(0.5, [[0.0, 0.0]])
        array([[1., 1.]], dtype=float32)
        """
        attached = TorchModel(
            model,
            event_shape,
            convention,
            Conditioning(num_classes, condition_dim),
            device=device,
            dtype=dtype,
            condition_name=condition_name,
            timestep_scale=timestep_scale,
            whole_timesteps=whole_timesteps,
            prediction=prediction,
            time_range=time_range,
            gradients=gradients,
            max_batch=max_batch,
            extras=extras,
        )
        return cls._around(attached.checked(), attached.twin)

    @classmethod
    @attaching
    def from_torchscript(
        cls,
        path: str | PathLike[str],
        event_shape: Sequence[int],
        *,
        convention: str = "torchcfm",
        device: str = "cpu",
        dtype: str | None = None,
        num_classes: int | None = None,
        condition_dim: int | None = None,
        timestep_scale: float = 1000.0,
        time_range: Sequence[float] | None = None,
        gradients: str = "autograd",
        max_batch: int | None = None,
    ) -> FlowTeacher:
        """Load a model that ``torch.jit.save`` wrote. It runs without Python, unless one of the last three
        options is set.

        Conventions are those of :meth:`from_torch` with positional arguments: ``forward(t, x)``,
        ``forward(x, t)`` or ``forward(x, timestep)``; a condition comes third.

        Parameters
        ----------
        path : str or path
            TorchScript file. It is a program: load files that you trust.
        event_shape, convention, and what follows it
            As in :meth:`from_torch`, which raises the same errors.

        Examples
        --------
        >>> teacher = FlowTeacher.from_torchscript("teacher.pt", event_shape=(2,))  # doctest: +SKIP
        """
        conditioning = Conditioning(num_classes, condition_dim)
        asked: dict[str, Any] = {"convention": convention, "timestep_scale": timestep_scale}
        field = _torchscript(path, event_shape, conditioning, device, dtype, **asked)
        asked |= {"time_range": time_range, "gradients": gradients, "max_batch": max_batch}
        load = (path, event_shape, device, dtype, conditioning)
        twin: Callable[[], TeacherModule] = partial(scripted_twin, *load, **asked)
        attached = None
        if time_range is not None or gradients != "autograd" or max_batch is not None:
            attached = scripted(*load, **asked)
            field, twin = attached.field(), attached.twin
        order = {"torchcfm": "t, x", "flow_matching": "x, t", "diffusers": "x, timestep"}[convention]
        called = f"forward({order}{', condition' if conditioning else ''}) with {sizes(field)}"
        probe(field, f"{as_path(path)}: convention {convention!r} calls {called}", attached)
        return cls._around(field, twin)

    @classmethod
    @attaching
    def from_diffusion(
        cls,
        model: Callable[..., Any] | Flow | str | PathLike[str],
        event_shape: Sequence[int] | None = None,
        *,
        parametrisation: str = "eps",
        schedule: str = "vp",
        noise_argument: str | None = None,
        beta_min: float | None = None,
        beta_max: float | None = None,
        offset: float | None = None,
        time_clip: float | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float | None = None,
        sigma_data: float = 0.5,
        num_timesteps: int = 1000,
        device: str | None = None,
        dtype: str | None = None,
        num_classes: int | None = None,
        condition_dim: int | None = None,
        condition_name: str | None = None,
        gradients: str = "autograd",
        max_batch: int | None = None,
        **extras: Any,
    ) -> FlowTeacher:
        """Turn a diffusion model into a velocity field, by its probability-flow ODE (Song et al. 2011.13456).

        The model sees z = alpha x1 + sigma x0 of data x1 and noise x0, and one number that tells the noise.
        With r = 1 - t, t being koopflow's time, docs/teachers.md has the formula of every schedule and how
        nearly each reaches its ends. The teacher's state x is z; for ``"ve"`` and ``"edm"`` it is z scaled so
        that it starts as N(0, I) at t = 0 and is z itself at t = 1.

        Parameters
        ----------
        model : torch.nn.Module, callable, FlowTeacher, str or path
            ``model(z, noise)`` with z ``[B, *event]`` and noise ``[B]``, which answers the prediction in one
            of the ways of :meth:`from_torch`; the path of a TorchScript or ``.pt2`` file that does; or a
            teacher whose velocity(noise, z) is the prediction.
        event_shape : sequence of int, optional
            Shape of one sample; a FlowTeacher knows its own.
        parametrisation : {"eps", "score", "x0", "v", "F"}, default "eps"
            What the model predicts: the noise; the score of z; the data (a denoiser, as a preconditioned EDM
            network is); (alpha x0 - sigma x1) / sqrt(alpha^2 + sigma^2) (Salimans and Ho 2202.00512); or
            EDM's raw network F before preconditioning (Karras et al. 2206.00364, eq. 7).
        schedule : {"vp", "scaled_linear", "cosine", "ve", "edm"}, default "vp"
            Noise schedule: DDPM's linear beta; latent diffusion's; Nichol and Dhariwal's cosine; variance
            exploding; or Karras et al.'s.
        noise_argument : str, optional
            What the model is told: ``"time"`` (r), ``"timestep"`` ((num_timesteps - 1) r), ``"index"`` (the
            same rounded, int64), ``"sigma"`` (sigma / alpha), ``"c_noise"`` (log(sigma / alpha) / 4) or
            ``"log_snr"`` (2 log(alpha / sigma)). By default ``"c_noise"`` for F, ``"sigma"`` for ve and edm,
            else ``"time"``.
        beta_min, beta_max, offset, sigma_min, sigma_max, rho : float, optional
            Constants of the schedules that have them.
        time_clip : float, default 0.001
            Distance from either end of time within which the field of the first three schedules stands still.
        sigma_data, num_timesteps : float and int, default 0.5 and 1000
            Deviation of the data, for F; number of time steps of ``"timestep"`` and ``"index"``.
        device, dtype, num_classes, condition_dim, condition_name, gradients, max_batch, **extras
            As in :meth:`from_torch`. A TorchScript file takes a condition third, and no extras; a FlowTeacher
            has all of these already.

        Examples
        --------
        The noise predicted by a model of data that are all zero is z / sigma:

        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.from_diffusion(lambda z, sigma: z / sigma[:, None], (2,), schedule="edm")
        >>> float(abs(teacher.sample(100)).max()) < 0.01
        True
        """
        conditioning = Conditioning(num_classes, condition_dim)
        named = {"condition_name": condition_name, "max_batch": max_batch, **extras}
        named["gradients"] = None if gradients == "autograd" else gradients
        attached: TorchModel | None = None
        if isinstance(model, Flow):
            raw, own, twin = model.field, model.event_shape_, model._twin
            of_the_model = {"num_classes": num_classes, "condition_dim": condition_dim}
            _refuse("a FlowTeacher", {"device": device, "dtype": dtype, **of_the_model, **named})
            if event_shape is not None and checked_event_shape(event_shape) != own:
                raise ArgumentError(f"event_shape: expected the teacher's {own}, got {event_shape}")
        elif event_shape is None:
            raise ArgumentError("event_shape: expected the shape of one sample, got None")
        elif isinstance(model, str | bytes | PathLike) and not as_path(model).endswith(".pt2"):
            _refuse("a TorchScript file", named)
            order = {"convention": "flow_matching"}
            raw = _torchscript(model, event_shape, conditioning, device or "cpu", dtype, **order)
            twin = partial(scripted_twin, model, event_shape, device or "cpu", dtype, conditioning, **order)
        else:
            attached = TorchModel(
                model,
                event_shape,
                PREDICTION,
                conditioning,
                device=device,
                dtype=dtype,
                condition_name=condition_name,
                gradients=gradients,
                max_batch=max_batch,
                extras=extras,
            )
            raw, twin = attached.field(), attached.twin
        constants = {"beta_min": beta_min, "beta_max": beta_max, "offset": offset, "time_clip": time_clip}
        constants |= {"sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho}
        given = {name: value for name, value in constants.items() if value is not None}
        config = {
            "parametrisation": parametrisation,
            "schedule": {"name": schedule, **given},
            "noise_argument": noise_argument,
            "sigma_data": sigma_data,
            "num_timesteps": num_timesteps,
        }
        field = _core.VelocityField.diffusion(raw, to_json(config))
        kinds = f"schedule {schedule!r} and parametrisation {parametrisation!r}"
        probe(field, f"{kinds} call model(x, noise) with {sizes(field, 'noise')}", attached)
        return cls._around(field, partial(_diffusion_twin, twin, config))

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
        """A U-Net that torchcfm trained, as a native teacher: no Python is called to evaluate it. Everything
        but the heads of attention is read off the names and shapes of the weights.

        Parameters
        ----------
        weights : path or mapping
            A safetensors file, a file of ``torch.save``, or the state dict of a ``UNetModel`` or
            ``UNetModelWrapper``.
        event_shape : sequence of int
            Shape of one image, ``(C, H, W)``.
        heads, head_channels, new_attention_order
            The model's ``num_heads``, ``num_head_channels`` and ``use_new_attention_order``.
        key : str, optional
            Entry of a training checkpoint that holds the weights; by default the first that exists of
            ``"ema_model"``, ``"ema"``, ``"net_model"``, ``"model"`` and ``"state_dict"``.

        Raises
        ------
        FileNotFoundError, CheckpointError, ArgumentError
            When there is no such file, it holds no state dict, or not one of a ``UNetModel`` for such images.
        """
        names, tensors = zip(*read_state_dict(weights, key).items(), strict=True)
        field = _core.VelocityField.torchcfm(
            list(names),
            list(tensors),
            event_shape=checked_event_shape(event_shape),
            heads=heads,
            head_channels=head_channels,
            qkv_first=new_attention_order,
            device=name_of(device),
            dtype=name_of(dtype),
        )
        return cls._around(field)

    def state_dict(self) -> dict[str, Any]:
        """The weights of a network as torch tensors on the CPU, by name.

        Those of a U-Net are named as in torchcfm's ``UNetModel``, whose ``load_state_dict`` takes them. A
        teacher trained here answers in units of its data's scale, which the model does not know: only one
        from :meth:`from_torchcfm` gives the same velocities there.
        """
        tensors, own = self.field.tensors(), "network."
        return {name.removeprefix(own): tensor for name, tensor in tensors if name.startswith(own)}

    @classmethod
    def gaussian(cls, mean: Array, cov: Array, *, device: str = "cpu", dtype: str = "float32") -> FlowTeacher:
        """The exact field from N(0, I) to N(mean, cov) under the linear path; its flow map is affine. The
        mean ``[*event]`` has the event shape; cov ``[d, d]``, of the flattened event, is positive
        semi-definite.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.gaussian([1.0, 2.0], np.diag([4.0, 0.25]))
        >>> teacher.sample(x0=np.zeros((1, 2), dtype=np.float32)).round(3)
        array([[1., 2.]], dtype=float32)
        """
        mean, cov = as_batch(mean, "mean"), as_batch(cov, "cov")
        home = {"device": name_of(device), "dtype": name_of(dtype)}
        shape = checked_event_shape(tuple(mean.shape))
        return cls._around(_core.VelocityField.gaussian(mean, cov, event_shape=shape, **home))

    @classmethod
    def empirical(cls, data: Array, *, device: str = "cpu", dtype: str = "float32") -> FlowTeacher:
        """The exact field of data points ``[N, *event]`` under the linear path: its flow carries noise onto
        them. They are kept whole, and an evaluation costs N times the batch.

        Examples
        --------
        >>> import numpy as np
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.empirical(np.array([[0.0, 3.0]], dtype=np.float32))
        >>> teacher.velocity(0.0, np.zeros((1, 2), dtype=np.float32))
        array([[0., 3.]], dtype=float32)
        """
        data = as_batch(data, "data")
        if len(data.shape) < 2:
            raise ShapeError(f"data: expected shape (N, *event), got {tuple(data.shape)}")
        home = {"device": name_of(device), "dtype": name_of(dtype)}
        teacher = cls._around(_core.VelocityField.empirical(data, **home))
        teacher.training_data_ = TrainingData.copied(data)
        return teacher

    @attaching
    def guided(self, scale: float, *, null_condition: Array | int | None = None) -> FlowTeacher:
        """This conditional teacher with classifier-free guidance (Ho and Salimans 2207.12598).

        v = v(t, x, null) + scale (v(t, x, c) - v(t, x, null)): 0 is unconditional, 1 this teacher, and more
        pushes samples towards what is typical of their condition. Both velocities come from one evaluation of
        twice the size, which counts as two. The result is a conditional teacher like any other.

        Parameters
        ----------
        scale : float
            Strength of the guidance, any finite number.
        null_condition : int or array, optional
            Condition that stands for none: a label, by default ``num_classes``, as in most class-conditional
            models and in teachers that were trained here with ``label_dropout``; or a vector, which has no
            default. One that does not fit, or that an attached model fails on, is an error.

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
        kind = Conditioning.of(field)
        if null_condition is None and kind.dim is not None:
            raise ArgumentError(f"null_condition: expected a vector ({kind.dim},), got None")
        if kind.classes is not None:
            null_condition = kind.classes if null_condition is None else null_condition
            # Asked of the training: the parameter may have been set since.
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
        teacher._history = self._history
        if self._attached is not None:
            teacher._attached = partial(_guided_twin, self._attached, scale, null_condition)
        probe(teacher._field, f"guidance with null_condition {null_condition!r}")
        return teacher

    @classmethod
    def load(cls, path: str | PathLike[str], *, device: str = "cpu") -> FlowTeacher:
        """Read a teacher that :meth:`save` wrote. Raises ``FileNotFoundError`` or ``CheckpointError`` when
        there is no such file, or it is not a whole koopflow teacher."""
        field, text = _core.VelocityField.load(as_path(path), device=name_of(device))
        return cls._restored(field, json.loads(text), path)

    @classmethod
    def from_torch_module(cls, module: Any) -> FlowTeacher:
        """The teacher of a module that :meth:`to_torch` made, with the weights that the module has now.

        Raises ``ArgumentError`` for other modules and for that of an attached model, and ``NonFiniteError``
        for weights that are not finite.

        Examples
        --------
        >>> from koopflow import FlowTeacher, datasets
        >>> teacher = FlowTeacher((2,), width=16, depth=1, steps=20).fit(datasets.moons(256), progress=False)
        >>> module = teacher.to_torch()
        >>> _ = module.network[-1].bias.data.add_(1.0)  # instead of tuning
        >>> FlowTeacher.from_torch_module(module).velocity(0.5, [[0.0, 0.0]]).shape
        (1, 2)
        """
        stored = TeacherModule.of(module).stored()
        device = next(iter(stored.tensors.values())).device
        field = _core.VelocityField.from_bytes(stored.to_bytes(), str(device))
        return cls._restored(field, stored.header["facts"], "module")

    @classmethod
    def _restored(cls, field: _core.VelocityField, header: dict[str, Any], path: Any) -> FlowTeacher:
        """The teacher of a field and of what a file says besides."""
        params = header.get("params")
        if params is None:
            # Before options were grouped, None did not clip.
            params = header.get("options", {})
            if params.get("clip_norm", 1.0) is None:
                params["clip_norm"] = 0.0
        known = {"event_shape": tuple(field.event_shape), "device": field.device, "dtype": field.dtype}
        teacher = cls._read(path, params, **known)
        teacher._field = field
        teacher._history = header.get("history", {})
        return teacher

    def save(self, path: str | PathLike[str]) -> None:
        """Write the teacher to one safetensors file, atomically. Raises ``TeacherError`` for one that was
        attached: its code and weights are not koopflow's to write."""
        self.field.save(as_path(path), to_json(self._facts()))

    def _facts(self) -> dict[str, Any]:
        return {"params": self._written(without=["event_shape"]), "history": self._history}

    # Its name before students and teachers had the same ones.
    history = Flow.history_

    @classmethod
    def _around(cls, field: _core.VelocityField, twin: Callable[[], TeacherModule] | None = None) -> Self:
        """A teacher that is this field, with what makes its twin if it has no stored form."""
        kind = Conditioning.of(field)
        teacher = cls(
            tuple(field.event_shape),
            num_classes=kind.classes,
            condition_dim=kind.dim,
            device=field.device,
            dtype=field.dtype,
        )
        teacher._field, teacher._attached = field, twin
        return teacher

    def _config(self, *, steps: int | None = None, batch_size: int | None = None) -> dict[str, Any]:
        """The options that are set, by the core's flat names; the core decides on the others."""
        grouped = ("event_shape", "network", "num_classes", "condition_dim", "training")
        config = {name: n for name, n in self.get_params(deep=False).items() if name not in grouped}
        config["seed"] = as_seed(self.seed)
        config |= {name: n for name, n in (("steps", steps), ("batch_size", batch_size)) if n is not None}
        training = Training.of("training", self.training)
        config |= training.given(only=SHARED_TRAINING, of="a FlowTeacher's training")
        config["conditioning"] = Conditioning(self.num_classes, self.condition_dim).plain()
        if (unet := unet_of("network", self.network, "mlp")) is not None:
            config["unet"] = unet.options()
        return {name: value for name, value in config.items() if value is not None}

    def __sklearn_is_fitted__(self) -> bool:
        return self._field is not None

    def __repr__(self) -> str:
        defaults = FlowTeacher.__init__.__kwdefaults__ or {}
        params = self.get_params(deep=False)
        changed = [f"{k}={v!r}" for k, v in params.items() if k in defaults and v != defaults[k]]
        kind = "not fitted" if self._field is None else self._field.kind
        return f"<FlowTeacher({', '.join([f'event_shape={self.event_shape}', *changed])}): {kind}>"


def _diffusion_twin(model: Callable[[], TeacherModule], config: Mapping[str, Any]) -> TeacherModule:
    return DiffusionField(model(), config)


def _guided_twin(model: Callable[[], TeacherModule], scale: float, null_condition: Any) -> TeacherModule:
    return GuidedField(model(), float(scale), torch.as_tensor(to_numpy(null_condition)))


def _refuse(what: str, options: Mapping[str, Any]) -> None:
    """Raises ``ArgumentError`` for the first option that is set."""
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(f"{name}: expected nothing for {what}, got {value!r}")


def _torchscript(
    path: Any, event_shape: Sequence[int], conditioning: Conditioning, device: Any, dtype: Any, **asked: Any
) -> _core.VelocityField:
    asked |= {"event_shape": checked_event_shape(event_shape), "conditioning": conditioning.to_json()}
    asked |= {"device": name_of(device), "dtype": None if dtype is None else name_of(dtype)}
    return _core.VelocityField.torchscript(as_path(path), **asked)
