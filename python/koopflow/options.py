"""Architectures of networks, for teachers and for students alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .exceptions import ArgumentError


@dataclass(frozen=True)
class UNet:
    """A U-Net: residual blocks with group norm and SiLU, embeddings of time and class, attention.

    The architecture is that of torchcfm's ``UNetModel`` (after Dhariwal & Nichol, arXiv 2105.05233); names in
    brackets are torchcfm's. Ranges are checked where it is used.

    Parameters
    ----------
    channels : int, default 32
        Channels at full resolution (``num_channels``).
    multipliers : sequence of float, optional
        Channels of each level over ``channels``, from full resolution down, each level half as large as the
        one before (``channel_mult``). None takes up to three levels, (1, 2, 2), as far as the image can be
        halved and keeps 4 pixels.
    blocks : int, default 1
        Residual blocks of each level on the way down, one more on the way up (``num_res_blocks``).
    attention : sequence of int, default ()
        Levels with self-attention, as factors of downsampling: 1, 2, 4, ... (``attention_resolutions``). The
        middle always has it.
    heads : int, default 1
        Heads of attention (``num_heads``).
    head_channels : int, optional
        Channels of one head instead (``num_head_channels``).
    dropout : float, default 0
        In [0, 1), of training only.
    groups : int, default 8
        Groups of channels that are normalised together, or the largest power of two below that divides the
        channels; torchcfm's are 32. Where that leaves one channel a group, normalisation takes away whatever
        time and class shift, and they have no say unless they also scale.
    scale_shift : bool, default True
        Time and class scale features as well as shifting them (``use_scale_shift_norm``, False there).
    residual_resampling : bool, default False
        Residual blocks change the resolution, instead of convolutions (``resblock_updown``).
    time_scale : float, default 100
        What t is multiplied by before its sines and cosines; 1 is torchcfm's.

    Examples
    --------
    >>> from koopflow import FlowTeacher, UNet
    >>> teacher = FlowTeacher((1, 16, 16), network=UNet(channels=32, multipliers=(1, 2)))
    """

    channels: int = 32
    multipliers: tuple[float, ...] | None = None
    blocks: int = 1
    attention: tuple[int, ...] = ()
    heads: int = 1
    head_channels: int | None = None
    dropout: float = 0.0
    groups: int = 8
    scale_shift: bool = True
    residual_resampling: bool = False
    time_scale: float = 100.0

    def options(self) -> dict[str, Any]:
        """As plain data for the core, which decides what is open."""
        options = asdict(self)
        options["multipliers"] = [float(factor) for factor in self.multipliers or ()]
        options["attention"] = [int(factor) for factor in self.attention]
        return options


def plain(unet: UNet | Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Options as plain data, for a file."""
    if unet is None:
        return None
    return asdict(unet) if isinstance(unet, UNet) else dict(unet)


def unet_of(argument: str, given: str | UNet | Mapping[str, Any], default: str) -> UNet | None:
    """The U-Net that ``given`` asks for; None for ``default``, the name of what is used without one.

    Raises
    ------
    ArgumentError
        For another name, or a mapping with unknown options.
    """
    if isinstance(given, UNet):
        return given
    if isinstance(given, Mapping):
        names = [field.name for field in fields(UNet)]
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise ArgumentError(f"{argument}: expected options of a UNet ({', '.join(names)}), got {unknown}")
        return UNet(**given)
    if given == "unet":
        return UNet()
    if given == default:
        return None
    raise ArgumentError(f"{argument}: expected {default!r}, 'unet' or a UNet, got {given!r}")
