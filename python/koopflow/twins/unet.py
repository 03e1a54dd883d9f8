"""U-Nets of flow and diffusion models (Dhariwal and Nichol 2105.05233), and their encoders and decoders.

A hierarchical student uses an encoder and a decoder separately. Weights have the names of torchcfm's
``UNetModel``, which are also those in koopflow's files. Shapes: times ``[B]``, images ``[B, C, H, W]``,
conditions as numbers ``[B, c]`` (labels as one-hot rows).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

Config: TypeAlias = Mapping[str, Any]
"""The options of a U-Net, by the names of :class:`koopflow.UNet`. ``multipliers`` is never None."""

_LONGEST_PERIOD = 10_000.0


def feature_maps(config: Config) -> list[tuple[int, int]]:
    """Number of channels and factor of downsampling of each feature map of an encoder.

    They are the maps that the decoder concatenates, from full resolution down, and the map of the middle.
    """
    widths = _widths(config)
    maps = [(widths[0], 1)]
    for level, width in enumerate(widths):
        maps += [(width, 2**level)] * config["blocks"]
        if level + 1 < len(widths):
            maps.append((width, 2 ** (level + 1)))
    return [*maps, (widths[-1], 2 ** (len(widths) - 1))]


class _Embedded(nn.Module):
    """Time and condition as one vector, ``[B, 4 channels]``."""

    frequencies: Tensor
    direction: nn.Parameter | None

    def __init__(self, config: Config, condition: int, *, directed: bool = False) -> None:
        super().__init__()
        channels = config["channels"]
        size, half = _embedding_size(config), channels // 2
        self.time_embed = nn.Sequential(nn.Linear(channels, size), nn.SiLU(), nn.Linear(size, size))
        self.label_emb = nn.Embedding(condition, size) if condition else None
        # For a directed lift, the last column of the condition is the direction of time.
        self.register_parameter("direction", nn.Parameter(torch.zeros(1, size)) if directed else None)
        steps = torch.arange(half, dtype=torch.float64, device="cpu")
        frequencies = torch.exp(steps * (-math.log(_LONGEST_PERIOD) / half)) * config["time_scale"]
        self.register_buffer("frequencies", frequencies, persistent=False)
        self._odd = channels % 2

    def embedding(self, t: Tensor, condition: Tensor | None) -> Tensor:
        phase = t[:, None] * self.frequencies.to(t.dtype)
        waves = functional.pad(torch.cat([phase.cos(), phase.sin()], 1), (0, self._odd))
        embedded: Tensor = self.time_embed(waves)
        rows = [] if self.label_emb is None else [self.label_emb.weight]
        rows += [] if self.direction is None else [self.direction]
        if not rows or condition is None:
            return embedded
        # A sum of rows weighted by the condition, so that vectors are embedded in the same way as labels.
        return embedded + condition @ torch.cat(rows)


class _Descending(_Embedded):
    """The encoder and the middle."""

    def __init__(self, config: Config, inputs: int, condition: int = 0, *, directed: bool = False) -> None:
        super().__init__(config, condition, directed=directed)
        widths, channels = _widths(config), _widths(config)[0]
        stages = [_Stage(_convolution(inputs, channels))]
        for level, width in enumerate(widths):
            for _ in range(config["blocks"]):
                stages.append(_Stage(_ResidualBlock(config, channels, width), *_attention(config, level)))
                channels = width
            if level + 1 < len(widths):
                stages.append(_Stage(_resampling(config, width, "down")))
        self.input_blocks = nn.ModuleList(stages)
        self.middle_block = _Stage(
            _ResidualBlock(config, channels, channels),
            _AttentionBlock(config, channels),
            _ResidualBlock(config, channels, channels),
        )

    def features(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        maps = []
        for stage in (*self.input_blocks, self.middle_block):
            maps.append(x := stage(x, embedding))
        return maps


class UNetEncoder(_Descending):
    """The encoder and the middle: maps images at times t to features, ordered as in :func:`feature_maps`."""

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        return self.features(x, self.embedding(t, condition))


class UNetDecoder(_Embedded):
    """The decoder alone: maps features of all levels at times t to an image, with its own embedding."""

    def __init__(self, config: Config, outputs: int, condition: int = 0) -> None:
        super().__init__(config, condition)
        self.output_blocks, self.out = _ascent(config, outputs)

    def forward(self, t: Tensor, maps: Sequence[Tensor], condition: Tensor | None = None) -> Tensor:
        return _ascended(self.output_blocks, self.out, maps, self.embedding(t, condition))


class UNet(_Descending):
    """A whole U-Net: maps images at times t to images with ``outputs`` channels."""

    def __init__(
        self, config: Config, inputs: int, outputs: int, condition: int = 0, *, directed: bool = False
    ) -> None:
        super().__init__(config, inputs, condition, directed=directed)
        self.output_blocks, self.out = _ascent(config, outputs)

    def forward(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        embedding = self.embedding(t, condition)
        return _ascended(self.output_blocks, self.out, self.features(x, embedding), embedding)


def _ascent(config: Config, outputs: int) -> tuple[nn.ModuleList, nn.Sequential]:
    *skips, (channels, _) = feature_maps(config)
    widths, stages = _widths(config), []
    for level, block in product(reversed(range(len(widths))), range(config["blocks"] + 1)):
        width = widths[level]
        residual = _ResidualBlock(config, channels + skips.pop()[0], width)
        up = [_resampling(config, width, "up")] if level and block == config["blocks"] else []
        stages.append(_Stage(residual, *_attention(config, level), *up))
        channels = width
    last = nn.Sequential(_norm(config, channels), nn.SiLU(), _convolution(channels, outputs))
    return nn.ModuleList(stages), last


def _ascended(stages: nn.ModuleList, last: nn.Module, maps: Sequence[Tensor], embedding: Tensor) -> Tensor:
    *skips, hidden = maps
    for stage, skip in zip(stages, reversed(skips), strict=True):
        hidden = stage(torch.cat([hidden, skip], 1), embedding)
    image: Tensor = last(hidden)
    return image


class _Stage(nn.Sequential):
    """A sequence of layers, of which residual blocks also take the embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, _ResidualBlock) else layer(x)
        return x


class _ResidualBlock(nn.Module):
    """Two convolutions with a skip connection, shifted (or scaled and shifted) by the embedding."""

    def __init__(self, config: Config, inputs: int, outputs: int, resampled: str = "") -> None:
        super().__init__()
        self._scales = config["scale_shift"]
        shifts = 2 * outputs if self._scales else outputs
        self.in_layers = nn.Sequential(_norm(config, inputs), nn.SiLU(), _convolution(inputs, outputs))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(_embedding_size(config), shifts))
        dropout = nn.Dropout(config["dropout"])
        self.out_layers = nn.Sequential(
            _norm(config, outputs), nn.SiLU(), dropout, _convolution(outputs, outputs)
        )
        same = inputs == outputs
        self.skip_connection = nn.Identity() if same else _convolution(inputs, outputs, side=1)
        resample = {"up": nn.Upsample(scale_factor=2, mode="nearest"), "down": nn.AvgPool2d(2)}
        self._resample = resample.get(resampled, nn.Identity())

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, activation, convolution = self.in_layers
        hidden = convolution(self._resample(activation(norm(x))))
        shifts = self.emb_layers(embedding)[:, :, None, None]
        norm, *rest = self.out_layers
        if self._scales:
            scale, shift = shifts.chunk(2, 1)
            hidden = norm(hidden) * (1.0 + scale) + shift
        else:
            hidden = norm(hidden + shifts)
        for layer in rest:
            hidden = layer(hidden)
        image: Tensor = self.skip_connection(self._resample(x)) + hidden
        return image


class _AttentionBlock(nn.Module):
    """Self-attention over the positions of an image."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        width = config["head_channels"] or channels // config["heads"]
        # Channels are split into queries, keys and values first, or into heads.
        self._qkv_first = config["qkv_first"]
        self._parts = (3, channels // width) if self._qkv_first else (channels // width, 3)
        self.norm = _norm(config, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2)
        parts = self.qkv(self.norm(rows)).unflatten(1, (*self._parts, -1)).transpose(-1, -2)
        query, key, value = parts.unbind(1 if self._qkv_first else 2)
        # Written out, since torch's fused kernels have neither second nor forward-mode derivatives.
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)
        mixed = scores.softmax(-1) @ value
        added: Tensor = self.proj_out(mixed.transpose(-1, -2).flatten(1, 2))
        return x + added.view_as(x)


def _attention(config: Config, level: int) -> list[nn.Module]:
    """The attention block of a level, if it has one."""
    return [_AttentionBlock(config, _widths(config)[level])] if 2**level in config["attention"] else []


def _resampling(config: Config, channels: int, way: str) -> nn.Module:
    """The change of resolution between two levels."""
    if config["residual_resampling"]:
        return _ResidualBlock(config, channels, channels, resampled=way)
    if way == "down":
        return nn.Sequential(OrderedDict(op=_convolution(channels, channels, stride=2)))
    larger = nn.Upsample(scale_factor=2, mode="nearest")
    return nn.Sequential(OrderedDict(larger=larger, conv=_convolution(channels, channels)))


def _convolution(inputs: int, outputs: int, *, side: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2)


def _norm(config: Config, channels: int) -> nn.GroupNorm:
    """A group norm. The number of groups is the largest power of two up to ``groups`` that divides the
    channels."""
    return nn.GroupNorm(min(channels & -channels, 1 << config["groups"].bit_length() - 1), channels)


def _widths(config: Config) -> list[int]:
    """Channels of each level, from full resolution down."""
    return [int(multiplier * config["channels"]) for multiplier in config["multipliers"]]


def _embedding_size(config: Config) -> int:
    size: int = 4 * config["channels"]
    return size
