"""Options that teachers, students and baselines share, as small frozen dataclasses.

None leaves an option at the core's default. A mapping of option names to values is accepted in place of any
of the dataclasses.
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
    """Base class of the option dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    # The option that a bare number stands for, if any.
    _short: ClassVar[str | None] = None
    # Former names of keyword arguments, from before options were grouped, with their present names.
    renamed: ClassVar[Mapping[str, str]] = {}

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        # Python's own message would not suggest the nearest name.
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
        """An instance from the value of an argument: an instance, a mapping, or None for the defaults.

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

        Raises ``ArgumentError`` for a name that is not among ``only``, the options of the trainer ``of``.
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
    """The end of a message about an unknown name: a suggestion, or nothing if no existing name is similar."""
    found = difflib.get_close_matches(name, sorted(names), n=1)
    return f": did you mean {found[0]!r}?" if found else ""


def to_json(options: Mapping[str, Any]) -> str:
    """Options as JSON for the core; :func:`plain` lists the types of values that it takes."""
    return json.dumps(plain(options))


def name_of(value: Any) -> str:
    """The name of a device or dtype, given as a name or as an object of torch or NumPy.

    Raises ``ArgumentError`` for anything else.
    """
    name = plain(value, "device or dtype")
    if not isinstance(name, str):
        expected = "a name such as 'cpu', 'cuda:1' or 'float32'"
        raise ArgumentError(f"device or dtype: expected {expected}, got {value!r}")
    return name


def plain(value: Any, name: str = "") -> Any:
    """Convert options to plain data.

    Values may be numbers and arrays of NumPy and torch, devices, dtypes, paths and option groups. Raises
    ``ArgumentError``, which names the option, for anything else.

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
    # A Python integer may exceed the largest float. No option takes such a number, and JSON cannot hold it.
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
        raise ArgumentError(f"{name}: expected a number of 64 bits, got one of {value.bit_length()} bits")
    expected = "a finite number" if number else "a number, a name or a list of them"
    raise ArgumentError(f"{name or 'options'}: expected {expected}, got {value!r}")


@dataclass(frozen=True, repr=False)
class UNet(Options):
    """A U-Net: residual blocks with group norm and SiLU, embeddings of time and class, attention.

    The architecture is that of torchcfm's ``UNetModel`` (after Dhariwal & Nichol, arXiv 2105.05233). Names in
    parentheses are torchcfm's. ``fit`` checks the ranges.

    Parameters
    ----------
    channels : int, default 32
        Number of channels at full resolution (``num_channels``).
    multipliers : sequence of float, optional
        Number of channels of each level, divided by ``channels`` (``channel_mult``). The first level is at
        full resolution; each further one has half the resolution of the one before. The default is (1, 2, 2),
        or fewer levels if the image cannot be halved as often or would have fewer than 4 pixels on a side.
    blocks : int, default 1
        Number of residual blocks of each level on the way down; there is one more on the way up
        (``num_res_blocks``).
    attention : sequence of int, default ()
        Levels with self-attention, given as downsampling factors: 1, 2, 4, ... (``attention_resolutions``).
        The middle block always has self-attention.
    heads : int, default 1
        Number of attention heads (``num_heads``).
    head_channels : int, optional
        Number of channels of one head; replaces ``heads`` (``num_head_channels``).
    dropout : float, default 0
        Fraction of activations dropped in training, in [0, 1).
    groups : int, default 8
        Largest number of groups in a group norm. The number used is the largest power of two up to it that
        divides the number of channels. torchcfm uses 32. Groups of a single channel remove every shift by
        time and class.
    scale_shift : bool, default True
        Whether time and class scale the features in addition to shifting them (``use_scale_shift_norm``,
        False in torchcfm).
    residual_resampling : bool, default False
        Whether residual blocks, instead of plain convolutions, change the resolution (``resblock_updown``).
    time_scale : float, default 100
        Factor that multiplies t before its sines and cosines are taken; 1 in torchcfm.

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
        """All options for the core, which replaces None by its defaults."""
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
    """The U-Net that ``given`` asks for, or None if it is ``default``, the name of the other network.

    Raises ``ArgumentError`` for another name, or a mapping with unknown options.
    """
    if given == default:
        return None
    if given == "unet":
        return UNet()
    if isinstance(given, UNet | Mapping):
        return UNet.of(argument, given)
    raise ArgumentError(f"{argument}: expected {default!r}, 'unet' or a UNet, got {given!r}")


@dataclass(frozen=True, repr=False)
class Architecture(Options):
    """Options of a student's model other than its basis, generator, width and depth.

    Parameters
    ----------
    inputs : {"standardised", "raw"}, optional
        Inputs of the network of ``basis="network"``. ``"standardised"``, the default: t, and x in the data's
        principal axes, both raw and standardised by the mean and deviation of x_t at that time, with a linear
        skip connection to the features. ``"raw"``: t and x as they are, without a skip connection, as in the
        paper.
    lifts : {1, 2}, optional
        Number of networks of observables that share the generator. The default, 2, has one network for
        decoding forwards in time and one for decoding backwards; 1 uses the same network for both directions.
    directed : bool, optional
        Whether one network serves both directions and receives the direction, 1 or -1, as an input. A U-Net
        receives it as a vector, added to the embedding of time, that starts at zero. ``lifts`` is then 1.
    frame : {"moving", "fixed"}, optional
        Output of the network. ``"moving"``, the default for a spectral generator with a trained network: the
        value h(t, x) that each feature had at time 0. The features are then phi = h exp(t L), so that an
        eigenfunction is exp(lambda t) times a constant of motion. ``"fixed"``: the features phi themselves.
    stability : {"free", "dissipative", "bounded"}, optional
        Constraint on a dense generator. ``"free"``, the default: none. ``"dissipative"``: no eigenvalue
        grows. ``"bounded"``: real parts of eigenvalues are at most 8 in modulus, as a spectral generator
        always has them.
    decoder : {"slice", "linear", "network"}, optional
        Map from observables to states. ``"slice"``, the default: the coordinates of x, which are among the
        observables, so that decoding is exact from the start. ``"linear"``: a learnt linear map.
        ``"network"``: the coordinates plus a correction by a learnt network.
    degree : int, optional
        Degree of ``basis="polynomial"``, from 2 to 12; by default 4 in up to eight dimensions and 2 in more.
    per_pixel : bool, optional
        Whether every pixel of a hierarchy's feature maps has its own eigenvalues. By default the pixels of a
        channel share them.
    standardise : bool, optional
        Whether a student of data far from mean 0 and deviation 1 learns in standardised coordinates; True by
        default. Its inputs and outputs stay in the data's own units (docs/distillation.md).

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
            raise ArgumentError(f"lifts: expected 1 or None with directed=True, got {self.lifts!r}")


# Options of Training that every trainer has; only students have the others.
SHARED_TRAINING = ("optimizer", "weight_decay", "warmup_steps", "clip_norm", "ema_decay", "max_restarts")


@dataclass(frozen=True, repr=False)
class Training(Options):
    """Options of gradient training, shared by teachers, students, baselines and the command line.

    ``fit`` raises :class:`~koopflow.exceptions.ArgumentError` for an option that its trainer does not have.

    Parameters
    ----------
    optimizer : {"adam", "adamw"}, optional
        Optimiser; ``"adam"`` by default. ``"adamw"`` decouples the weight decay from the gradient.
    weight_decay : float, optional
        Strength of the weight decay, at least 0; 0 by default.
    schedule : {"cosine", "constant", "plateau"}, optional
        Schedule of the learning rate after the warm-up. ``"cosine"``, the default and a teacher's only
        schedule: half a cosine to zero. ``"constant"``: no change. ``"plateau"``: halved after five held-out
        evaluations without improvement. Students only.
    warmup_steps : int, optional
        Number of steps of linear warm-up; by default 100 for teachers and 50 for students.
    generator_learning_rate : float, optional
        Peak learning rate of the generator; by default that of the observables. Students only.
    clip_norm : float, optional
        Gradient norm above which gradients are clipped, 1 by default; 0 turns clipping off.
    ema_decay : float, optional
        Decay of the exponential moving average of the weights, in [0, 1); 0 turns averaging off. By default
        0.999 for teachers and 0 for students. Students keep both kinds of weights: see
        :meth:`koopflow.KoopmanDistiller.use_weights`.
    averages : sequence of float, optional
        Up to eight decays, in (0, 1), of moving averages that are kept at the same time; replaces
        ``ema_decay``. Every held-out evaluation measures all of them by ``metric``. The best average becomes
        the student, and the best state of each other one is kept too: see
        :meth:`koopflow.KoopmanDistiller.use_average`. Students only.
    precision : {"float32", "bf16", "fp16"}, optional
        Precision of the network's matrix products in training. Evaluation and sampling use ``dtype``.
        ``"fp16"`` uses dynamic loss scaling and needs CUDA. Students only.
    accumulate : int, optional
        Number of micro-batches of a step (gradient accumulation), each of at least two pairs of times; 1 by
        default. When a GPU runs out of memory the number doubles, and ``history_["notes"]`` records it.
        Students only.
    evaluate_every : int, optional
        Number of steps between two held-out evaluations; by default a twentieth of all steps. Students only.
    metric : str, optional
        Held-out error by which the best state, plateaus and ``patience`` are decided: ``"endpoint_error"``,
        ``"path_error"``, ``"inversion_error"``, ``"phase_error"``, ``"consistency_residual"``, or the default
        ``"score"``. The score is the sum of those of the first three that a term of the loss trains.
        ``"latest"`` keeps the latest state instead, and is the default where ``correction`` is the only term
        that compares student and teacher. Students only.
    patience : int, optional
        Number of held-out evaluations without improvement after which training ends; by default there is no
        limit. Students only.
    max_restarts : int, optional
        Number of times that a diverging fit restarts from its best or last good state, with half the learning
        rate; 3 by default.
    method : {"gradient", "closed_form", "refine"}, optional
        Training method. ``"gradient"``, the default: gradient steps. ``"closed_form"``: a linear solve of
        seconds, for the dense generator or the spectral readout of random observables with one lift.
        ``"refine"``: gradient steps, then that solve for the trained observables, for which a fifth of
        ``max_seconds`` is reserved; the result with the lower held-out errors is kept. Students only.
    ridge : float, optional
        Ridge parameter of the linear solve, relative to the mean square of the regressors; by default it is
        chosen on held-out trajectories. Students only.

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
    """Options of the teacher's trajectories that a student learns from. An integer stands for ``count``.

    Parameters
    ----------
    count : int, optional
        Number of stored trajectories. The default is 65,536 up to eight dimensions, 131,072 up to 256 and
        16,384 beyond, but no more than training can use (the rows of all its steps). Beyond 512 dimensions it
        is also limited so that solving takes about as long as training, by the number of multiplications of
        both; a note in ``history_["notes"]`` then says so. These limits apply neither to a given number nor
        with a ``trajectory_file``.
    path_steps : int, optional
        Number of steps in which each trajectory is stored; by default 32 up to eight dimensions, 16 beyond.
    solver : str, optional
        Solver of the trajectories: ``"dopri5"`` to a tolerance of 1e-4, the default, or a solver of fixed
        steps, as in :meth:`koopflow.FlowTeacher.sample`. For images ``"ab2"`` takes a third of the time, and
        its error is smaller than that of a student.
    solver_steps : int, optional
        Number of steps over the whole path of a fixed-step solver, at least ``path_steps``; 16 by default.
    memory : float, optional
        Largest size of the stored trajectories in GiB, 2 by default. If they would take more, fewer are
        stored, and ``history_["trajectories"]`` says how many. Trajectories in a file are not limited.
    pairs : {"trajectory", "endpoints", "time_grouped"}, optional
        Points of a trajectory that the ``target`` and ``phase`` terms connect. ``"trajectory"``, the default:
        two random times, of which the later one is 1 in half of the pairs. ``"endpoints"``: noise and
        endpoint. ``"time_grouped"``: random starts with one time difference for the whole batch.
    curriculum : {"forward", "reverse"}, optional
        Course of the time difference of ``pairs="time_grouped"`` during training: ``"forward"`` grows it from
        one step of the path to the whole path, ``"reverse"`` shrinks it. By default it is drawn at random.

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
    """Options of a student's loss. They change what ``fidelity`` sets.

    Parameters
    ----------
    weights : mapping, optional
        Weights of the loss terms by name; 0 turns a term off.
        Terms in data space: ``endpoint`` (noise to data), ``path`` (noise to a random time), ``target``
        (between the two points of a pair), ``inverse`` (data to noise), ``round_trip`` (data to the student's
        noise and back), ``re_encoding`` (noise to data through 2, 4 or 8 of the student's own steps),
        ``feature_distance`` (see :meth:`koopflow.KoopmanDistiller.fit`), ``correction`` (the distribution of
        samples of fresh noise against the teacher's, a native network, through a second network that learns
        the field of the student's noised samples; arXiv 2511.19428), ``reconstruction`` (for readouts that
        are not an exact slice).
        In observable space: ``phase`` (g(s) exp((t - s) L) against g(t)), ``consistency`` (J g (1, v) against
        g L; alone it needs no solved trajectories), ``levels`` (a hierarchy's feature maps along a path,
        through learnt linear heads, against those of its teacher, a native U-Net with the student's levels
        and blocks).
        Regularisers: ``unitarity`` (squared growth), ``stability`` (squared positive growth),
        ``orthogonality`` (squared cosines between modes), ``latent_moments`` (means of features from 0 and
        deviations from 1).
    scaling : {"relative", "absolute"}, optional
        Unit of the squared errors: ``"relative"``, the default, divides them by the variance of the target;
        ``"absolute"`` does not.
    row_power, row_offset : float, optional
        Power and offset of the adaptive row weights in the terms in data space. The squared error e of a row,
        in the unit of ``scaling``, becomes e / (e + row_offset)^row_power; no gradient passes through the
        denominator (MeanFlow, arXiv 2505.13447, eq. 22). The power is in [0, 2]. The default, 0, weights all
        rows equally; with 1, rows with large errors pull no harder than others. The offset is at least 1e-12
        and 1e-3 by default. An offset without a power is an error.
    endpoint_first : float, optional
        Fraction of training, in [0, 1), in which only the terms ``endpoint`` and ``feature_distance`` are
        computed; afterwards all terms are. 0 by default. It is a fraction of the steps, or of ``max_seconds``
        if more of the time than of the steps is used up. The first stage is judged by the endpoint error,
        without ``patience``. The second stage takes the state at its start as the best one so far, and
        ``metric`` judges it.
    coupling : {"ot", "independent"}, optional
        Pairing of noise and data on the teacher's probability path, for the ``consistency`` term. The default
        is that of a teacher trained by koopflow, and ``"independent"`` for any other teacher.
    path : {"linear", "vp"}, optional
        Probability path of the teacher, for the same term. The default is that of a teacher trained by
        koopflow, and ``"linear"`` for any other teacher.

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
