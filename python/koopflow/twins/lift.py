"""The bases of the observables, and the readouts of a state from observables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .generator import Observables
from .networks import FourierFeatures, Monomials, Perceptron
from .unet import UNet, UNetDecoder, UNetEncoder


class ImageBasis(UNet):
    """The output pixels of a U-Net plus a linear map of each pixel's channels, ``[B, k]``."""

    def __init__(
        self, unet: dict[str, Any], inputs: int, outputs: int, condition: int, *, directed: bool
    ) -> None:
        super().__init__(unet, inputs, outputs, condition, directed=directed)
        self.skip = nn.Parameter(torch.zeros(outputs, inputs))

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        through = self.skip @ x.flatten(2)
        return super().forward(t, x, condition).flatten(1) + through.flatten(1)


class HierarchyBasis(UNetEncoder):
    """The feature maps of all levels of a U-Net's encoder, concatenated: ``[B, k]``."""

    def forward(  # type: ignore[override]
        self, t: Tensor, x: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        return torch.cat([features.flatten(1) for features in super().forward(t, x, condition)], dim=1)


def basis_of(config: dict[str, Any], condition: int) -> nn.Module:
    """The basis functions of phi, for a condition with the given number of columns.

    Bases of vectors take ``[B, inputs]``. Those of images take times ``[B]``, images and the condition. The
    last column of the condition is the direction of time if the lift is directed.
    """
    directed = config.get("directed", False)
    shape, kind = config["event_shape"], config["basis"]
    dimension, outputs = math.prod(shape), config["mixing"] or config["observables"]
    if kind == "unet":
        channels = outputs // math.prod(shape[1:])
        return ImageBasis(config["unet"], shape[0], channels, condition, directed=directed)
    if kind == "hierarchy":
        return HierarchyBasis(config["unet"], shape[0], condition, directed=directed)
    raw = config["inputs"] == "raw"
    inputs = 1 + (1 if raw else 2) * dimension + condition + int(directed)
    if kind == "fourier":
        return FourierFeatures(inputs, outputs)
    if kind == "polynomial":
        # Standardised coordinates are left out, since they are not polynomials of (t, x).
        variables = [*range(1 + dimension), *range(1 + 2 * dimension, inputs)]
        return Monomials(variables, linear=condition, degree=config["degree"])
    return Perceptron(inputs, outputs, width=config["width"], depth=config["depth"], skip=not raw)


class LinearReadout(nn.Module):
    """A linear readout, x = g C."""

    def __init__(self, size: int, dimension: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(size, dimension))

    def forward(self, g: Observables) -> Tensor:
        return g.joined() @ self.matrix


class CorrectedReadout(Perceptron):
    """The state among the observables plus the correction of a network."""

    def forward(self, g: Observables) -> Tensor:  # type: ignore[override]
        return g.x + super().forward(torch.cat([g.t[..., None], g.x, g.phi], dim=-1))


class ImageReadout(UNetDecoder):
    """A U-Net's decoder, from feature maps of given shapes."""

    def __init__(self, unet: dict[str, Any], outputs: int, maps: Sequence[tuple[int, int, int]]) -> None:
        super().__init__(unet, outputs)
        self.maps = maps

    def forward(self, g: Observables) -> Tensor:  # type: ignore[override]
        parts = torch.split(g.phi.flatten(0, -2), [math.prod(shape) for shape in self.maps], dim=-1)
        maps = [torch.unflatten(part, -1, shape) for part, shape in zip(parts, self.maps, strict=True)]
        return torch.unflatten(super().forward(g.t.flatten(), maps).flatten(1), 0, g.t.shape)


def readout_of(config: dict[str, Any], maps: Sequence[tuple[int, int, int]]) -> nn.Module | None:
    """The map from all observables to x, or None if x is a slice of them."""
    dimension, k = math.prod(config["event_shape"]), config["observables"]
    if config["readout"] == "linear":
        return LinearReadout(2 + dimension + k, dimension)
    if config["readout"] == "network":
        depth = min(max(config["depth"], 1), 2)
        return CorrectedReadout(1 + dimension + k, dimension, width=config["width"], depth=depth, skip=False)
    if config["readout"] == "decoder":
        return ImageReadout(config["unet"], config["event_shape"][0], maps)
    return None
