"""Fields of models that were trained elsewhere; :class:`koopflow.FlowTeacher` documents what they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from .. import _core
from .._arrays import checked_event_shape
from .._conditioning import Conditioning
from ..exceptions import ArgumentError
from ..options import to_json
from .torch_models import (
    CONVENTIONS,
    PREDICTION,
    Home,
    check,
    check_mode,
    probe,
    probe_size,
    velocity_function,
)


def from_torch(
    model: Callable[..., Any],
    event_shape: Sequence[int],
    *,
    convention: str,
    device: str | None,
    dtype: str | None,
    conditioning: Conditioning,
    condition_name: str | None,
    timestep_scale: float,
    extras: Mapping[str, Any],
) -> _core.VelocityField:
    """The field of a PyTorch model, checked on a few samples."""
    _check_convention(convention)
    if not callable(model):
        raise TypeError(f"model: expected a torch.nn.Module or a function, got {type(model).__name__}")
    check_mode(model)
    home = Home.of(model, checked_event_shape(event_shape), device, dtype, conditioning)
    function = velocity_function(
        model, convention, condition_name=condition_name, timestep_scale=timestep_scale, extras=extras
    )
    check(function, home, convention)
    return home.field_of(function)


def from_torchscript(
    path: str | PathLike[str],
    event_shape: Sequence[int],
    *,
    convention: str,
    device: str,
    dtype: str | None,
    conditioning: Conditioning,
    timestep_scale: float,
) -> _core.VelocityField:
    """The field of a TorchScript file, checked on a few samples."""
    _check_convention(convention)
    field = _core.VelocityField.torchscript(
        fspath(path),
        event_shape=checked_event_shape(event_shape),
        convention=convention,
        timestep_scale=timestep_scale,
        conditioning=conditioning.to_json(),
        device=str(device),
        dtype=dtype,
    )
    order = {"torchcfm": "t, x", "flow_matching": "x, t", "diffusers": "x, timestep"}[convention]
    third = ", condition" if conditioning else ""
    called = f"convention {convention!r} calls forward({order}{third}) with {_sizes(field, 't')}"
    probe(field, f"{fspath(path)}: {called}")
    return field


def from_diffusion(
    model: Callable[..., Any] | _core.VelocityField | str | PathLike[str],
    event_shape: Sequence[int] | None,
    *,
    parametrisation: str,
    schedule: Mapping[str, Any],
    noise_argument: str | None,
    sigma_data: float,
    num_timesteps: int,
    device: str | None,
    dtype: str | None,
    conditioning: Conditioning,
    condition_name: str | None,
    extras: Mapping[str, Any],
) -> _core.VelocityField:
    """The probability-flow field of a diffusion model, checked on a few samples."""
    options = {
        "device": device,
        "dtype": dtype,
        "num_classes": conditioning.classes,
        "condition_dim": conditioning.dim,
        "condition_name": condition_name,
        **extras,
    }
    if isinstance(model, _core.VelocityField):
        _refuse("a FlowTeacher", options)
        if event_shape is not None and checked_event_shape(event_shape) != tuple(model.event_shape):
            raise ArgumentError(f"event_shape: expected the teacher's {model.event_shape}, got {event_shape}")
        raw = model
    elif event_shape is None:
        raise ArgumentError("event_shape: expected the shape of one sample, got None")
    elif isinstance(model, str | PathLike):
        _refuse("a TorchScript file", {"condition_name": condition_name, **extras})
        raw = _core.VelocityField.torchscript(
            fspath(model),
            event_shape=checked_event_shape(event_shape),
            convention="flow_matching",
            conditioning=conditioning.to_json(),
            device="cpu" if device is None else str(device),
            dtype=dtype,
        )
    elif not callable(model):
        raise TypeError(
            "model: expected a torch.nn.Module, a function, a FlowTeacher or the path of a TorchScript file, "
            f"got {type(model).__name__}"
        )
    else:
        check_mode(model)
        home = Home.of(model, checked_event_shape(event_shape), device, dtype, conditioning)
        raw = home.field_of(
            velocity_function(
                model, PREDICTION, condition_name=condition_name, timestep_scale=1.0, extras=extras
            )
        )
    config = {
        "parametrisation": parametrisation,
        "schedule": {name: value for name, value in schedule.items() if value is not None},
        "noise_argument": noise_argument,
        "sigma_data": sigma_data,
        "num_timesteps": num_timesteps,
    }
    field = _core.VelocityField.diffusion(raw, to_json(config))
    kinds = f"schedule {schedule['name']!r} and parametrisation {parametrisation!r}"
    probe(field, f"{kinds} call model(x, noise) with {_sizes(field, 'noise')}")
    return field


def _check_convention(convention: str) -> None:
    if convention not in CONVENTIONS:
        names = ", ".join(map(repr, CONVENTIONS))
        raise ArgumentError(f"convention: expected one of {names}, got {convention!r}")


def _sizes(field: _core.VelocityField, time: str) -> str:
    n = probe_size(tuple(field.event_shape))
    return f"x {(n, *field.event_shape)} and {time} ({n},), {field.dtype} on {field.device}"


def _refuse(what: str, options: Mapping[str, Any]) -> None:
    """Raises ``ArgumentError`` for the first option that is set."""
    for name, value in options.items():
        if value is not None:
            raise ArgumentError(f"{name}: expected nothing for {what}, got {value!r}")
