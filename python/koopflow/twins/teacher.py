"""Velocity fields of teachers: v(t, x, condition), whose flow carries noise (t = 0) to data (t = 1)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from ..exceptions import ArgumentError
from .inputs import Conditions, flat_states, times_of
from .networks import Perceptron, TimeEmbedding
from .stored import APART, Stored, Twin, without_values
from .unet import UNet
from .units import Units, coefficients

Condition: TypeAlias = Tensor | None

# Lower bounds on a variance and on 1 - t, as in the core, and the largest number of data weights at once.
_VARIANCE_FLOOR, _TIME_FLOOR, _MOST_WEIGHTS = 1e-10, 1e-5, 1 << 22


class TeacherModule(Twin, ABC):
    """A teacher's velocity field in plain PyTorch.

    :meth:`koopflow.FlowTeacher.to_torch` makes one. It is differentiable in times, states and all weights.

    Parameters
    ----------
    t : tensor ``[B]``, or a number or tensor without axes for all samples
        Times from 0 (noise) to 1 (data), or those of the teacher's ``horizon``. The range is not checked,
        because solvers may step outside it.
    x : tensor, ``[B, *event]``
        States, in floating point.
    condition : tensor, optional
        Labels ``[B]`` or vectors ``[B, D]`` for a conditional teacher, or one for all samples.

    Returns
    -------
    tensor
        Velocities dx/dt, of the shape and dtype of ``x``.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        If an argument does not fit. The message names it.
    """

    event_shape: tuple[int, ...]
    conditions: Conditions
    # Times of source and data.
    clock: tuple[float, float] = (0.0, 1.0)

    def forward(self, t: Tensor | float, x: Tensor, condition: Condition = None) -> Tensor:
        rows = flat_states("x", x, self.event_shape)
        condition = self.conditions.checked(condition, rows)
        times, (start, end) = times_of("t", t, rows), self.clock
        if (start, end) != (0.0, 1.0):
            times = (times - start) / (end - start)
        v = self.velocity(times, rows, condition) / (end - start)
        return v.to(x.dtype).view(x.shape)

    @abstractmethod
    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        """v ``[B, d]`` at times ``[B]`` and states ``[B, d]``, with a label or vector for each row."""

    def _events(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.event_shape)

    def stored(self) -> Stored:
        """The stored form. Raises ``ArgumentError`` for the twin of an attached model."""
        if not hasattr(self, "header"):
            raise ArgumentError(
                "module: expected the twin of a teacher that can be saved, got that of an attached model: "
                "training changed that model itself"
            )
        return super().stored()


class _Standard(nn.Module):
    """Mean and deviation of each coordinate."""

    mean: Tensor
    scale: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))


class NetworkField(TeacherModule):
    """A perceptron or a U-Net, whose input and output are scaled by the moments of the data (Karras et al.
    2206.00364)."""

    def __init__(self, stored: Stored) -> None:
        # The header does not say whether the teacher has units, so the tensors are checked.
        self._in_units = "units.scale" in stored.tensors
        super().__init__(stored)

    def build(self, model: dict[str, Any]) -> None:
        config = model["description"]
        self.event_shape, self.conditions = tuple(config["event_shape"]), Conditions(config["conditioning"])
        self.path, unet, size = config["path"], config["unet"], math.prod(self.event_shape)
        extra = self.conditions.size
        if unet is None:
            self.time = TimeEmbedding(config["frequencies"])
            inputs, shape = size + 1 + 2 * config["frequencies"] + extra, (config["width"], config["depth"])
            # One more output for the growth rate, which is not part of the velocity.
            own = size + int(config.get("growth", False))
            self.network: nn.Module = Perceptron(inputs, own, width=shape[0], depth=shape[1], skip=True)
        else:
            self.network = UNet(unet, self.event_shape[0], self.event_shape[0], extra)
        self.data = _Standard(size) if config["scaled"] else None
        self.origin = _Standard(size) if config["scaled"] and "source" in config else None
        self.growth = _Standard(1) if config.get("growth") else None
        self.condition = _Standard(extra) if self.conditions.dim else None
        self.units = Units(self.path, size) if self._in_units else None
        self.phase = config.get("phase", False)
        self.predicting = config.get("preconditioning", "scaled") == "edm"

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        t, x = t.to(dtype)[:, None], x.to(dtype)
        numbers = self.conditions.numbers(condition, dtype)
        if numbers is not None and self.condition is not None:
            numbers = (numbers - self.condition.mean) / self.condition.scale
        if self.units is None:
            return self._scaled(t, x, numbers)
        u, z = self.units.standard(t, x)
        return self.units.velocity(t, z, self._scaled(u, z, numbers))

    def _scaled(self, t: Tensor, x: Tensor, numbers: Condition) -> Tensor:
        """v at times ``[B, 1]``, with inputs and outputs scaled to mean 0 and variance 1.

        x_t has mean a m and variance a^2 d^2 + s^2. The moments of dx/dt are the same with a' and s'. A
        preconditioned network adds to the linear prediction of v, which leaves the deviation
        |a' s - a s'| d / sqrt(a^2 d^2 + s^2). For a source of deviation o, s and s' are multiplied by o.
        """
        if self.data is None:
            return self._answer(t, x, numbers)
        c, mean, variance = coefficients(self.path, t), self.data.mean, self.data.scale.square()
        centre, at, start, rate = c.a_rate * mean, c.a * mean, c.s.square(), c.s_rate.square()
        joint, product = c.s * c.s_rate, self.data.scale
        if self.origin is not None:
            own = self.origin.scale.square()
            at, centre = at + c.s * self.origin.mean, centre + c.s_rate * self.origin.mean
            start, rate = start * own, rate * own
            joint, product = joint * own, product * self.origin.scale
        deviation = (c.a.square() * variance + start).sqrt()
        seen = (x - at) / deviation
        if self.predicting:
            centre = centre + (c.a * c.a_rate * variance + joint) / deviation * seen
            unit = (c.a_rate * c.s - c.a * c.s_rate).abs() * product / deviation
        else:
            unit = (c.a_rate.square() * variance + rate).sqrt()
        v = self._answer(t, seen, numbers) * unit + centre
        if not self.phase:
            return v
        half = x.shape[1] // 2
        return torch.cat([x[:, half:], v[:, half:]], 1)

    def _answer(self, t: Tensor, x: Tensor, numbers: Condition) -> Tensor:
        if isinstance(self.network, UNet):
            image: Tensor = self.network(t[:, 0], self._events(x), numbers)
            return image.flatten(1)
        parts = [x, self.time(t[:, 0])] + ([] if numbers is None else [numbers])
        answer: Tensor = self.network(torch.cat(parts, 1))
        return answer[:, : x.shape[1]]


class _ClosedForm(TeacherModule):
    """A field without weights. Its tensors are buffers, each in its own precision."""

    def __init__(self, stored: Stored) -> None:
        nn.Module.__init__(self)
        self.event_shape = tuple(stored.header["model"]["description"]["event_shape"])
        self.conditions, self.training = Conditions("none"), False
        for name, tensor in stored.tensors.items():
            self.register_buffer(name, tensor)


class GaussianField(_ClosedForm):
    """The exact field to N(m, C) on the linear path: v = m + (t C - (1 - t) I) S^-1 (x - t m), with
    S = t^2 C + (1 - t)^2 I."""

    mean: Tensor
    covariance: Tensor
    variances: Tensor
    basis: Tensor

    def __init__(self, stored: Stored) -> None:
        super().__init__(stored)
        self._decompose()

    def _decompose(self) -> None:
        # In float32 at least, since torch has no decomposition in half precision.
        wide = torch.promote_types(self.covariance.dtype, torch.float32)
        variances, basis = (x.to(self.covariance.dtype) for x in torch.linalg.eigh(self.covariance.to(wide)))
        self.register_buffer("variances", variances.clamp(min=0.0), persistent=False)
        self.register_buffer("basis", basis, persistent=False)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self._decompose()

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        dtype = self.basis.dtype
        t, mean = t.to(dtype)[:, None], self.mean.to(dtype)
        spread = t.square() * self.variances + (1.0 - t).square()
        rates = (t * self.variances - (1.0 - t)) / spread.clamp(min=_VARIANCE_FLOOR)
        return mean + ((x.to(dtype) - t * mean) @ self.basis * rates) @ self.basis.T


class EmpiricalField(_ClosedForm):
    """The exact field of data y_i on the linear path: v = (sum_i w_i y_i - x) / (1 - t), with weights
    w = softmax(-|x - t y|^2 / (2 (1 - t)^2))."""

    data: Tensor

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        # In float64, since near t = 1 the logits are differences of very large numbers.
        y = self.data.flatten(1).double()
        rows = max(1, _MOST_WEIGHTS // len(y))
        batches = zip(torch.split(t.double()[:, None], rows), torch.split(x.double(), rows), strict=True)
        return torch.cat([self._rows(t, x, y) for t, x in batches])

    def _rows(self, t: Tensor, x: Tensor, y: Tensor) -> Tensor:
        rest = (1.0 - t).clamp(min=_TIME_FLOOR)
        # The term that is the same for all data points is left out.
        logits = (x @ y.T - t * (0.5 * y.square().sum(1))) * (t / rest.square())
        return (logits.softmax(1) @ y - x) / rest


class GuidedField(TeacherModule):
    """A conditional field with classifier-free guidance (Ho and Salimans 2207.12598)."""

    null_condition: Tensor

    def __init__(self, model: TeacherModule, scale: float, null_condition: Tensor) -> None:
        nn.Module.__init__(self)
        self.model, self.scale, self.training = model, scale, False
        self.event_shape, self.conditions = model.event_shape, model.conditions
        self.register_buffer("null_condition", null_condition)

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        assert condition is not None
        null = self.null_condition.to(condition).expand_as(condition)
        without = self.model.velocity(t, x, null)
        return self.scale * self.model.velocity(t, x, condition) + (1.0 - self.scale) * without


class ReversedField(TeacherModule):
    """The reversed flow: v(t, x) = -u(1 - t, x)."""

    def __init__(self, model: TeacherModule) -> None:
        nn.Module.__init__(self)
        self.model, self.training = model, False
        self.event_shape, self.conditions = model.event_shape, model.conditions

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        return -self.model.velocity(1.0 - t, x, condition)

    def stored(self) -> Stored:
        return _joined(self, {"model.": self.model}) or super().stored()


class ChainField(TeacherModule):
    """Fields in sequence, each between two of the rising ``breaks``, with its own time from 0 to 1.

    Every field is evaluated for every row, so that the module has no branches. The velocity of a row is that
    of the field that is active at its time.
    """

    def __init__(self, blocks: Sequence[TeacherModule], breaks: Sequence[float]) -> None:
        nn.Module.__init__(self)
        self.blocks, self.breaks, self.training = nn.ModuleList(blocks), tuple(breaks), False
        self.event_shape, self.conditions = blocks[0].event_shape, blocks[0].conditions

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        v, last = torch.zeros_like(x), len(self.breaks) - 2
        for place, (start, end) in enumerate(pairwise(self.breaks)):
            lowest, most = (start if place else None), (end if place < last else None)
            within = t if lowest is most is None else t.clamp(lowest, most)
            field = cast(TeacherModule, self.blocks[place])
            own = field.velocity((within - start) / (end - start), x, condition) / (end - start)
            v = torch.where((t >= start)[:, None], own, v) if place else own
        return v

    def stored(self) -> Stored:
        blocks = {f"blocks.{place}.": cast(TeacherModule, block) for place, block in enumerate(self.blocks)}
        return _joined(self, blocks) or super().stored()


class WindowField(TeacherModule):
    """The flow of a field between two of its times, with time rescaled to [0, 1]."""

    def __init__(self, model: TeacherModule, start: float, end: float) -> None:
        nn.Module.__init__(self)
        self.model, self.start, self.end, self.training = model, start, end, False
        self.event_shape, self.conditions = model.event_shape, model.conditions

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        length = self.end - self.start
        return length * self.model.velocity(self.start + length * t, x, condition)

    def stored(self) -> Stored:
        """The stored form of the window. Raises the errors of the model's method."""
        header, tensors = self.header, self.model.stored().tensors
        return Stored(header, tensors)


class AttachedField(TeacherModule):
    """The field of an attached model.

    ``ask(t, x, condition)`` returns velocities of shape ``[B, *event]``. ``module``, if there is one, is the
    attached module itself, whose training mode this module does not change.
    """

    def __init__(
        self,
        ask: Callable[[Tensor, Tensor, Condition], Tensor],
        module: nn.Module | None,
        event_shape: tuple[int, ...],
        conditions: Conditions,
    ) -> None:
        nn.Module.__init__(self)
        self.module, self.training, self._ask = module, False, ask
        self.event_shape, self.conditions = event_shape, conditions

    def velocity(self, t: Tensor, x: Tensor, condition: Condition) -> Tensor:
        return self._ask(t, self._events(x), condition).flatten(1)


_KINDS: Mapping[str, Callable[[Stored], TeacherModule]] = {
    "network": NetworkField,
    "gaussian": GaussianField,
    "empirical": EmpiricalField,
}


def field_of(stored: Stored) -> TeacherModule:
    """The field of a teacher's stored form."""
    description = stored.header["model"]["description"]
    field: TeacherModule
    if description["field"] == "sourced":
        tensors = {name: x for name, x in stored.tensors.items() if not name.startswith(APART)}
        field = field_of(_part(Stored(stored.header, tensors), description["model"]))
        field.apart = {name: x for name, x in stored.tensors.items() if name.startswith(APART)}
        field.header = stored.header
        return field
    if description["field"] == "window":
        model = field_of(_part(stored, description["model"]))
        field = WindowField(model, description["from"], description["to"])
        field.header = stored.header
        return field
    if description["field"] == "reversed":
        field = ReversedField(field_of(_part(stored, description["model"], "model.")))
        field.header = stored.header
        return field
    if description["field"] == "chain":
        parts = enumerate(description["models"])
        blocks = [field_of(_part(stored, model, f"blocks.{place}.")) for place, model in parts]
        field = ChainField(blocks, description["breaks"])
        field.header = stored.header
        return field
    if description["field"] == "guided":
        model = field_of(_part(stored, description["model"], "model."))
        field = GuidedField(model, description["scale"], stored.tensors["null_condition"])
        field.apart = {f"model.{name}": x for name, x in model.apart.items()}
    else:
        field = _KINDS[description["field"]](stored)
    own = {name: x for name, x in stored.tensors.items() if name not in field.apart}
    field.header, field.given = stored.header, without_values(own)
    return field


def _part(stored: Stored, description: dict[str, Any], prefix: str = "") -> Stored:
    """The stored form of a part of a field, with the given description. Its tensors begin with ``prefix``."""
    header = {**stored.header, "model": {**stored.header["model"], "description": description}}
    own = {name.removeprefix(prefix): x for name, x in stored.tensors.items() if name.startswith(prefix)}
    return Stored(header, own)


def _joined(module: TeacherModule, parts: Mapping[str, TeacherModule]) -> Stored | None:
    """The stored form of a field made of others, given by the prefixes of their names. None if the field has
    no stored form."""
    if not hasattr(module, "header"):
        return None
    stored = {begin: part.stored().tensors for begin, part in parts.items()}
    return Stored(
        module.header, {begin + name: x for begin, own in stored.items() for name, x in own.items()}
    )
