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


@dataclass(frozen=True)
class Architecture:
    """The student's model beyond its basis, generator, width and depth; defaults are those of the core.

    Parameters
    ----------
    inputs : {"standardised", "raw"}, optional
        Inputs of the observables network: t and x in the data's principal axes, raw and standardised by the
        running mean and deviation of x_t, with a linear skip to the features; or t and x alone and no skip,
        as in the paper.
    lifts : {1, 2}, optional
        Number of observables networks: one for each direction of time (2, the default), or one for both.
    frame : {"moving", "fixed"}, optional
        Whether the network gives each feature as it was at time 0 (``"moving"``) or the feature itself.
    stability : {"free", "dissipative", "bounded"}, optional
        Constraint on the eigenvalues of a dense generator.
    decoder : {"slice", "linear", "network"}, optional
        How states are read from observables.
    degree : int, optional
        Degree of a polynomial basis, 2 to 12.
    per_pixel : bool, optional
        Whether every pixel of a hierarchy's maps has its own eigenvalues.
    """

    inputs: str | None = None
    lifts: int | None = None
    frame: str | None = None
    stability: str | None = None
    decoder: str | None = None
    degree: int | None = None
    per_pixel: bool | None = None


@dataclass(frozen=True)
class Training:
    """How gradient steps are taken: shared by teachers, students, baselines and the command line.

    Every option that is None is the trainer's default. Options that a trainer does not have are an
    :class:`~koopflow.exceptions.ArgumentError` there.

    Parameters
    ----------
    optimizer : {"adam", "adamw"}, optional
        Optimiser; ``"adamw"`` decouples the weight decay.
    weight_decay : float, optional
        Strength of the weight decay, at least 0.
    schedule : {"cosine", "constant", "plateau"}, optional
        Learning rate after the warm-up. Students only.
    warmup_steps : int, optional
        Steps of linear warm-up.
    generator_learning_rate : float, optional
        Peak learning rate of the generator. Students only.
    clip_norm : float, optional
        Largest gradient norm that is applied; 0 does not clip.
    ema_decay : float, optional
        Decay of the averaged weights, in [0, 1); 0 does not average.
    precision : {"float32", "bf16", "fp16"}, optional
        Precision of the network's products while training. Students only.
    accumulate : int, optional
        Micro-batches of one step. Students only.
    evaluate_every : int, optional
        Steps between two held-out evaluations. Students only.
    metric : str, optional
        Held-out error that best-model keeping, plateaus and ``patience`` look at. Students only.
    patience : int, optional
        Evaluations without improvement that end fitting. Students only.
    max_restarts : int, optional
        Number of times a diverging fit returns to its best state at half the learning rate.
    method : {"gradient", "closed_form", "refine"}, optional
        Gradient steps, a linear solve, or both. Students only.
    ridge : float, optional
        Ridge of the linear solve, relative to the mean square of the regressors. Students only.
    """

    optimizer: str | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    warmup_steps: int | None = None
    generator_learning_rate: float | None = None
    clip_norm: float | None = None
    ema_decay: float | None = None
    precision: str | None = None
    accumulate: int | None = None
    evaluate_every: int | None = None
    metric: str | None = None
    patience: int | None = None
    max_restarts: int | None = None
    method: str | None = None
    ridge: float | None = None


@dataclass(frozen=True)
class Trajectories:
    """The teacher's trajectories that a student learns from; an integer stands for their count.

    Parameters
    ----------
    count : int, optional
        Number of stored trajectories.
    path_steps : int, optional
        Number of steps in which each trajectory is stored.
    memory : float, optional
        GiB that stored trajectories may take; 2 by default.
    pairs : {"trajectory", "endpoints", "time_grouped"}, optional
        Which two points of a trajectory the ``target`` and ``phase`` terms connect.
    curriculum : {"forward", "reverse"}, optional
        Whether the time difference of ``pairs="time_grouped"`` grows or shrinks during training.
    """

    count: int | None = None
    path_steps: int | None = None
    memory: float | None = None
    pairs: str | None = None
    curriculum: str | None = None


@dataclass(frozen=True)
class Objective:
    """The student's loss, over what ``fidelity`` sets.

    Parameters
    ----------
    weights : mapping, optional
        Weights of the loss by term name; 0 turns a term off.
    scaling : {"relative", "absolute"}, optional
        Errors over the variance of their target, or plain mean squares.
    coupling : {"ot", "independent"}, optional
        How the teacher's noise and data were paired, for the ``consistency`` term.
    path : {"linear", "vp"}, optional
        The teacher's probability path, for the ``consistency`` term.
    """

    weights: Mapping[str, float] | None = None
    scaling: str | None = None
    coupling: str | None = None
    path: str | None = None
