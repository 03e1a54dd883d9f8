"""PyTorch models as velocity fields: their calling conventions made into one function v(t, x, condition)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from .. import _core
from .._arrays import checked_event_shape
from .._conditioning import Conditioning
from ..exceptions import DeviceError, TeacherError
from ..options import name_of

Velocity: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]

CONVENTIONS = {
    "torchcfm": "model(t, x)",
    "flow_matching": "model(x=x, t=t)",
    "diffusers": "model(x, timestep) with reversed time and output noise - data",
}
# Diffusion models, model(x, noise), with the answer as it is: see FlowTeacher.from_diffusion.
PREDICTION = "prediction"


@dataclass(frozen=True)
class Home:
    """Where and in what precision a model is asked: device and dtype by name."""

    event_shape: tuple[int, ...]
    device: str
    dtype: str
    conditioning: Conditioning

    @classmethod
    def of(
        cls,
        model: Callable[..., Any],
        event_shape: Sequence[int],
        device: str | None,
        dtype: str | None,
        conditioning: Conditioning,
    ) -> Home:
        """Those of the model's parameters, unless they are given; half precision is solved in float32."""
        if not callable(model):
            raise TypeError(
                "model: expected a torch.nn.Module, a function or, for from_diffusion, a FlowTeacher or the "
                f"path of a TorchScript file, got {type(model).__name__}"
            )
        check_mode(model)
        parameters = model.parameters() if isinstance(model, torch.nn.Module) else iter(())
        first = next(parameters, torch.empty(0))
        if device is None:
            device = str(first.device)
        elif str(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.zeros(1, device=device).item()
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise DeviceError(f"device: expected one of this machine, got {device!s}: {reason}") from error
        if dtype is None:
            dtype = "float64" if first.dtype == torch.float64 else "float32"
        return cls(checked_event_shape(event_shape), str(device), name_of(dtype), conditioning)

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float64 if self.dtype == "float64" else torch.float32

    def field_of(self, function: Velocity) -> _core.VelocityField:
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
                (product,) = (
                    torch.autograd.grad(v, x, cotangent, allow_unused=True) if v.requires_grad else (None,)
                )
            if product is None:
                # No graph: either v does not depend on x at all, or the model cut it.
                with torch.no_grad():
                    moved = function(t, x + 1e-2 * (1.0 + x.abs()), condition)
                if not torch.allclose(moved, v):
                    raise RuntimeError(
                        "the model's answer depends on x but carries no gradient: it runs under no_grad or "
                        "inference_mode, or detaches its answer, so that densities cannot be computed"
                    )
                product = torch.zeros_like(x)
            return v.detach(), product

        return _core.VelocityField.callable(
            evaluate,
            vjp,
            event_shape=self.event_shape,
            conditioning=self.conditioning.to_json(),
            device=self.device,
            dtype=self.dtype,
            label="torch",
        )


def velocity_function(
    model: Callable[..., Any],
    convention: str,
    *,
    condition_name: str | None,
    extras: Mapping[str, Any],
    timestep_scale: float = 1.0,
) -> Velocity:
    """v(t, x, condition) in koopflow's time and sign, whatever the model's; or a prediction as it is."""
    if condition_name is None:
        labels = convention == "diffusers" or (convention == PREDICTION and _names(model, "class_labels"))
        condition_name = "class_labels" if labels else "y"
    dtype = None
    if isinstance(model, torch.nn.Module):
        dtype = next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), None)
    by_keyword = (convention == "diffusers" and _takes_keyword(model, "timestep")) or (
        convention == PREDICTION and _names(model, "timestep")
    )
    # Timesteps near 1000 would be off by units in half precision; models embed them in float32 themselves.
    time_dtype = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
    in_steps = convention in ("diffusers", PREDICTION)

    def velocity(t: torch.Tensor, x: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        answer_dtype = x.dtype
        if convention == "diffusers":
            t = timestep_scale * (1.0 - t)
        if dtype is not None:
            x = x.to(dtype)
            # Discrete steps stay integers.
            t = t.to(time_dtype if in_steps else dtype) if t.is_floating_point() else t
        named = dict(extras) if condition is None else {condition_name: condition, **extras}
        if convention == "torchcfm":
            answer = model(t, x, **named)
        elif convention == "flow_matching":
            answer = model(x=x, t=t, **named)
        else:
            answer = model(x, timestep=t, **named) if by_keyword else model(x, t, **named)
        answer = _tensor_of(answer)
        # dx/ds = noise - data in diffusers' time s = 1 - t, so dx/dt has the other sign.
        answer = -answer if convention == "diffusers" else answer
        return answer.to(answer_dtype) if answer.is_floating_point() else answer

    return velocity


def check(function: Velocity, home: Home, convention: str) -> None:
    """Try a model on a few samples. Raises ``TeacherError`` that says what came back if it is no velocity."""
    n = probe_size(home.event_shape)
    x = torch.from_numpy(_core.normal((n, *home.event_shape), 0)).to(home.device, home.torch_dtype)
    t = torch.linspace(0.25, 0.75, n, device=home.device, dtype=home.torch_dtype)
    condition = probe_condition(home.conditioning, n)
    if condition is not None:
        condition = condition.to(home.device)
        condition = condition.to(home.torch_dtype) if condition.is_floating_point() else condition
    tried = (
        f"convention {convention!r} calls {CONVENTIONS[convention]} with x {tuple(x.shape)} and t ({n},), "
        f"{home.dtype} on {home.device}"
    )
    try:
        with torch.no_grad():
            v, again = function(t, x, condition), function(t, x, condition)
    except Exception as error:
        raise TeacherError(f"{tried}; the model raised {type(error).__name__}: {error}") from error
    if v.shape != x.shape:
        raise TeacherError(f"{tried}; expected a velocity {tuple(x.shape)}, got {tuple(v.shape)}")
    if v.dtype != x.dtype:
        got = str(v.dtype).removeprefix("torch.")
        raise TeacherError(f"{tried}; expected a {home.dtype} velocity, got {got}")
    if v.device != x.device:
        raise TeacherError(f"{tried}; expected a velocity on {home.device}, got one on {v.device}")
    if not bool(torch.isfinite(v).all()):
        bad = int((~torch.isfinite(v)).sum())
        raise TeacherError(f"{tried}; expected finite values, got {bad} that are not")
    if not torch.allclose(v, again, rtol=1e-3, atol=1e-4):
        raise TeacherError(
            f"{tried}; two calls on the same batch gave different velocities: a module with dropout must "
            "be in evaluation mode (model.eval()) before it is attached"
        )


def check_mode(model: Callable[..., Any]) -> None:
    """Raises ``TeacherError`` for batch norms in training mode: velocities would depend on the batch."""
    for name, part in model.named_modules() if isinstance(model, torch.nn.Module) else ():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.training:
            raise TeacherError(
                f"model: {name or 'it'} is a batch norm in training mode, so that the velocity of a sample "
                "would depend on its batch: call model.eval() first"
            )


def probe(field: _core.VelocityField, tried: str) -> None:
    """Try a field on a few samples. Raises ``TeacherError`` that says what was tried and what came back."""
    n = probe_size(field.event_shape)
    x, t = _core.normal((n, *field.event_shape), 0), np.linspace(0.25, 0.75, n)
    condition = probe_condition(Conditioning.of(field), n)
    try:
        v, again = field.velocity(t, x, condition), field.velocity(t, x, condition)
    except TeacherError as error:
        raise TeacherError(f"{tried}; {error}") from (error.__cause__ or error)
    if not np.allclose(v, again, rtol=1e-3, atol=1e-4):
        raise TeacherError(f"{tried}; two calls on the same batch gave different velocities")


def sizes(field: _core.VelocityField, time: str = "t") -> str:
    """What :func:`probe` asks, for messages."""
    n = probe_size(tuple(field.event_shape))
    return f"x {(n, *field.event_shape)} and {time} ({n},), {field.dtype} on {field.device}"


def probe_size(event_shape: tuple[int, ...]) -> int:
    """A number of samples that is no length of an event, which times of that number would broadcast to."""
    return next(n for n in (2, 3, 5, 7, 11, 13) if n not in event_shape)


def probe_condition(conditioning: Conditioning, n: int) -> torch.Tensor | None:
    """A condition for ``n`` samples."""
    if conditioning.classes is not None:
        return torch.zeros(n, dtype=torch.int64)
    return None if conditioning.dim is None else torch.zeros(n, conditioning.dim)


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
    """What a model takes, without the wrappers that hide it behind ``*args, **kwargs``."""
    while (inner := _wrapped(model)) is not None:
        model = inner
    return _own_parameters(model)


def _own_parameters(model: Callable[..., Any]) -> list[inspect.Parameter]:
    target = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return []


def _wrapped(model: Callable[..., Any]) -> Callable[..., Any] | None:
    """What a partial, torch.compile, DataParallel, DistributedDataParallel or AveragedModel wraps."""
    if isinstance(model, functools.partial):
        function: Callable[..., Any] = model.func
        return function
    inner = getattr(model, "_orig_mod", getattr(model, "module", None))
    if not (isinstance(model, torch.nn.Module) and isinstance(inner, torch.nn.Module)):
        return None
    hides = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in _own_parameters(model))
    return inner if hides else None
