"""Attaching PyTorch models: their calling conventions made into one function v(t, x, condition)."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from .. import _core
from ..exceptions import ArgumentError, TeacherError

Velocity: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

CONVENTIONS = {
    "torchcfm": "model(t, x)",
    "flow_matching": "model(x=x, t=t)",
    "diffusers": "model(x, timestep) with reversed time and output noise - data",
}
# model(x, noise), with the answer as it is: of diffusion models, see FlowTeacher.from_diffusion.
PREDICTION = "prediction"
CONDITION_NAMES = {"torchcfm": "y", "flow_matching": "y", "diffusers": "class_labels"}


def attach(
    model: Callable[..., Any],
    event_shape: Sequence[int],
    *,
    convention: str,
    device: str,
    dtype: str,
    conditioning: str,
    condition_name: str | None,
    timestep_scale: float,
    extras: dict[str, Any],
) -> _core.VelocityField:
    """The field of a PyTorch model, checked on a batch of two.

    Raises
    ------
    TeacherError
        When the model does not answer as its convention says.
    """
    if convention not in CONVENTIONS:
        names = ", ".join(map(repr, CONVENTIONS))
        raise ArgumentError(f"convention: expected one of {names}, got {convention!r}")
    if not callable(model):
        raise TypeError(f"model: expected a torch.nn.Module or a function, got {type(model).__name__}")
    device = found_device(device)
    function = velocity_function(
        model,
        convention,
        condition_name=condition_name or CONDITION_NAMES[convention],
        timestep_scale=timestep_scale,
        extras=extras,
    )
    check(function, tuple(event_shape), convention, device, dtype, conditioning)
    return field_of(function, event_shape, device=device, dtype=dtype, conditioning=conditioning)


def attach_prediction(
    model: Callable[..., Any],
    event_shape: Sequence[int],
    *,
    device: str,
    dtype: str,
    conditioning: str,
    condition_name: str | None,
    extras: dict[str, Any],
) -> _core.VelocityField:
    """The field of a diffusion model's raw prediction, ``model(x, noise)``. Not tried: it depends on the
    schedule what noise it expects."""
    if not callable(model):
        raise TypeError(
            "model: expected a torch.nn.Module, a function, a FlowTeacher or the path of a TorchScript file, "
            f"got {type(model).__name__}"
        )
    if condition_name is None:
        condition_name = "class_labels" if _names(model, "class_labels") else "y"
    function = velocity_function(
        model, PREDICTION, condition_name=condition_name, timestep_scale=1.0, extras=extras
    )
    return field_of(
        function, event_shape, device=found_device(device), dtype=dtype, conditioning=conditioning
    )


def field_of(
    function: Velocity, event_shape: Sequence[int], *, device: str, dtype: str, conditioning: str
) -> _core.VelocityField:
    """The field of a function and of its vector-Jacobian product by autograd."""

    def evaluate(t: torch.Tensor, x: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            return function(t, x, condition)

    def vjp(
        t: torch.Tensor, x: torch.Tensor, cotangent: torch.Tensor, condition: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            v = function(t, x, condition)
            # A velocity that does not depend on x carries no graph at all.
            (product,) = (
                torch.autograd.grad(v, x, cotangent, allow_unused=True) if v.requires_grad else (None,)
            )
        return v.detach(), torch.zeros_like(x) if product is None else product

    return _core.VelocityField.callable(
        evaluate,
        vjp,
        event_shape=tuple(event_shape),
        conditioning=conditioning,
        device=device,
        dtype=dtype,
        label="torch",
    )


def home_of(model: Callable[..., Any]) -> tuple[str, str]:
    """The device and the dtype of a model's parameters; ``("cpu", "float32")`` where it has none.

    Half precision models get their input in half precision, but the flow is solved in float32.
    """
    if isinstance(model, torch.nn.Module):
        for parameter in model.parameters():
            dtype = "float64" if parameter.dtype == torch.float64 else "float32"
            return str(parameter.device), dtype
    return "cpu", "float32"


def velocity_function(
    model: Callable[..., Any],
    convention: str,
    *,
    condition_name: str,
    timestep_scale: float,
    extras: dict[str, Any],
) -> Velocity:
    """v(t, x, condition) in koopflow's time and sign, whatever the model's."""
    dtype = None
    if isinstance(model, torch.nn.Module):
        dtype = next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), None)
    by_keyword = (convention == "diffusers" and _takes_keyword(model, "timestep")) or (
        convention == PREDICTION and _names(model, "timestep")
    )

    def velocity(t: torch.Tensor, x: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        answer_dtype = x.dtype
        if dtype is not None:
            # Discrete steps stay integers.
            t, x = t.to(dtype) if t.is_floating_point() else t, x.to(dtype)
        named = dict(extras) if condition is None else {condition_name: condition, **extras}
        if convention == "torchcfm":
            answer = model(t, x, **named)
        elif convention == "flow_matching":
            answer = model(x=x, t=t, **named)
        elif convention == PREDICTION:
            answer = model(x, timestep=t, **named) if by_keyword else model(x, t, **named)
        else:
            timestep = timestep_scale * (1.0 - t)
            answer = model(x, timestep=timestep, **named) if by_keyword else model(x, timestep, **named)
            # dx/ds = noise - data in diffusers' time s = 1 - t, so dx/dt has the other sign.
            answer = -_tensor_of(answer)
        answer = _tensor_of(answer)
        return answer.to(answer_dtype) if answer.is_floating_point() else answer

    return velocity


def check(
    function: Velocity,
    event_shape: tuple[int, ...],
    convention: str,
    device: str,
    dtype: str,
    conditioning: str,
) -> None:
    """Try a model on a batch of two, and say what came back when it is not a velocity."""
    target_dtype = torch.float64 if dtype == "float64" else torch.float32
    x = torch.from_numpy(_core.normal((2, *event_shape), 0)).to(device=device, dtype=target_dtype)
    t = torch.tensor([0.25, 0.75], device=device, dtype=target_dtype)
    condition = _probe_condition(conditioning, device, target_dtype)
    tried = (
        f"convention {convention!r} calls {CONVENTIONS[convention]} with x {tuple(x.shape)} and t (2,), "
        f"{dtype} on {device}"
    )
    try:
        with torch.no_grad():
            v, again = function(t, x, condition), function(t, x, condition)
    except Exception as error:
        raise TeacherError(f"{tried}; the model raised {type(error).__name__}: {error}") from error
    if v.shape != x.shape:
        raise TeacherError(f"{tried}; expected a velocity {tuple(x.shape)}, got {tuple(v.shape)}")
    if v.dtype != x.dtype:
        raise TeacherError(f"{tried}; expected a {dtype} velocity, got {str(v.dtype).removeprefix('torch.')}")
    if v.device != x.device:
        raise TeacherError(f"{tried}; expected a velocity on {device}, got one on {v.device}")
    if not bool(torch.isfinite(v).all()):
        raise TeacherError(
            f"{tried}; expected finite values, got {int((~torch.isfinite(v)).sum())} that are not"
        )
    if not torch.allclose(v, again, rtol=1e-3, atol=1e-4):
        raise TeacherError(
            f"{tried}; two calls on the same batch gave different velocities: a module with dropout must "
            "be in evaluation mode (model.eval()) before it is attached"
        )


def probe(field: _core.VelocityField, tried: str) -> None:
    """Try a field on a batch of two, and say what was tried and what came back when it is no velocity."""
    x = _core.normal((2, *field.event_shape), 0)
    t = np.array([0.25, 0.75])
    condition = _probe_condition(field.conditioning, "cpu", torch.float32)
    try:
        v, again = field.velocity(t, x, condition), field.velocity(t, x, condition)
    except TeacherError as error:
        raise TeacherError(f"{tried}; {error}") from (error.__cause__ or error)
    if not np.allclose(v, again, rtol=1e-3, atol=1e-4):
        raise TeacherError(f"{tried}; two calls on the same batch gave different velocities")


def found_device(device: str) -> str:
    """``"auto"`` as the device that it stands for."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def conditioning_json(num_classes: int | None, condition_dim: int | None) -> str:
    """What a field is conditioned on, in the form of the core."""
    if num_classes is not None and condition_dim is not None:
        raise ArgumentError("expected at most one of num_classes and condition_dim, got both")
    for name, value in (("num_classes", num_classes), ("condition_dim", condition_dim)):
        if value is not None and value < 1:
            raise ArgumentError(f"{name}: expected at least 1, got {value}")
    if num_classes is not None:
        return json.dumps({"labels": {"classes": num_classes}})
    if condition_dim is not None:
        return json.dumps({"vector": {"dim": condition_dim}})
    return json.dumps("none")


def _probe_condition(conditioning: str, device: str, dtype: torch.dtype) -> torch.Tensor | None:
    kind = json.loads(conditioning)
    if kind == "none":
        return None
    if "labels" in kind:
        return torch.zeros(2, dtype=torch.int64, device=device)
    return torch.zeros(2, kind["vector"]["dim"], dtype=dtype, device=device)


def _tensor_of(answer: Any) -> torch.Tensor:
    """The tensor in a model's answer: itself, ``answer.sample``, or the first of a tuple."""
    if isinstance(answer, torch.Tensor):
        return answer
    inner = getattr(answer, "sample", None)
    if isinstance(inner, torch.Tensor):
        return inner
    if isinstance(answer, tuple | list) and answer and isinstance(answer[0], torch.Tensor):
        return answer[0]
    raise TypeError(f"expected a torch.Tensor, got {type(answer).__name__}")


def _takes_keyword(model: Callable[..., Any], name: str) -> bool:
    return _names(model, name) or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _parameters(model))


def _names(model: Callable[..., Any], name: str) -> bool:
    # A name bound positionally only would clash with the keyword.
    return any(p.name == name and p.kind is not inspect.Parameter.POSITIONAL_ONLY for p in _parameters(model))


def _parameters(model: Callable[..., Any]) -> list[inspect.Parameter]:
    target = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return []
