"""Models of other libraries as teachers. A copy or pickle of such a teacher attaches the model again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from os import PathLike
from typing import Any, TypeVar, cast

from .. import _core
from .._arrays import as_path, checked_event_shape
from .._clock import UNIT, Clock
from .._conditioning import Conditioning
from ..exceptions import ArgumentError
from ..options import name_of, to_json
from ..twins.diffusion import DiffusionField
from ..twins.teacher import TeacherModule
from .diffusers_models import attached as attached_diffusers
from .diffusers_models import parts_of
from .flow import Flow
from .source import started
from .torch_models import PREDICTION, TorchModel, probe, scripted, scripted_twin, sizes
from .torchcfm import read_state_dict

Method = TypeVar("Method", bound=Callable[..., Any])
Teacher = TypeVar("Teacher", bound="Attachable")


def attaching(method: Method) -> Method:
    """Decorates a method that makes a teacher: the teacher records the call, which copies repeat."""

    @wraps(method)
    def attach(owner: Any, *arguments: Any, **keywords: Any) -> Any:
        teacher = method(owner, *arguments, **keywords)
        if teacher._attached is not None:
            teacher._origin = (owner, method.__name__, arguments, keywords)
        return teacher

    return cast(Method, attach)


class Attachable(Flow, ABC):
    """A flow whose field may be an attached model.

    ``pickle`` and ``copy.deepcopy`` copy the model itself. For a model that they cannot copy, such as a
    lambda, they raise their usual errors.
    """

    # Owner, name and arguments of the method that attached the field.
    _origin: tuple[Any, str, tuple[Any, ...], Mapping[str, Any]] | None = None

    @classmethod
    @attaching
    def from_torch(
        cls: type[Teacher],
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
        source: Any = "normal",
        source_noise: float = 0.0,
        horizon: Sequence[float] = (0.0, 1.0),
        **extras: Any,
    ) -> Teacher:
        """Attach a PyTorch module or function, in one of the three common conventions.

        ``"torchcfm"`` calls ``model(t, x)``, where time 0 is noise, and expects data - noise.
        ``"flow_matching"`` calls ``model(x=x, t=t)`` and expects the same. ``"diffusers"``, for flow-matching
        models of that library, calls ``model(x, timestep)`` with ``timestep = timestep_scale * (1 - t)`` and
        expects noise - data. The model returns a tensor, an object with a tensor ``.sample``, or a tuple
        whose first item is the tensor.

        Parameters
        ----------
        model : torch.nn.Module, callable, torch.export.ExportedProgram or path
            Model of t ``[B]`` and x ``[B, *event]``, or a ``.pt2`` file of an exported one. A module is
            called on its own device, in its own precision and in evaluation mode; its mode is restored after
            each call. It may change its arguments in place, since they are copies.
        event_shape : sequence of int
            Shape of one sample.
        convention : {"torchcfm", "flow_matching", "diffusers"}, default "torchcfm"
            Convention of the model's arguments and of its result.
        device, dtype : str, optional
            Device and precision of the flow. By default those of the module's parameters, or else ``"cpu"``
            and ``"float32"``. For modules in half precision the ODE is solved in float32, and times are
            passed in float32 if the module accepts that.
        num_classes, condition_dim : int, optional
            Number of classes of labels ``[B]``, or length of vectors ``[B, condition_dim]``, that condition
            the model.
        condition_name : str, optional
            Keyword that passes the condition. By default a keyword of the model, such as ``"y"``,
            ``"class_labels"``, ``"labels"`` or ``"cond"``.
        timestep_scale : float, default 1000
            Factor of the timesteps of ``"diffusers"``.
        whole_timesteps : bool, default False
            Whether timesteps are int64, at most ``timestep_scale - 1``, for models that look them up in a
            table. The velocity is then discontinuous in time, and needs a fixed-step solver.
        prediction : {"velocity", "data"}, default "velocity"
            Output of the model: the velocity of the convention, or the data x1 at the end of the path. The
            velocity is then (x1 - x) / (1 - t).
        time_range : (float, float), optional
            Range to which the times passed to the model are clipped; (0, 0.999) for ``prediction="data"``.
        gradients : {"autograd", "differences"}, default "autograd"
            Method for the derivatives of :meth:`log_prob`. Finite differences are for models that run under
            ``no_grad`` or detach their result.
        max_batch : int, optional
            Largest number of samples per call of the model. If a batch runs out of memory, the limit is
            halved permanently.
        source : "normal", array ``[N, *event]``, FlowTeacher or callable, default "normal"
            Distribution that the flow starts from, as in :class:`koopflow.FlowTeacher`.
        source_noise : float, default 0
            Standard deviation of normal noise that is added to rows as ``source``.
        horizon : (float, float), default (0.0, 1.0)
            Times of source and data, in which the model expects its times. Not for ``"diffusers"``.
        **extras
            Keywords that are passed to the model at every call.

        Raises
        ------
        TeacherError, FileNotFoundError, CheckpointError
            If the model does not return a finite velocity for a few samples (its own exception is the cause),
            or the file does not exist or is not a complete program.

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
            clock=Clock.of(horizon),
            extras=extras,
        )
        field = started(attached.checked(), source, source_noise)
        return cls._around(field, attached.twin, attached.clock, source)

    @classmethod
    @attaching
    def from_torchscript(
        cls: type[Teacher],
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
    ) -> Teacher:
        """Load a model that ``torch.jit.save`` wrote.

        It runs without Python, unless ``time_range``, ``gradients`` or ``max_batch`` is set. Conventions are
        those of :meth:`from_torch` with positional arguments: ``forward(t, x)``, ``forward(x, t)`` or
        ``forward(x, timestep)``. A condition is the third argument. Errors are those of :meth:`from_torch`.

        Parameters
        ----------
        path : str or path
            TorchScript file. It contains a program: load only files that you trust.
        event_shape, convention, device, dtype, num_classes, condition_dim, timestep_scale
            As in :meth:`from_torch`.
        time_range, gradients, max_batch
            As in :meth:`from_torch`.

        Examples
        --------
        >>> teacher = FlowTeacher.from_torchscript("teacher.pt", event_shape=(2,))  # doctest: +SKIP
        """
        conditioning = Conditioning(num_classes, condition_dim)
        file = (path, event_shape, device, dtype, conditioning)
        asked: dict[str, Any] = {"convention": convention, "timestep_scale": timestep_scale}
        field, twin = _torchscript(*file, **asked)
        attached = None
        if time_range is not None or gradients != "autograd" or max_batch is not None:
            asked |= {"time_range": time_range, "gradients": gradients, "max_batch": max_batch}
            attached = scripted(*file, **asked)
            field, twin = attached.field(), attached.twin
        order = {"torchcfm": "t, x", "flow_matching": "x, t", "diffusers": "x, timestep"}[convention]
        called = f"forward({order}{', condition' if conditioning else ''}) with {sizes(field)}"
        probe(field, f"{as_path(path)}: convention {convention!r} calls {called}", attached)
        return cls._around(field, twin)

    @classmethod
    @attaching
    def from_diffusion(
        cls: type[Teacher],
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
    ) -> Teacher:
        """Turn a diffusion model into a velocity field, by its probability-flow ODE (Song et al. 2011.13456).

        The inputs of the model are z = alpha x1 + sigma x0, with data x1 and noise x0, and one number for the
        noise level. docs/teachers.md has the formulas of every schedule in terms of r = 1 - t, where t is
        koopflow's time, and says how closely each reaches pure noise and clean data. The teacher's state x is
        z. For ``"ve"`` and ``"edm"`` it is z scaled so that it is N(0, I) at t = 0 and z itself at t = 1.

        Parameters
        ----------
        model : torch.nn.Module, callable, FlowTeacher, str or path
            Model ``model(z, noise)`` with z ``[B, *event]`` and noise ``[B]``, which returns the prediction
            in one of the forms of :meth:`from_torch`. It may also be the path of a TorchScript or ``.pt2``
            file of such a model, or a teacher whose velocity(noise, z) is the prediction.
        event_shape : sequence of int, optional
            Shape of one sample. It is required unless ``model`` is a FlowTeacher.
        parametrisation : {"eps", "score", "x0", "v", "F"}, default "eps"
            Quantity that the model predicts. ``"eps"``: the noise. ``"score"``: the score of z. ``"x0"``: the
            data, as a denoiser or a preconditioned EDM network does. ``"v"``:
            (alpha x0 - sigma x1) / sqrt(alpha^2 + sigma^2) (Salimans and Ho 2202.00512). ``"F"``: EDM's raw
            network before preconditioning (Karras et al. 2206.00364, eq. 7).
        schedule : {"vp", "scaled_linear", "cosine", "ve", "edm"}, default "vp"
            Noise schedule: DDPM's linear beta, latent diffusion's scaled linear beta, Nichol and Dhariwal's
            cosine, variance exploding, or that of Karras et al.
        noise_argument : str, optional
            Number that tells the model the noise level: ``"time"`` (r), ``"timestep"``
            ((num_timesteps - 1) r), ``"index"`` (the same rounded, int64), ``"sigma"`` (sigma / alpha),
            ``"c_noise"`` (log(sigma / alpha) / 4) or ``"log_snr"`` (2 log(alpha / sigma)). By default
            ``"c_noise"`` for F, ``"sigma"`` for ve and edm, and ``"time"`` otherwise.
        beta_min, beta_max, offset, sigma_min, sigma_max, rho : float, optional
            Constants of the schedules that have them.
        time_clip : float, default 0.001
            Width of an interval at either end of time in which the field of the first three schedules is
            constant in time.
        sigma_data, num_timesteps : float and int, default 0.5 and 1000
            Deviation of the data, for F, and number of time steps of ``"timestep"`` and ``"index"``.
        device, dtype, num_classes, condition_dim, condition_name, gradients, max_batch, **extras
            As in :meth:`from_torch`. A TorchScript file takes a condition as its third argument, and no
            extras. A FlowTeacher takes none of these, since it has them already.

        Examples
        --------
        If all data are zero, the noise to predict is z / sigma:

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
            file = (model, event_shape, device or "cpu", dtype, conditioning)
            raw, twin = _torchscript(*file, convention="flow_matching")
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
    @attaching
    def from_diffusers(
        cls: type[Teacher],
        source: Any,
        *,
        scheduler: Any = None,
        event_shape: Sequence[int] | None = None,
        device: str | None = None,
        dtype: str | None = None,
        num_classes: int | None = None,
        condition_dim: int | None = None,
        condition_name: str | None = None,
        gradients: str = "autograd",
        max_batch: int | None = None,
        **extras: Any,
    ) -> Teacher:
        """Attach a model of the library diffusers, according to its scheduler's configuration.

        Models that predict noise, data or v, with any scheduler that has a table of betas, and EDM's networks
        become fields of the straight path x_t = t x1 + (1 - t) x0. Euler steps on it are those of DDIM.
        Flow-matching models are such fields already. Timesteps between those of the table are interpolated in
        log(sigma / alpha). docs/teachers.md lists the schedulers and the limitations. Nothing is downloaded.

        Parameters
        ----------
        source : path, pipeline or torch.nn.Module
            Folder that ``pipeline.save_pretrained`` or ``model.save_pretrained`` wrote, or the pipeline or
            model itself. Only the ``unet`` or ``transformer`` and the scheduler of a pipeline are used.
        scheduler : scheduler or path, optional
            Scheduler that the model was trained for, or a folder of one. By default that of the pipeline.
        event_shape : sequence of int, optional
            Shape of one sample, or of one latent. By default that of the model's configuration.
        device, dtype : str, optional
            As in :meth:`from_torch`. A model that is read from a folder is moved to the device.
        num_classes, condition_dim : int, optional
            As in :meth:`from_torch`. By default those of the configuration.
        condition_name, gradients, max_batch, **extras
            As in :meth:`from_torch`. ``encoder_hidden_states=`` is the embedding ``[1, L, D]`` of one text.

        Raises
        ------
        ArgumentError
            If the folder does not exist, the scheduler is missing, unknown or has an unknown
            ``prediction_type``, or the model needs a text.
        CheckpointError, ShapeError, TeacherError
            If files are damaged or not those of diffusers, the shape is unknown, or the model does not return
            a prediction.
        ImportError
            If ``source`` or ``scheduler`` is a folder and diffusers is not installed.

        Warns
        -----
        UserWarning
            If samples are latents, or a learned variance is ignored.

        Examples
        --------
        >>> teacher = FlowTeacher.from_diffusers("ddpm-cifar10-32")  # doctest: +SKIP
        """
        parts = parts_of(source, scheduler, device)
        options: dict[str, Any] = {"num_classes": num_classes, "condition_dim": condition_dim}
        options |= {"device": device, "dtype": dtype, "condition_name": condition_name}
        options |= {"gradients": gradients, "max_batch": max_batch, "extras": extras}
        attached = attached_diffusers(parts, event_shape, options)
        if attached.noise is None:
            return cls._around(attached.checked(), attached.twin)
        field = attached.field()
        names = f"{type(parts.scheduler).__name__} and {type(parts.model).__name__}"
        probe(field, f"{names} call model(x, timestep) with {sizes(field)}", attached)
        return cls._around(field, attached.twin)

    @classmethod
    def from_torchcfm(
        cls: type[Teacher],
        weights: str | PathLike[str] | Mapping[str, Any],
        event_shape: Sequence[int],
        *,
        heads: int = 1,
        head_channels: int | None = None,
        new_attention_order: bool = False,
        key: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> Teacher:
        """Convert a U-Net that torchcfm trained into a native teacher, which runs without Python.

        Everything except the attention heads is inferred from the names and shapes of the weights.

        Parameters
        ----------
        weights : path or mapping
            Weights: a safetensors file, a file of ``torch.save``, or the state dict of a ``UNetModel`` or
            ``UNetModelWrapper``.
        event_shape : sequence of int
            Shape of one image, ``(C, H, W)``.
        heads, head_channels, new_attention_order
            Values of the model's ``num_heads``, ``num_head_channels`` and ``use_new_attention_order``.
        key : str, optional
            Entry of a training checkpoint that holds the weights. By default the first that exists of
            ``"ema_model"``, ``"ema"``, ``"net_model"``, ``"model"`` and ``"state_dict"``.

        Raises
        ------
        FileNotFoundError, CheckpointError, ArgumentError
            If there is no such file, it holds no state dict, or the state dict is not that of a ``UNetModel``
            for such images.
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

    @classmethod
    @abstractmethod
    def _around(
        cls: type[Teacher],
        field: _core.VelocityField,
        twin: Callable[[], TeacherModule] | None = None,
        clock: Clock = UNIT,
        source: Any = "normal",
    ) -> Teacher:
        """A teacher of this field. ``twin`` makes its PyTorch module if the field has no stored form."""

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[misc]
        return (
            {**state, "_origin": None}
            if self._attached is None
            else {**state, "_field": None, "_attached": None}
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        if self._origin is not None:
            owner, method, arguments, keywords = self._origin
            other = getattr(owner, method)(*arguments, **keywords)
            self._field, self._attached, self._clock = other._field, other._attached, other._clock


def _diffusion_twin(model: Callable[[], TeacherModule], config: Mapping[str, Any]) -> TeacherModule:
    return DiffusionField(model(), config)


def _refuse(what: str, options: Mapping[str, Any]) -> None:
    """Raises ``ArgumentError`` for the first option that is set."""
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(f"{name}: expected nothing for {what}, got {value!r}")


def _torchscript(
    path: Any, event_shape: Sequence[int], device: Any, dtype: Any, conditioning: Conditioning, **asked: Any
) -> tuple[_core.VelocityField, Callable[[], TeacherModule]]:
    """The field of a file, which the core runs without Python, and a function that makes its module."""
    field = _core.VelocityField.torchscript(
        as_path(path),
        event_shape=checked_event_shape(event_shape),
        conditioning=conditioning.to_json(),
        device=name_of(device),
        dtype=None if dtype is None else name_of(dtype),
        **asked,
    )
    return field, partial(scripted_twin, path, event_shape, device, dtype, conditioning, **asked)
