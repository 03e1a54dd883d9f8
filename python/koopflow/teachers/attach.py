"""Teachers that come from elsewhere: PyTorch models, TorchScript files, diffusion models."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from .. import _core
from ..exceptions import ArgumentError
from .flow import Flow, checked_event_shape
from .torch_models import attach, attach_prediction, conditioning_json, home_of, probe

if TYPE_CHECKING:
    from typing_extensions import Self


class AttachedTeachers(Flow):
    """The constructors of :class:`koopflow.FlowTeacher` for models that were trained elsewhere."""

    @classmethod
    @abstractmethod
    def _around(cls, field: _core.VelocityField) -> Self:
        """A teacher that is this field."""

    @classmethod
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
        **extras: Any,
    ) -> Self:
        """Attach a PyTorch module or function, in one of the field's three conventions.

        ``"torchcfm"``
            ``model(t, x)``, time 0 is noise, answers data - noise.
        ``"flow_matching"``
            ``model(x=x, t=t)``, the same time and sign (facebookresearch/flow_matching).
        ``"diffusers"``
            ``model(x, timestep)`` with ``timestep = timestep_scale * (1 - t)``, answers noise - data, as it
            is, in ``.sample`` or as the first of a tuple (flow-matching models of Hugging Face diffusers).

        Parameters
        ----------
        model : torch.nn.Module or callable
            Called with t ``[B]`` and x ``[B, *event]`` on ``device``. A module belongs in evaluation mode.
        event_shape : sequence of int
            The shape of one sample.
        convention : {"torchcfm", "flow_matching", "diffusers"}, default "torchcfm"
            How the model is called and what it answers.
        device, dtype : str, optional
            None takes those of the module's parameters, ``"cpu"`` and ``"float32"`` where it has none.
        num_classes, condition_dim : int, optional
            The model takes labels ``[B]`` or vectors ``[B, condition_dim]``.
        condition_name : str, optional
            The keyword that passes the condition; ``"y"`` by default, ``"class_labels"`` for diffusers.
        timestep_scale : float, default 1000
            For ``"diffusers"`` only.
        **extras
            Passed to the model at every call.

        Raises
        ------
        TeacherError
            When a batch of two does not come back as a finite velocity ``[2, *event]``: it says which
            convention was tried and what came back, with the model's own exception as its cause.

        Examples
        --------
        >>> import torch
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.from_torch(lambda t, x: 1.0 - x, event_shape=(2,))
        >>> teacher.velocity(0.5, torch.zeros(1, 2))
        tensor([[1., 1.]])
        """
        event_shape = checked_event_shape(event_shape)
        conditioning = conditioning_json(num_classes, condition_dim)
        home_device, home_dtype = home_of(model)
        field = attach(
            model,
            event_shape,
            convention=convention,
            device=device or home_device,
            dtype=dtype or home_dtype,
            conditioning=conditioning,
            condition_name=condition_name,
            timestep_scale=timestep_scale,
            extras=extras,
        )
        return cls._around(field)

    @classmethod
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
    ) -> Self:
        """Load a model that ``torch.jit.save`` wrote. It runs without Python.

        The conventions are those of :meth:`from_torch`, with positional arguments:

        ``"torchcfm"``
            ``forward(t, x)``, time 0 is noise, answers data - noise.
        ``"flow_matching"``
            ``forward(x, t)``, the same time and sign.
        ``"diffusers"``
            ``forward(x, timestep)`` with ``timestep = timestep_scale * (1 - t)``, answers noise - data.

        A condition comes third. The answer is a tensor, or a tuple or list that begins with one. The module
        is put into evaluation mode.

        Parameters
        ----------
        path : str or path
            Of the file. A TorchScript file is a program: load those that you trust.
        event_shape : sequence of int
            The shape of one sample.
        convention : {"torchcfm", "flow_matching", "diffusers"}, default "torchcfm"
            The order of arguments and what is answered.
        device : str, default "cpu"
            Where the module is loaded to.
        dtype : str, optional
            Of the flow; None takes ``"float64"`` where the module's parameters are so, else ``"float32"``.
        num_classes, condition_dim : int, optional
            The module takes labels ``[B]`` or vectors ``[B, condition_dim]``.
        timestep_scale : float, default 1000
            For ``"diffusers"`` only.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        CheckpointError
            When the file is not a whole TorchScript module.
        TeacherError
            When a batch of two does not come back as a finite velocity ``[2, *event]``: it says what was
            tried and what came back.

        Examples
        --------
        >>> import torch
        >>> from koopflow import FlowTeacher
        >>> class Model(torch.nn.Module):
        ...     def forward(self, t, x):
        ...         return t[:, None] - x
        >>> module = torch.jit.trace(Model(), (torch.zeros(2), torch.zeros(2, 2)))  # doctest: +SKIP
        >>> module.save("teacher.pt")  # doctest: +SKIP
        >>> teacher = FlowTeacher.from_torchscript("teacher.pt", event_shape=(2,))  # doctest: +SKIP
        """
        event_shape = checked_event_shape(event_shape)
        field = _core.VelocityField.torchscript(
            fspath(path),
            event_shape=event_shape,
            convention=convention,
            timestep_scale=timestep_scale,
            conditioning=conditioning_json(num_classes, condition_dim),
            device=device,
            dtype=dtype,
        )
        order = {"torchcfm": "t, x", "flow_matching": "x, t", "diffusers": "x, timestep"}[convention]
        third = "" if num_classes is None and condition_dim is None else ", condition"
        probe(
            field,
            f"{fspath(path)}: convention {convention!r} calls forward({order}{third}) with "
            f"x {(2, *event_shape)} and t (2,), {field.dtype} on {field.device}",
        )
        return cls._around(field)

    @classmethod
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
        **extras: Any,
    ) -> Self:
        """Turn a diffusion model into a velocity field, by its probability-flow ODE (Song et al. 2011.13456).

        The model sees z = alpha x1 + sigma x0 of data x1 and noise x0, and one number that tells the noise.
        With r = 1 - t, t being koopflow's time:

        ``schedule="vp"``
            alpha^2 = exp(-beta_min r - (beta_max - beta_min) r^2 / 2), sigma^2 = 1 - alpha^2 (DDPM's linear
            beta; 0.1 and 20 by default).
        ``schedule="scaled_linear"``
            The same with a root of beta that rises linearly (latent diffusion; 0.85 and 12).
        ``schedule="cosine"``
            alpha = cos(u(r)) / cos(u(0)), u(r) = (pi / 2) (r + offset) / (1 + offset) (Nichol and Dhariwal
            2102.09672; 0.008).
        ``schedule="ve"``
            alpha = 1, sigma = sigma_max (sigma_min / sigma_max)^t (0.01 and 50).
        ``schedule="edm"``
            alpha = 1, sigma^(1 / rho) linear in t from sigma_max's to sigma_min's (Karras et al. 2206.00364;
            0.002, 80 and 7).

        The teacher's state is x = z for the first three. For ``"ve"`` and ``"edm"`` it is x = z / c with
        c^2 = 1 + k (sigma^2 - sigma_min^2), k = (sigma_max^2 - 1) / (sigma_max^2 - sigma_min^2), which is
        nearly 1 + sigma^2: it starts as N(0, I) at t = 0 and is z itself at t = 1. With a = alpha / c and s =
        sigma / c, v = a' E[x1|x] + s' E[x0|x], of which every prediction gives both expectations.

        As in the models themselves, the ends are nearly reached: at t = 0 a share a of the data is left
        (0.0066, 0.069, 0.0016, 1 / sigma_max, 1 / sigma_max) that N(0, I) does not have, and at t = 1 noise
        of deviation sigma_min, or at most sigma(time_clip).

        Parameters
        ----------
        model : torch.nn.Module, callable, FlowTeacher, str or path
            ``model(z, noise)`` with z ``[B, *event]`` and noise ``[B]`` answers the prediction, as it is, in
            ``.sample`` or as the first of a tuple; or the path of a TorchScript file that does; or a teacher
            whose velocity(noise, z) is the prediction.
        event_shape : sequence of int, optional
            The shape of one sample; a FlowTeacher knows its own.
        parametrisation : {"eps", "score", "x0", "v", "F"}, default "eps"
            What the model predicts: the noise; the score of z; the data (a denoiser, as a preconditioned EDM
            network is); (alpha x0 - sigma x1) / sqrt(alpha^2 + sigma^2) (Salimans and Ho 2202.00512); or
            EDM's raw network F before preconditioning (Karras et al., eq. 7), for data of deviation
            ``sigma_data``.
        schedule : {"vp", "scaled_linear", "cosine", "ve", "edm"}, default "vp"
            See above.
        noise_argument : str, optional
            What the model is told: ``"time"`` (r), ``"timestep"`` ((num_timesteps - 1) r), ``"index"`` (the
            same rounded, int64), ``"sigma"`` (sigma / alpha), ``"c_noise"`` (log(sigma / alpha) / 4) or
            ``"log_snr"`` (2 log(alpha / sigma)). None takes ``"c_noise"`` for F, ``"sigma"`` for ve and edm,
            else ``"time"``.
        beta_min, beta_max, offset, sigma_min, sigma_max, rho : float, optional
            Of the schedule that has them.
        time_clip : float, default 0.001
            For the first three schedules: the field stands still in time within this distance of either end,
            where sigma has an infinite slope or no data is left.
        sigma_data : float, default 0.5
            Of F alone.
        num_timesteps : int, default 1000
            Of ``"timestep"`` and ``"index"``.
        device, dtype, num_classes, condition_dim, condition_name, **extras
            As in :meth:`from_torch`; a condition is named ``class_labels`` where the model has such an
            argument, ``y`` otherwise. A TorchScript file takes it third, and takes no extras; a FlowTeacher
            has all of these already.

        Raises
        ------
        ArgumentError
            For an unknown option or one that the schedule does not have.
        TeacherError
            When a batch of two does not come back as a finite prediction ``[2, *event]``.
        FileNotFoundError, CheckpointError
            As in :meth:`from_torchscript`.

        Examples
        --------
        The noise predicted by a model of data that are all zero is z / sigma:

        >>> import torch
        >>> from koopflow import FlowTeacher
        >>> teacher = FlowTeacher.from_diffusion(lambda z, sigma: z / sigma[:, None], (2,), schedule="edm")
        >>> float(abs(teacher.sample(100)).max()) < 0.01
        True
        """
        settings = {
            "beta_min": beta_min,
            "beta_max": beta_max,
            "offset": offset,
            "time_clip": time_clip,
            "sigma_min": sigma_min,
            "sigma_max": sigma_max,
            "rho": rho,
        }
        config = {
            "parametrisation": parametrisation,
            "schedule": {"name": schedule, **{k: v for k, v in settings.items() if v is not None}},
            "noise_argument": noise_argument,
            "sigma_data": sigma_data,
            "num_timesteps": num_timesteps,
        }
        options = {
            "device": device,
            "dtype": dtype,
            "num_classes": num_classes,
            "condition_dim": condition_dim,
            "condition_name": condition_name,
        }
        raw = raw_prediction(model, event_shape, options, extras)
        field = _core.VelocityField.diffusion(raw, json.dumps(config))
        probe(
            field,
            f"schedule {schedule!r} and parametrisation {parametrisation!r} call model(x, noise) with "
            f"x {(2, *field.event_shape)} and noise (2,), {field.dtype} on {field.device}",
        )
        return cls._around(field)


def raw_prediction(
    model: Callable[..., Any] | Flow | str | PathLike[str],
    event_shape: Sequence[int] | None,
    options: dict[str, Any],
    extras: dict[str, Any],
) -> _core.VelocityField:
    """The field that answers a diffusion model's prediction, wherever the model comes from."""
    if isinstance(model, Flow):
        refuse_options("a FlowTeacher", {**options, **extras})
        if event_shape is not None and checked_event_shape(event_shape) != model.event_shape:
            raise ArgumentError(f"event_shape: expected the teacher's {model.event_shape}, got {event_shape}")
        return model.field
    if event_shape is None:
        raise ArgumentError("event_shape: expected the shape of one sample, got None")
    event_shape = checked_event_shape(event_shape)
    conditioning = conditioning_json(options["num_classes"], options["condition_dim"])
    if isinstance(model, str | PathLike):
        refuse_options("a TorchScript file", {"condition_name": options["condition_name"], **extras})
        return _core.VelocityField.torchscript(
            fspath(model),
            event_shape=event_shape,
            convention="flow_matching",
            conditioning=conditioning,
            device=options["device"] or "cpu",
            dtype=options["dtype"],
        )
    device, dtype = home_of(model)
    return attach_prediction(
        model,
        event_shape,
        device=options["device"] or device,
        dtype=options["dtype"] or dtype,
        conditioning=conditioning,
        condition_name=options["condition_name"],
        extras=extras,
    )


def refuse_options(what: str, options: dict[str, Any]) -> None:
    """Raise ``ArgumentError`` for the first option that is set."""
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(f"{name}: expected nothing for {what}, got {value!r}")
