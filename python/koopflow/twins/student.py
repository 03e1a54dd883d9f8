"""A student as a plain PyTorch module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..exceptions import ArgumentError, ShapeError
from .coordinates import Coordinates
from .generator import Blocks, Observables, generator_of
from .inputs import Conditions, as_numbers, flat_states, times_of
from .lift import basis_of, readout_of
from .stored import Twin
from .unet import feature_maps
from .units import Units


class StudentModule(Twin):
    """A student in plain PyTorch: observables g(t, x) = [1, t, x, phi] with dg/dt = g L, and a readout of x.

    :meth:`koopflow.KoopmanDistiller.to_torch` makes one with the student's weights. It is differentiable in
    inputs and weights, and works with ``torch.compile`` and ``torch.export`` for any batch size. The names in
    its ``state_dict`` are those of the student's file, except that the observables of the two directions of
    time are called ``forward_lift`` and ``backward_lift``. Values that training learnt are parameters, and
    values that it measured are buffers. :meth:`koopflow.KoopmanDistiller.from_torch_module` converts it back
    to a student.

    States are floating point tensors ``[B, *event]``. Results have the dtype of the weights. ``condition`` is
    labels ``[B]`` or vectors ``[B, D]`` for a conditional student, or one for all samples. Arguments of
    another shape or type raise ``ShapeError``, ``DtypeError`` or ``ArgumentError``, which name them.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from koopflow import FlowTeacher, KoopmanDistiller
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], np.eye(2))
    >>> student = KoopmanDistiller(observables=8, width=16, steps=50, trajectories=256)
    >>> module = student.fit(teacher, progress=False).to_torch()
    >>> x0 = torch.zeros(4, 2, requires_grad=True)
    >>> module(x0).square().mean().backward()
    >>> x0.grad.shape
    torch.Size([4, 2])
    """

    renamed: ClassVar = {"forward.": "forward_lift.", "backward.": "backward_lift."}
    # A fit with averaging also stores the averages and the last weights, besides those in use.
    left_out: ClassVar = ("weights.",)

    # Times of source and data.
    clock: tuple[float, float] = (0.0, 1.0)
    # A module of ``generator.py``.
    generator: Any
    mixing: nn.Parameter | None

    def build(self, model: dict[str, Any]) -> None:
        config = model["config"]
        self.event_shape = tuple(config["event_shape"])
        self.images, self.raw = config["unet"] is not None, config["inputs"] == "raw"
        self.directed = config.get("directed", False)
        self.moving, mixed = config["frame"] == "moving", config["mixing"]
        dimension, k = math.prod(self.event_shape), config["observables"]
        maps = []
        if config["generator"] == "levels":
            height, width = self.event_shape[1:]
            maps = [(c, height // factor, width // factor) for c, factor in feature_maps(config["unet"])]
        # The state is not among the observables of a hierarchy.
        self.state_size = 0 if maps else dimension
        self.conditions = Conditions(config["conditioning"])
        self.units = Units(config["units"], dimension) if config.get("units") else None
        self.coordinates = Coordinates(dimension, config["table_times"], axes=not self.images)
        self.forward_lift = basis_of(config, self.conditions.size)
        self.backward_lift = basis_of(config, self.conditions.size) if config["lifts"] == 2 else None
        self.generator = generator_of(config, dimension, [(c, h * w) for c, h, w in maps])
        # A moving frame uses the generator's eigenvalues, unless phi is a mixture of the basis.
        own = self.moving and (mixed is not None or config["generator"] == "dense")
        self.frame = Blocks(mixed or k) if own else None
        self.register_parameter(
            "mixing", nn.Parameter(torch.zeros(2 + dimension + mixed, k)) if mixed else None
        )
        self.readout = readout_of(config, maps)

    def forward(self, x0: Tensor, condition: Tensor | None = None) -> Tensor:
        """Data from noise in one step: ``[B, *event]``."""
        return self.path(x0, [self.clock[1]], condition)[0]

    def path(self, x0: Tensor, times: Sequence[float] | Tensor, condition: Tensor | None = None) -> Tensor:
        """States at ``times``, ``[T]``, from one encoding of noise: ``[T, B, *event]``."""
        z = self._flat("x0", x0)
        times = as_numbers("times", times, torch.float64, z.device)
        if times.ndim != 1 or not times.shape[0]:
            raise ShapeError(f"times: expected shape (T,), got {tuple(times.shape)}")
        times = self._own(times)
        own = times if self.units is None else self.units.time(times)
        z = self._read(self._observables(torch.zeros_like(z[:, 0]), z, condition), own)
        if self.units is not None:
            _, z = self.units.own(own[:, None, None].to(z.dtype), z)
        return torch.unflatten(z, 2, self.event_shape)

    def inverse(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The noise that maps to given data, by one step back: ``[B, *event]``."""
        z = self._flat("x", x)
        t = torch.ones_like(z[:, 0])
        if self.units is not None:
            _, z = self.units.standard(t[:, None], z)
        back = torch.full((1,), -1.0, dtype=torch.float64, device=z.device)
        z = self._read(self._observables(t, z, condition, backward=True), back)[0]
        return torch.unflatten(z, 1, self.event_shape)

    def encode(
        self, t: Tensor | float, x: Tensor, condition: Tensor | None = None, *, direction: str = "forward"
    ) -> Tensor:
        """Observables g(t, x), ``[B, m]``, at one time or one time per row, ``[B]``."""
        if direction not in ("forward", "backward"):
            raise ArgumentError(f"direction: expected 'forward' or 'backward', got {direction!r}")
        z = self._flat("x", x)
        t = self._own(times_of("t", t, z))
        if self.units is not None:
            t, z = self.units.standard(t[:, None], z)
            t = t[:, 0]
        return self._observables(t, z, condition, backward=direction == "backward").joined()

    def _own(self, times: Tensor) -> Tensor:
        """Times of the clock, converted to the flow's own."""
        start, end = self.clock
        return times if (start, end) == (0.0, 1.0) else (times - start) / (end - start)

    def _flat(self, argument: str, x: Tensor) -> Tensor:
        return flat_states(argument, x, self.event_shape, self.coordinates.center.dtype)

    def _observables(
        self, t: Tensor, z: Tensor, condition: Tensor | None, *, backward: bool = False
    ) -> Observables:
        """g at standardised states ``[B, d]`` and times ``[B]``."""
        basis = self.backward_lift if backward and self.backward_lift is not None else self.forward_lift
        given = self.conditions.encoded(condition, z)
        if self.directed:
            way = torch.full_like(t, -1.0 if backward else 1.0)[:, None]
            given = way if given is None else torch.cat([given, way], dim=1)
        if self.images:
            image = torch.unflatten(self.coordinates.standardised(t, z), 1, self.event_shape)
            phi = basis(t, image, given)
        else:
            seen = torch.cat([t[:, None], z], dim=1) if self.raw else self.coordinates(t, z)
            phi = basis(seen if given is None else torch.cat([seen, given], dim=1))
        if self.moving:
            phi = (self.generator if self.frame is None else self.frame).carry(phi, t)
        g = Observables(t, z[:, : self.state_size], phi)
        return g if self.mixing is None else g._replace(phi=g.joined() @ self.mixing)

    def _read(self, g: Observables, tau: Tensor) -> Tensor:
        """The states x of g exp(tau L) for times ``[T]``: ``[T, B, d]``."""
        x: Tensor = (
            self.generator.state(g, tau) if self.readout is None else self.readout(self.generator(g, tau))
        )
        return x
