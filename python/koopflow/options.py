"""Options that teachers, students and baselines share, as small frozen dataclasses.

None leaves a choice to the core; a mapping of the same names may stand for any of them.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import Field, dataclass, fields, replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ._arrays import as_integer
from .exceptions import ArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self


class Options:
    """What all option dataclasses do."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    # The option that a bare number stands for, if any.
    _short: ClassVar[str | None] = None
    # Names that keyword arguments had before options were grouped, and what they are called here.
    renamed: ClassVar[Mapping[str, str]] = {}

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        # Python's own message would not say which name is meant.
        for name in keywords:
            if name not in cls.names():
                raise TypeError(f"{cls.__name__}() has no option {name!r}{nearest(name, cls.names())}")
        return super().__new__(cls)

    @classmethod
    def names(cls) -> list[str]:
        """The names of all options."""
        return [field.name for field in fields(cls)]

    @classmethod
    def of(cls, argument: str, value: Any) -> Self:
        """The options that an argument says: an instance, a mapping, or None for none.

        Raises ``ArgumentError`` for anything else, and for unknown names in a mapping.
        """
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            for name in value:
                if name not in cls.names():
                    hint = nearest(str(name), cls.names())
                    raise ArgumentError(f"{argument}: a {cls.__name__} has no option {name!r}{hint}")
            return cls(**value)
        if cls._short is not None:
            with contextlib.suppress(ArgumentError):
                return cls(**{cls._short: as_integer(value, argument)})
        raise ArgumentError(
            f"{argument}: expected a {cls.__name__}, a mapping of its options or None, got {value!r}"
        )

    def given(self, *, only: Collection[str] | None = None, of: str = "") -> dict[str, Any]:
        """The options that are set, by name.

        Raises ``ArgumentError`` for a name that is not among ``only``, of a trainer that is called ``of``.
        """
        found = {name: getattr(self, name) for name in self.names() if getattr(self, name) is not None}
        for name in found:
            if only is not None and name not in only:
                raise ArgumentError(f"{name}: {of} has no such option, only {', '.join(sorted(only))}")
        return found

    def replaced(self, **options: Any) -> Self:
        """A copy with some options changed."""
        return replace(self, **options)

    def __repr__(self) -> str:
        values = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        changed = ", ".join(f"{name}={value!r}" for name, value, default in values if value != default)
        return f"{type(self).__name__}({changed})"


def nearest(name: str, names: Iterable[str]) -> str:
    """What to say after an unknown name: the nearest one that exists, if any is near."""
    found = difflib.get_close_matches(name, sorted(names), n=1)
    return f": did you mean {found[0]!r}?" if found else ""


def to_json(options: Mapping[str, Any]) -> str:
    """JSON for the core, of options of any sensible type: see :func:`plain`."""
    return json.dumps(plain(options))


def name_of(value: Any) -> str:
    """The name of a device or dtype, which torch and NumPy have objects for. Raises ``ArgumentError``."""
    name = plain(value, "device or dtype")
    if not isinstance(name, str):
        expected = "a name such as 'cpu', 'cuda:1' or 'float32'"
        raise ArgumentError(f"device or dtype: expected {expected}, got {value!r}")
    return name


def plain(value: Any, name: str = "") -> Any:
    """Options as plain data: numbers and arrays of NumPy and torch, devices, dtypes, paths, option groups.

    Raises ``ArgumentError`` that names the option for anything else.

    Examples
    --------
    >>> import numpy as np, torch
    >>> plain({"steps": np.int64(3), "dtype": torch.float64, "device": torch.device("cpu")})
    {'steps': 3, 'dtype': 'float64', 'device': 'cpu'}
    """
    if isinstance(value, Options):
        value = value.given()
    if isinstance(value, np.generic | np.ndarray | torch.Tensor):
        value = value.tolist()
    # An integer of Python may be larger than every float, which no option takes and JSON does not read.
    number = isinstance(value, int | float)
    if value is None or isinstance(value, str) or (number and abs(value) <= sys.float_info.max):
        return value
    if isinstance(value, Mapping):
        inner = f"{name}." if name else ""
        return {str(key): plain(item, f"{inner}{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    if isinstance(value, torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic | float)):
        return np.dtype(value).name
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, int):
        raise ArgumentError(f"{name}: expected a number of 64 bits, got one of {value.bit_length()}")
    expected = "a finite number" if number else "a number, a name or a list of them"
    raise ArgumentError(f"{name or 'options'}: expected {expected}, got {value!r}")


@dataclass(frozen=True, repr=False)
class UNet(Options):
    """A U-Net: residual blocks with group norm and SiLU, embeddings of time and class, attention.

    The architecture is that of torchcfm's ``UNetModel`` (after Dhariwal & Nichol, arXiv 2105.05233); names in
    brackets are torchcfm's. Ranges are checked where it is used.

    Parameters
    ----------
    channels : int, default 32
        Channels at full resolution (``num_channels``).
    multipliers : sequence of float, optional
        Channels of each level over ``channels``, from full resolution down, each level half as large as the
        one before (``channel_mult``). By default up to three levels, (1, 2, 2), as long as the image can be
        halved and keeps 4 pixels.
    blocks : int, default 1
        Residual blocks of each level on the way down, one more on the way up (``num_res_blocks``).
    attention : sequence of int, default ()
        Levels with self-attention, as factors of downsampling: 1, 2, 4, ... (``attention_resolutions``). The
        middle always has it.
    heads : int, default 1
        Heads of attention (``num_heads``).
    head_channels : int, optional
        Channels of one head, instead of ``heads`` (``num_head_channels``).
    dropout : float, default 0
        Share of activations that training drops, in [0, 1).
    groups : int, default 8
        Groups of channels that are normalised together, or the largest power of two below that divides the
        channels; torchcfm's are 32. One channel a group removes every shift by time and class.
    scale_shift : bool, default True
        Whether time and class scale features as well as shifting them (``use_scale_shift_norm``, there
        False).
    residual_resampling : bool, default False
        Whether residual blocks change the resolution, instead of convolutions (``resblock_updown``).
    time_scale : float, default 100
        Factor of t before its sines and cosines; torchcfm's is 1.

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

    def __post_init__(self) -> None:
        for name in ("multipliers", "attention"):
            value = getattr(self, name)
            if value is not None or name != "multipliers":
                object.__setattr__(self, name, _numbers(name, value, "(1, 2)"))

    def options(self) -> dict[str, Any]:
        """All options for the core; it decides on what is None."""
        multipliers = [float(factor) for factor in self.multipliers or ()]
        return {**{name: getattr(self, name) for name in self.names()}, "multipliers": multipliers}


def _numbers(name: str, value: Any, example: str) -> tuple[Any, ...]:
    """A sequence of numbers as a tuple. Raises ``ArgumentError`` for anything else."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if np.ndim(value) != 1 or (len(value) and np.asarray(value).dtype.kind not in "iuf"):
        raise ArgumentError(f"{name}: expected a sequence of numbers such as {example}, got {value!r}")
    return tuple(value)


def unet_of(argument: str, given: str | UNet | Mapping[str, Any], default: str) -> UNet | None:
    """The U-Net that ``given`` asks for; None for ``default``, the name of what is used without one. Raises
    ``ArgumentError`` for another name, or a mapping with unknown options."""
    if given == default:
        return None
    if given == "unet":
        return UNet()
    if isinstance(given, UNet | Mapping):
        return UNet.of(argument, given)
    raise ArgumentError(f"{argument}: expected {default!r}, 'unet' or a UNet, got {given!r}")


@dataclass(frozen=True, repr=False)
class Architecture(Options):
    """A student's model beyond its basis, generator, width and depth.

    Parameters
    ----------
    inputs : {"standardised", "raw"}, optional
        Inputs of the network of ``basis="network"``. ``"standardised"``, the default: t and x in the data's
        principal axes, raw and standardised by the running mean and deviation of x_t, with a linear skip to
        the features. ``"raw"``: t and x as they are and no skip, as in the paper.
    lifts : {1, 2}, optional
        Number of observables networks under the one generator: 2, the default, for decoding forwards and
        backwards in time, or 1 for both directions.
    directed : bool, optional
        Whether one network serves both directions and is told which, 1 or -1: by one more input, or for
        U-Nets by a vector beside the embedding of time, which begins at zero. ``lifts`` is then 1.
    frame : {"moving", "fixed"}, optional
        What the network gives. ``"moving"``, the default for a spectral generator whose network is trained:
        each feature as it was at time 0, h(t, x), and phi is h exp(t L), so that an eigenfunction is
        exp(lambda t) times a constant of motion. ``"fixed"``: phi itself.
    stability : {"free", "dissipative", "bounded"}, optional
        Constraint on a dense generator: none (the default), no growing eigenvalue, or real parts within 8, as
        a spectral generator always has them.
    decoder : {"slice", "linear", "network"}, optional
        Map from observables to states: the coordinates of x among them, exact from the start (the default); a
        learnt linear map; or the coordinates and a learnt network's correction.
    degree : int, optional
        Degree of ``basis="polynomial"``, 2 to 12; by default 4 in up to eight dimensions, 2 beyond.
    per_pixel : bool, optional
        Whether every pixel of a hierarchy's maps has its own eigenvalues, instead of sharing its channel's.
    standardise : bool, optional
        Whether a student of data far from mean 0 and deviation 1 learns in standard coordinates, as by
        default; what it takes and answers is in the data's own units (docs/distillation.md).

    Examples
    --------
    >>> from koopflow import Architecture, KoopmanDistiller
    >>> distiller = KoopmanDistiller(generator="dense", architecture=Architecture(lifts=1))
    """

    inputs: str | None = None
    lifts: int | None = None
    directed: bool | None = None
    frame: str | None = None
    stability: str | None = None
    decoder: str | None = None
    degree: int | None = None
    per_pixel: bool | None = None
    standardise: bool | None = None

    def __post_init__(self) -> None:
        if self.directed and self.lifts not in (None, 1):
            raise ArgumentError(f"lifts: expected 1 or none for a lift that is directed, got {self.lifts!r}")


# Options of Training that every trainer has; the others are a student's.
SHARED_TRAINING = ("optimizer", "weight_decay", "warmup_steps", "clip_norm", "ema_decay", "max_restarts")


@dataclass(frozen=True, repr=False)
class Training(Options):
    """How gradient steps are taken: shared by teachers, students, baselines and the command line.

    An option that a trainer does not have is an :class:`~koopflow.exceptions.ArgumentError` when it fits.

    Parameters
    ----------
    optimizer : {"adam", "adamw"}, optional
        Optimiser, ``"adam"`` by default; ``"adamw"`` decouples the weight decay from the gradient.
    weight_decay : float, optional
        Strength of the weight decay, at least 0, the default.
    schedule : {"cosine", "constant", "plateau"}, optional
        Learning rate after the warm-up: a half cosine to zero (the default, and a teacher's), constant, or
        halved whenever five held-out evaluations bring no improvement. Students only.
    warmup_steps : int, optional
        Steps of linear warm-up; by default 100 for teachers, 50 for students.
    generator_learning_rate : float, optional
        Peak learning rate of the generator; that of the observables by default. Students only.
    clip_norm : float, optional
        Largest gradient norm that is applied, 1 by default; 0 does not clip.
    ema_decay : float, optional
        Decay of the averaged weights, in [0, 1); 0 does not average. By default 0.999 for teachers and 0 for
        students, which keep both kinds of weights: see :meth:`koopflow.KoopmanDistiller.use_weights`.
    averages : sequence of float, optional
        Up to eight decays, in (0, 1), of averages that are kept at once, in place of ``ema_decay``. Every
        held-out evaluation measures all of them by ``metric``; the best is kept, each one's own best state
        beside it: see :meth:`koopflow.KoopmanDistiller.use_average`. Students only.
    precision : {"float32", "bf16", "fp16"}, optional
        Precision of the network's products while training; evaluation and sampling are in ``dtype``.
        ``"fp16"``, with dynamic loss scaling, needs CUDA. Students only.
    accumulate : int, optional
        Micro-batches of one step, each of two pairs of times at least; 1 by default. When a GPU runs out of
        memory the number doubles, and ``history_["notes"]`` says so. Students only.
    evaluate_every : int, optional
        Steps between two held-out evaluations; by default there are twenty of them. Students only.
    metric : str, optional
        Held-out error that best-model keeping, plateaus and ``patience`` look at: ``"endpoint_error"``,
        ``"path_error"``, ``"inversion_error"``, ``"phase_error"``, ``"consistency_residual"``, or the default
        ``"score"``: the sum of the first three that a term of the loss asks for. Students only.
    patience : int, optional
        Evaluations without improvement that end fitting; by default nothing does. Students only.
    max_restarts : int, optional
        Number of times that a diverging fit returns to its best or last good state, at half the learning
        rate; 3 by default.
    method : {"gradient", "closed_form", "refine"}, optional
        ``"gradient"``: gradient steps (the default). ``"closed_form"``: instead a linear solve in seconds,
        for the dense generator, or the spectral readout, of random observables with one lift. ``"refine"``:
        gradient steps, then that solve for the trained observables, for which a fifth of ``max_seconds`` is
        left, and whichever has the lower held-out errors. Students only.
    ridge : float, optional
        Ridge of the linear solve, relative to the mean square of the regressors; chosen on held-out
        trajectories by default. Students only.

    Examples
    --------
    >>> from koopflow import KoopmanDistiller, Training
    >>> KoopmanDistiller(training=Training(ema_decay=0.9)).set_params(training__clip_norm=0).training
    Training(clip_norm=0, ema_decay=0.9)
    """

    optimizer: str | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    warmup_steps: int | None = None
    generator_learning_rate: float | None = None
    clip_norm: float | None = None
    ema_decay: float | None = None
    averages: tuple[float, ...] | None = None
    precision: str | None = None
    accumulate: int | None = None
    evaluate_every: int | None = None
    metric: str | None = None
    patience: int | None = None
    max_restarts: int | None = None
    method: str | None = None
    ridge: float | None = None

    def __post_init__(self) -> None:
        if self.averages is not None:
            object.__setattr__(self, "averages", _numbers("averages", self.averages, "(0.99, 0.999)"))


@dataclass(frozen=True, repr=False)
class Trajectories(Options):
    """The teacher's trajectories that a student learns from; an integer stands for their count.

    Parameters
    ----------
    count : int, optional
        Number of stored trajectories: by default 65,536 up to eight dimensions, 131,072 up to 256, 16,384
        beyond, but no more than training can use (the rows of all its steps) and, beyond 512, no more than
        take about as long as training does, by the multiplications of both; a note says so then, in
        ``history_["notes"]`` too. A given number is obeyed, and so is the default with a ``trajectory_file``.
    path_steps : int, optional
        Number of steps in which each trajectory is stored: by default 32 up to eight dimensions, 16 beyond.
    solver : str, optional
        What solves them: ``"dopri5"`` to a tolerance of 1e-4, the default, or a solver of fixed steps, as
        in :meth:`koopflow.FlowTeacher.sample`. For images ``"ab2"`` takes a third of the time, and errs
        less than students do.
    solver_steps : int, optional
        Steps of such a solver over the whole path, at least one for each of ``path_steps``; 16 by default.
    memory : float, optional
        GiB that stored trajectories may take, 2 by default. If they would take more, fewer are stored, and
        ``history_["trajectories"]`` says how many. Trajectories in a file are not bounded.
    pairs : {"trajectory", "endpoints", "time_grouped"}, optional
        Points of a trajectory that the ``target`` and ``phase`` terms connect: two random times, half of the
        later ones being 1 (the default); noise and endpoint; or random starts, one time difference a batch.
    curriculum : {"forward", "reverse"}, optional
        Whether the time difference of ``pairs="time_grouped"`` grows from one step of the path to all of it
        during training, or shrinks; drawn at random by default.

    Examples
    --------
    >>> from koopflow import KoopmanDistiller, Trajectories
    >>> distiller = KoopmanDistiller(trajectories=Trajectories(count=4096, path_steps=8))
    """

    _short: ClassVar[str | None] = "count"
    renamed: ClassVar[Mapping[str, str]] = {"trajectory_memory": "memory"}

    count: int | None = None
    path_steps: int | None = None
    solver: str | None = None
    solver_steps: int | None = None
    memory: float | None = None
    pairs: str | None = None
    curriculum: str | None = None


@dataclass(frozen=True, repr=False)
class Objective(Options):
    """A student's loss, on top of what ``fidelity`` sets.

    Parameters
    ----------
    weights : mapping, optional
        Weights of the loss by term name; 0 turns a term off.
        Terms in data space: ``endpoint`` (noise to data), ``path`` (noise to a random time), ``target``
        (between the two points of a pair), ``inverse`` (data to noise), ``round_trip`` (data to the student's
        noise and back), ``re_encoding`` (noise to data through 2, 4 or 8 of the student's own steps),
        ``feature_distance`` (see :meth:`koopflow.KoopmanDistiller.fit`), ``reconstruction`` (for readouts
        that are not an exact slice).
        In observable space: ``phase`` (g(s) exp((t - s) L) against g(t)), ``consistency`` (J g (1, v) against
        g L; alone it needs no solved trajectories), ``levels`` (a hierarchy's feature maps along a path,
        through learnt linear heads, against those of its teacher, a native U-Net with the student's levels
        and blocks).
        Regularisers: ``unitarity`` (squared growth), ``stability`` (squared positive growth),
        ``orthogonality`` (squared cosines between modes), ``latent_moments`` (means of features from 0 and
        deviations from 1).
    scaling : {"relative", "absolute"}, optional
        Unit of errors: the variance of what they are compared with (the default), or none.
    row_power, row_offset : float, optional
        Adaptive weights of rows in the terms in data space: each row's squared error e, in the unit that
        ``scaling`` says, counts as e / (e + row_offset)^row_power, whose denominator is taken as given
        (MeanFlow, arXiv 2505.13447, eq. 22). The power is in [0, 2]; 0, the default, weighs all rows alike,
        and 1 gives rows that are far off the pull of others. The offset is 1e-3 by default, at least 1e-12,
        and an error without a power.
    endpoint_first : float, optional
        Share of training, in [0, 1), in which only ``endpoint`` and ``feature_distance`` are formed; then all
        terms are. 0 by default. It is a share of the steps, or of ``max_seconds`` where the clock is ahead of
        them. The first stage is judged by the endpoint error, without ``patience``; the second begins with
        the state at its start as the best one, and ``metric`` judges it.
    coupling : {"ot", "independent"}, optional
        Pairing of noise and data on the teacher's probability path, for the ``consistency`` term.
    path : {"linear", "vp"}, optional
        That path. Both are by default those of a teacher that koopflow trained, and ``"independent"`` and
        ``"linear"`` for any other.

    Examples
    --------
    >>> from koopflow import KoopmanDistiller, Objective
    >>> distiller = KoopmanDistiller(objective=Objective(weights={"consistency": 0.1}))
    """

    weights: Mapping[str, float] | None = None
    scaling: str | None = None
    row_power: float | None = None
    row_offset: float | None = None
    endpoint_first: float | None = None
    coupling: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if not (self.weights is None or isinstance(self.weights, Mapping)):
            raise ArgumentError(f"weights: expected a mapping of terms to numbers, got {self.weights!r}")
