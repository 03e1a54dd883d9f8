"""PyTorch models as velocity fields: all calling conventions as one function v(t, x, condition)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .._arrays import StrOrBytesPath, as_path, as_times, checked_count, checked_event_shape
from .._clock import UNIT, Clock
from .._conditioning import Conditioning
from ..exceptions import ArgumentError, CheckpointError, TeacherError
from ..options import name_of
from ..twins.inputs import Conditions
from ..twins.teacher import AttachedField

Condition: TypeAlias = Tensor | None
Tensors: TypeAlias = tuple[Tensor, ...]

CONVENTIONS = {
    "torchcfm": "model(t, x)",
    "flow_matching": "model(x=x, t=t)",
    "diffusers": "model(x, timestep) with reversed time and output noise - data",
}
# Convention of diffusion models, model(x, noise). Their output is not converted: see from_diffusion.
PREDICTION = "prediction"
# Usual names of the condition, besides that of the convention.
CONDITION_NAMES = ("y", "class_labels", "labels", "label", "classes", "cond", "condition", "c", "context")
HALF = (torch.bfloat16, torch.float16)
FLOATS = (torch.float32, torch.float64, *HALF)


@dataclasses.dataclass
class TorchModel:
    """A PyTorch model as v(t, x, condition).

    The model is called in evaluation mode, on its current device, in its current precision and in batches
    that fit into memory. :meth:`koopflow.FlowTeacher.from_torch` documents the options.
    """

    model: Any
    event_shape: Sequence[int]
    convention: str
    conditioning: Conditioning
    device: Any = None
    dtype: Any = None
    condition_name: str | None = None
    timestep_scale: float = 1.0
    whole_timesteps: bool = False
    prediction: str = "velocity"
    time_range: Sequence[float] | None = None
    gradients: str = "autograd"
    max_batch: int | None = None
    clock: Clock = UNIT
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    by_position: bool = False

    def __post_init__(self) -> None:
        model = self.model
        if isinstance(model, str | bytes | PathLike):
            model = exported(model)
        if isinstance(model, torch.export.ExportedProgram):
            # It takes arguments by position or by keyword, as in the call that exported it.
            self.by_position = not model.call_spec.in_spec.child(1).num_children
            self.model = model = model.module()
        if not callable(model):
            expected = "a torch.nn.Module, a function, an exported program or, for from_diffusion, a teacher"
            raise TypeError(f"model: expected {expected}, got {type(model).__name__}")
        for name, known in (("prediction", ("velocity", "data")), ("gradients", ("autograd", "differences"))):
            if getattr(self, name) not in known:
                raise ArgumentError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")
        if self.whole_timesteps and self.convention != "diffusers":
            raise ArgumentError(
                f"whole_timesteps: expected False for convention {self.convention!r}, got True: only "
                "'diffusers' has timesteps"
            )
        if not self.clock.is_unit and self.convention not in ("torchcfm", "flow_matching"):
            raise ArgumentError(
                f"horizon: expected (0.0, 1.0) for {self.convention!r}, got {self.clock.plain()}"
            )
        if self.max_batch is not None:
            self.max_batch = checked_count(self.max_batch, "max_batch")
        if self.time_range is not None:
            self.time_range = as_times(self.time_range, "time_range")
            if len(self.time_range) != 2 or self.time_range[0] >= self.time_range[1]:
                raise ArgumentError(f"time_range: expected two rising times, got {self.time_range}")
        elif self.prediction == "data":
            self.time_range = (0.0, 0.999)
        self._module = _module_of(model)
        self._modes, self._lock, self._inside = list[torch.nn.Module](), threading.Lock(), 0
        self._rounds_time = self._warned = False
        self._takes = _parameters(model)
        self._takes_any = any(p.kind is p.VAR_KEYWORD for p in self._takes)
        self._names = {p.name for p in self._takes if p.kind is not p.POSITIONAL_ONLY}
        if self.condition_name is None:
            self.condition_name = self._own_condition_name()

    # --- calls by the core ----------------------------------------------------------------------------

    def field(self) -> _core.VelocityField:
        """The field in the core. It holds this model, so this model must not hold the field."""
        device, dtype = self._home()
        own = "float64" if dtype == torch.float64 else "float32"
        return _core.VelocityField.callable(
            self.velocity,
            self.velocity_and_product,
            event_shape=checked_event_shape(self.event_shape),
            conditioning=self.conditioning.to_json(),
            device=name_of((device or "cpu") if self.device is None else self.device),
            dtype=name_of(own if self.dtype is None else self.dtype),
            label="torch",
        )

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        """v(t, x)."""
        with torch.no_grad():
            return self.answer(t, x, condition)

    def answer(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        """v(t, x), differentiable in the states and in the model's weights."""
        return self._in_batches(lambda *rows: (self._answer(*rows),), t, x, condition)[0]

    def twin(self) -> AttachedField:
        """The field as a plain PyTorch module."""
        conditions = Conditions(self.conditioning.plain())
        return AttachedField(self.answer, self._module, checked_event_shape(self.event_shape), conditions)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def velocity_and_product(self, t: Tensor, x: Tensor, cotangent: Tensor, condition: Condition) -> Tensors:
        """v and the product c J of the cotangent c and the Jacobian J.

        ``gradients="differences"`` returns J c instead. For divergences both are equivalent, since only c J c
        is needed.
        """
        product = self._by_differences if self.gradients == "differences" else self._by_autograd
        return self._in_batches(product, t, x, condition, cotangent)

    def _by_autograd(self, t: Tensor, x: Tensor, condition: Condition, cotangent: Tensor) -> Tensors:
        product = None
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            v = self._answer(t, x, condition)
            if v.requires_grad:
                (product,) = torch.autograd.grad(v, x, cotangent, allow_unused=True)
        if product is None:
            # There is no graph: either v does not depend on x, or the model detached it.
            with torch.no_grad():
                moved = self._answer(t, x + 1e-2 * (1.0 + x.abs()), condition)
            if not torch.allclose(moved, v):
                raise RuntimeError(
                    "the model's output depends on x but carries no gradient: it runs under no_grad or "
                    "inference_mode, or detaches its output, so that densities cannot be computed; attach it "
                    "with gradients='differences' to use finite differences"
                )
            product = torch.zeros_like(x)
        return v.detach(), product

    @torch.no_grad()
    def _by_differences(self, t: Tensor, x: Tensor, condition: Condition, along: Tensor) -> Tensors:
        own = self._home()[1]
        # The step at which rounding and truncation errors of central differences are about equal.
        step = torch.finfo(own if own in HALF else x.dtype).eps ** (1 / 3)
        size = step * (1.0 + x.abs().flatten(1).amax(1)) / along.abs().flatten(1).amax(1).clamp(min=1e-12)
        h = size.view(-1, *[1] * (x.ndim - 1))
        ahead, behind = (self._answer(t, x + way * h * along, condition) for way in (1.0, -1.0))
        return self._answer(t, x, condition), (ahead - behind) / (2.0 * h)

    def _in_batches(self, function: Callable[..., Tensors], *rows: Condition) -> Tensors:
        """A function of rows, in batches. If one runs out of memory, the batch size is halved permanently."""
        n = len(rows[1]) if rows[1] is not None else 0
        while True:
            size = min(n, self.max_batch or n)
            try:
                if size == n:
                    return function(*rows)
                starts = range(0, n, size)
                parts = [function(*(None if r is None else r[i : i + size] for r in rows)) for i in starts]
                return tuple(torch.cat(part) for part in zip(*parts, strict=True))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            self.max_batch = (size + 1) // 2
            torch.cuda.empty_cache()
            if not self._warned:
                self._warned = True
                text = f"the model ran out of memory with {size} samples: it gets at most {self.max_batch}"
                text += " per call from now on; set max_batch= when it is attached to avoid this warning"
                warnings.warn(text, RuntimeWarning, stacklevel=2)

    # --- one call of the model ------------------------------------------------------------------------

    def _answer(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        """The velocity of one batch, in koopflow's time and sign. A prediction is not converted."""
        device, dtype = self._home()
        if self.time_range is not None:
            t = t.clamp(*self.time_range)
        told = self.timestep_scale * (1.0 - t) if self.convention == "diffusers" else self.clock.read(t)
        if self.whole_timesteps:
            told = told.round().clamp(max=self.timestep_scale - 1).long()
        # Copies, since models may change their inputs in place, which fails for a leaf of a graph.
        state = x.to(device, dtype, copy=True)
        told = told.to(device, copy=True)
        if condition is not None:
            kind = dtype if condition.is_floating_point() else None
            condition = condition.to(device, kind, copy=True)
        with self._evaluating():
            answer = tensor_of(self._in_own_precision(told, state, condition, dtype))
        if answer.is_floating_point():
            answer = answer.to(x.dtype)
        if device is not None and answer.device == state.device:
            answer = answer.to(x.device)
        if self.prediction == "velocity" and not self.clock.is_unit:
            answer = answer * self.clock.length
        if self.prediction == "data" and answer.shape == x.shape:
            return (answer - x) / (1.0 - t).view(-1, *[1] * (x.ndim - 1))
        # dx/ds = noise - data in diffusers' time s = 1 - t, so dx/dt has the other sign.
        return -answer if self.convention == "diffusers" and self.prediction == "velocity" else answer

    def _in_own_precision(self, t: Tensor, x: Tensor, condition: Condition, dtype: torch.dtype | None) -> Any:
        if dtype is None or not t.is_floating_point():
            return self._call(t, x, condition)
        if dtype in HALF and not self._rounds_time:
            # Half precision rounds timesteps up to 1,000 to integers. Models embed them in float32.
            try:
                return self._call(t.float(), x, condition)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                answer = self._call(t.to(dtype), x, condition)
            self._rounds_time = True
            return answer
        return self._call(t.to(dtype), x, condition)

    def _call(self, t: Tensor, x: Tensor, condition: Condition) -> Any:
        named, keywords = self._keywords(len(x)), not self.by_position
        third = [] if condition is None else [condition]
        if third and self.condition_name and keywords:
            named[self.condition_name], third = condition, []
        if self.convention == "torchcfm":
            return self.model(t, x, *third, **named)
        if keywords and not third:
            if self.convention == "flow_matching":
                return self.model(x=x, t=t, **named)
            if "timestep" in self._names or (self.convention == "diffusers" and self._takes_any):
                return self.model(x, timestep=t, **named)
        return self.model(x, t, *third, **named)

    def _keywords(self, n: int) -> dict[str, Any]:
        """Keywords of the model besides time, state and condition, for ``n`` samples."""
        return dict(self.extras)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Sets all parts of the module to evaluation mode, in every thread, and restores their modes."""
        with self._lock:
            if not self._inside:
                parts = [] if self._module is None else self._module.modules()
                self._modes = [part for part in parts if getattr(part, "training", False)]
                for part in self._modes:
                    part.training = False
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                for part in [] if self._inside else self._modes:
                    part.training = True

    def _home(self) -> tuple[torch.device | None, torch.dtype | None]:
        """The module's device, and the precision of most of its parameters, or of its buffers if it has no
        parameters."""
        if self._module is None:
            return None, None
        for tensors in (self._module.parameters(), self._module.buffers()):
            floats = [tensor for tensor in tensors if tensor.dtype in FLOATS]
            if floats:
                numbers: Counter[torch.dtype] = Counter()
                for tensor in floats:
                    numbers[tensor.dtype] += tensor.numel()
                return floats[0].device, numbers.most_common(1)[0][0]
        return None, None

    # --- checks of the model --------------------------------------------------------------------------

    def checked(self) -> _core.VelocityField:
        """The field, after a check on a few samples. Raises ``TeacherError`` if it returns no velocity."""
        if self.convention not in CONVENTIONS:
            names = ", ".join(map(repr, CONVENTIONS))
            raise ArgumentError(f"convention: expected one of {names}, got {self.convention!r}")
        field = self.field()
        called = f"{CONVENTIONS[self.convention]} with {sizes(field)}"
        probe(field, f"convention {self.convention!r} calls {called}", self)
        return field

    def hint(self, error: BaseException, t: Tensor, x: Tensor, condition: Condition) -> str:
        """A remedy for a model's exception, as the end of a message."""
        text, ones = str(error), ", 1" * (x.ndim - 1)
        if isinstance(error, TypeError) and condition is not None:
            which = f"which of {', '.join(sorted(self._names))} it is" if self._names else "another keyword"
            return f"; the condition is passed as {self.condition_name!r}: condition_name= sets {which}"
        if "Long" in text and "indices" in text:
            return "; it looks time up in a table: whole_timesteps=True of convention 'diffusers' rounds it"
        if "Guard failed" in text:
            return "; it was exported for one batch size: use torch.export.export(..., dynamic_shapes=...)"
        if condition is not None:
            return ""
        # The models of torchcfm's tutorials: torch_wrapper, and the MLP.
        t, x = (rows.to(*self._home()) for rows in (t, x))
        joined = "lambda t, x: mlp(torch.cat([x, t[:, None]], 1))"
        if self._works(lambda: self.model(t[0], x), x):
            return f"; it takes one time only: t.view(-1{ones}) has one for each sample, as in {joined}"
        if x.ndim == 2 and self._works(lambda: self.model(torch.cat([x, t[:, None]], 1)), x):
            return f"; it takes x and t as one input, like torchcfm's MLP: attach {joined}"
        return ""

    def _works(self, call: Callable[[], Any], x: Tensor) -> bool:
        try:
            with torch.no_grad(), self._evaluating():
                return bool(call().shape == x.shape)
        except Exception:
            return False

    def _own_condition_name(self) -> str:
        """The keyword of the condition in the model's signature, or "" if it is passed by position."""
        usual = "class_labels" if self.convention == "diffusers" else "y"
        third = [p for p in self._takes if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][2:3]
        known = [name for name in (usual, *CONDITION_NAMES) if name in self._names]
        return known[0] if known else "" if third and third[0].default is third[0].empty else usual


def scripted(
    path: StrOrBytesPath,
    event_shape: Sequence[int],
    device: Any,
    dtype: Any,
    conditioning: Conditioning,
    **options: Any,
) -> TorchModel:
    """The model of a TorchScript file, which takes arguments by position."""
    name = as_path(path)
    if not Path(name).is_file():
        raise FileNotFoundError(f"path: no file {name!r}")
    with warnings.catch_warnings():
        # torch deprecates TorchScript, in some versions with a warning.
        warnings.filterwarnings("ignore", message="`torch.jit")
        model = torch.jit.load(name, map_location=name_of(device))  # type: ignore[no-untyped-call]
    options |= {"conditioning": conditioning, "device": device, "dtype": dtype, "by_position": True}
    return TorchModel(model.eval(), event_shape, **options)


def scripted_twin(*file: Any, **options: Any) -> AttachedField:
    """The twin of a TorchScript file: see :func:`scripted`."""
    return scripted(*file, **options).twin()


def exported(path: StrOrBytesPath) -> torch.export.ExportedProgram:
    """The program of a .pt2 file. Raises ``FileNotFoundError`` if there is no such file, and
    ``CheckpointError`` if it is not a complete program."""
    name = as_path(path)
    if not Path(name).is_file():
        raise FileNotFoundError(f"model: no file {name!r}")
    expected = f"{name}: expected a .pt2 file, complete, as torch.export.save writes it"
    if Path(name).suffix != ".pt2":
        raise CheckpointError(f"{expected} (from_torchscript reads TorchScript files)")
    try:
        with warnings.catch_warnings():
            # Weights are mapped read-only, and never written to.
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            return torch.export.load(name)
    except Exception as error:
        raise CheckpointError(f"{expected}; torch says: {(str(error).splitlines() or [''])[0]}") from error


def probe(velocity: _core.VelocityField, tried: str, model: TorchModel | None = None) -> None:
    """Check a field on a few samples. Raises ``TeacherError`` that says what was called and returned."""
    few, more = probe_sizes(velocity)
    x = _core.normal((more, *velocity.event_shape), 0)
    condition = probe_condition(Conditioning.of(velocity), more)

    def ask(n: int, first: float, last: float) -> Any:
        t = np.linspace(first, last, more)
        try:
            return velocity.velocity(t[:n], x[:n], None if condition is None else condition[:n])
        except TeacherError as error:
            cause = error.__cause__
            hint = ""
            if model is not None and cause is not None:
                hint = model.hint(cause, torch.from_numpy(t), torch.from_numpy(x), condition)
            elif first == 0.0:
                hint = (
                    "; time_range=(0, 0.999) avoids the end, and prediction='data' is for models of the data"
                )
            raise TeacherError(f"{tried}; {error}{hint}") from (cause or error)

    v, again, among = ask(few, 0.25, 0.75), ask(few, 0.25, 0.75), ask(more, 0.25, 0.75)[:few]
    cure = "a module inside a function must be in evaluation mode (model.eval()) before it is attached"
    if not np.allclose(v, again, rtol=1e-3, atol=1e-4):
        raise TeacherError(f"{tried}; two calls on the same batch gave different velocities: {cure}")
    # Kernels depend on the batch size, which causes small differences in half precision.
    if (difference := abs(among - v).max()) > 0.1 * (0.01 + abs(v).max()):
        others = f"changes by {difference:.2g} when there are {more - few} others in their batch"
        raise TeacherError(f"{tried}; the velocity of {few} samples {others}: {cure}")
    if model is not None and model.convention != PREDICTION:
        ask(more, 0.0, 1.0)


def sizes(velocity: _core.VelocityField, time: str = "t") -> str:
    """The inputs of :func:`probe`, for messages."""
    n = probe_sizes(velocity)[0]
    return f"x {(n, *velocity.event_shape)} and {time} ({n},), {velocity.dtype} on {velocity.device}"


def probe_sizes(velocity: _core.VelocityField) -> list[int]:
    """Two numbers of samples that differ from all lengths of event and condition, so that nothing broadcasts
    by accident."""
    conditioning = Conditioning.of(velocity)
    lengths = (*velocity.event_shape, conditioning.classes, conditioning.dim)
    return [n for n in (2, 3, 5, 7, 11, 13, 17, 19) if n not in lengths][:2]


def probe_condition(conditioning: Conditioning, n: int) -> Condition:
    """A condition for ``n`` samples."""
    if conditioning.classes is not None:
        return torch.zeros(n, dtype=torch.int64)
    return None if conditioning.dim is None else torch.zeros(n, conditioning.dim)


def tensor_of(answer: Any) -> Tensor:
    """The tensor in a model's output: itself, ``answer.sample``, or the first of a tuple."""
    first = answer[0] if isinstance(answer, tuple | list) and answer else None
    for found in (answer, getattr(answer, "sample", None), first):
        if isinstance(found, Tensor):
            return found
    raise TypeError(f"expected a torch.Tensor, got {type(answer).__name__}")


def _parameters(model: Any) -> list[inspect.Parameter]:
    """The parameters of a model, also if wrappers hide them behind ``*args, **kwargs``."""
    if isinstance(model, functools.partial):
        return _parameters(model.func)
    try:
        own = list(inspect.signature(getattr(model, "forward", model)).parameters.values())
    except (TypeError, ValueError):
        own = []
    # Wrappers: torch.compile, DataParallel, DistributedDataParallel and averaged models.
    inside = (getattr(model, name, None) for name in ("_orig_mod", "module", "ema_model", "model"))
    inner = next((part for part in inside if isinstance(part, torch.nn.Module)), None)
    hidden = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in own)
    return own if inner is None or not hidden else _parameters(inner)


def _module_of(model: Any) -> torch.nn.Module | None:
    """The module that is called: the model itself, that of a partial, or the owner of a bound method."""
    while isinstance(model, functools.partial):
        model = model.func
    owner = model if isinstance(model, torch.nn.Module) else getattr(model, "__self__", None)
    return owner if isinstance(owner, torch.nn.Module) else None
