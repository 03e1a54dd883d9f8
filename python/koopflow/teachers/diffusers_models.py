"""Models of the library diffusers as velocity fields, according to their schedulers' configurations."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._arrays import as_path, checked_event_shape
from .._conditioning import Conditioning
from ..exceptions import ArgumentError, CheckpointError, ShapeError
from ..options import name_of
from ..twins.diffusion import NoiseLevel, reading
from .torch_models import PREDICTION, TorchModel, tensor_of

#: Schedulers with a table of betas, diffusers' KarrasDiffusionSchedulers. They are interchangeable.
DISCRETE = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
EDM = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
PARAMETRISATIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
# Lower bound on alpha^2 of a table. The last entry is 0 if betas are rescaled to a terminal SNR of zero.
_LEAST = 1e-12


class Parts(NamedTuple):
    """The parts of a pipeline that its velocity needs."""

    model: Any
    scheduler: Any
    latent: str | None
    """Name of the part that decodes samples, if they are latents."""


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise levels q = sigma / alpha that a model was trained on, and its time argument at each."""

    parametrisation: str
    """Parametrisation, as in :meth:`koopflow.FlowTeacher.from_diffusion`."""
    log_noise: Tensor
    """Increasing log q ``[K]`` in float64. The time argument is interpolated linearly in it."""
    told: Tensor
    """Time arguments ``[K]``, which are timesteps or log(q) / 4, in float64."""
    preserving: bool = True
    """Whether the model's own state has alpha^2 + sigma^2 = 1; otherwise alpha = 1."""
    sigma_data: float = 0.5
    sign: float = 1.0
    """Sign of the output: EDM's "v_prediction" is -F."""
    whole: bool = False
    """Whether timesteps are integers, for models that look them up in a table."""

    @property
    def times(self) -> tuple[float, float]:
        """The times t = 1 / (1 + q) of the largest and of the smallest noise level."""
        least, most = self.log_noise[0].item(), self.log_noise[-1].item()
        return 1.0 / (1.0 + math.exp(most)), 1.0 / (1.0 + math.exp(least))

    def timestep(self, noise: Tensor) -> Tensor:
        """The time argument of the model at noise levels within the table."""
        log = noise.log()
        above = torch.searchsorted(self.log_noise.to(log.device), log).clamp(1, len(self.told) - 1)
        x, y = self.log_noise.to(log.device), self.told.to(log.device)
        share = ((log - x[above - 1]) / (x[above] - x[above - 1])).clamp(0.0, 1.0)
        told = y[above - 1] + share * (y[above] - y[above - 1])
        return told.round().long() if self.whole else told


@dataclasses.dataclass
class DiffusersModel(TorchModel):
    """A model of diffusers as a field on the straight path x_t = t x1 + (1 - t) x0.

    A diffusion model has ``noise``. Without it the model is one of flow matching, which is such a field
    already. A state z = alpha x1 + sigma x0 of a diffusion model is x = z / (alpha + sigma) at
    t = alpha / (alpha + sigma). On any path v = a' E[x1|x] + s' E[x0|x]. Here v = E[x1|x] - E[x0|x], so that
    an Euler step between two noise levels is a step of DDIM (Song et al. 2010.02502, eq. 12).
    """

    noise: Noise | None = None

    def _answer(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
        if self.noise is None:
            return super()._answer(t, x, condition)
        t, one = t.double().clamp(*self.noise.times), torch.ones_like(t, dtype=torch.float64)
        path = NoiseLevel(1.0 - t, t, 1.0 - t, one, 1.0 / t, -1.0 / (1.0 - t), 0.0 * one)
        linear, weight, inside = reading(path, self.noise.parametrisation, self.noise.sigma_data)
        if self.noise.preserving:
            inside = inside / torch.hypot(path.alpha, path.sigma)
        columns = (n.to(x.dtype).view(-1, *[1] * (x.ndim - 1)) for n in (linear, weight, inside))
        linear, weight, inside = columns
        told = self.noise.timestep(path.noise)
        told = told.to(x.dtype) if told.is_floating_point() else told
        answer = super()._answer(told, x * inside, condition)
        if answer.shape != x.shape:
            return answer
        return x * linear + answer * (weight * self.noise.sign)

    def _keywords(self, n: int) -> dict[str, Any]:
        text = self.extras.get("encoder_hidden_states")
        if isinstance(text, Tensor) and text.ndim == 3 and len(text) == 1:
            # One text for all samples.
            return {**self.extras, "encoder_hidden_states": text.expand(n, -1, -1)}
        return dict(self.extras)

    def _call(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Any:
        answer = tensor_of(super()._call(t, x, condition))
        # With twice the channels, the second half is the variance of a DDPM step (Nichol and Dhariwal
        # 2102.09672).
        twice = answer.ndim == x.ndim and answer.shape[1] == 2 * x.shape[1]
        return answer[:, : x.shape[1]] if twice else answer


def attached(parts: Parts, event_shape: Any, options: dict[str, Any]) -> DiffusersModel:
    """The model as a field. ``options`` are those of :class:`TorchModel`, with ``num_classes``,
    ``condition_dim`` and ``extras``; see :meth:`koopflow.FlowTeacher.from_diffusers` for errors."""
    config = config_of(parts.model)
    classes, dim = options.pop("num_classes"), options.pop("condition_dim")
    if classes is None and dim is None and "class_labels" not in options["extras"]:
        classes, dim = _conditioning(config)
    options["extras"] = _with_text(config, options["extras"])
    shape = _event_shape(config) if event_shape is None else checked_event_shape(event_shape)
    noise, scale = noise_of(parts.scheduler)
    if noise is not None and config.get("time_embedding_type") == "learned":
        noise = dataclasses.replace(noise, whole=True)
    channels, answered = config.get("in_channels"), config.get("out_channels")
    if channels and answered and answered not in (channels, 2 * channels):
        raise ArgumentError(
            "source: expected a model with as many output as input channels, or twice as many, got "
            f"{answered} for {channels}: attach a function that fixes the other inputs, by from_torch or "
            "from_diffusion"
        )
    if channels and answered == 2 * channels:
        _say(
            f"the model returns {answered} channels for {channels}: the rest, a learned variance, is ignored"
        )
    if parts.latent is not None:
        _say(f"samples are latents {tuple(shape)}: the pipeline's {parts.latent} makes images of them")
    return DiffusersModel(
        parts.model,
        shape,
        PREDICTION if noise else "diffusers",
        Conditioning(classes, dim),
        timestep_scale=scale,
        whole_timesteps=noise is None and config.get("time_embedding_type") == "learned",
        noise=noise,
        **options,
    )


# --- parts of a pipeline ------------------------------------------------------------------------------


def parts_of(source: Any, scheduler: Any, device: Any) -> Parts:
    """The model and the scheduler of a pipeline, a model, or a folder of either."""
    if isinstance(source, str | bytes | PathLike):
        parts = _of_folder(Path(as_path(source)), wanted=scheduler is None)
        if device is not None:
            parts.model.to(name_of(device))
    elif isinstance(components := getattr(source, "components", None), Mapping):
        model = next((components[n] for n in ("unet", "transformer") if components.get(n) is not None), None)
        if model is None:
            raise ArgumentError(
                f"source: expected a pipeline with a unet or transformer, got {_name(source)}"
            )
        parts = Parts(model, components.get("scheduler"), _decoder(components))
    elif isinstance(source, torch.nn.Module):
        parts = Parts(source, None, None)
    else:
        expected = "a folder, or a pipeline or model of diffusers"
        raise ArgumentError(f"source: expected {expected}, got {_name(source)}")
    if isinstance(scheduler, str | bytes | PathLike):
        scheduler = _loaded_scheduler(Path(as_path(scheduler)), "scheduler")
    found = parts._replace(scheduler=parts.scheduler if scheduler is None else scheduler)
    if found.scheduler is None:
        raise ArgumentError(
            "scheduler: expected a scheduler of diffusers or a folder of one, because the source has none "
            "and only the scheduler says what the model predicts; got None"
        )
    return found


def _of_folder(folder: Path, *, wanted: bool) -> Parts:
    if not folder.is_dir():
        raise ArgumentError(
            f"source: expected a folder, as save_pretrained writes it, got {str(folder)!r}, which is no "
            "folder on this machine; nothing is downloaded"
        )
    index = folder / "model_index.json"
    if not index.is_file():
        if not (folder / "config.json").is_file():
            expected = "model_index.json (a pipeline) or config.json (a model)"
            raise CheckpointError(f"{folder}: expected {expected}, got neither")
        return Parts(_loaded(folder, "config.json"), None, None)
    named = _read(index)
    listed = {n: v for n, v in named.items() if isinstance(v, list) and len(v) == 2 and v[1] is not None}
    name = next((n for n in ("unet", "transformer") if n in listed), None)
    if name is None:
        got = named.get("_class_name")
        raise ArgumentError(f"source: expected a pipeline with a unet or transformer, got {got}")
    scheduler = None
    if wanted and (folder / "scheduler").is_dir():
        scheduler = _loaded_scheduler(folder / "scheduler", "source")
    return Parts(_loaded(folder / name, "config.json"), scheduler, _decoder(listed))


def _loaded_scheduler(folder: Path, argument: str) -> Any:
    inner = folder / "scheduler"
    folder = inner if inner.is_dir() else folder
    if not (folder / "scheduler_config.json").is_file():
        raise ArgumentError(
            f"{argument}: expected a folder with scheduler_config.json, got {str(folder)!r}; nothing is "
            "downloaded"
        )
    return _loaded(folder, "scheduler_config.json")


def _loaded(folder: Path, file: str) -> Any:
    """The model or scheduler in a folder. Raises ``CheckpointError`` if there is none, or it is damaged."""
    if not (folder / file).is_file():
        raise CheckpointError(f"{folder}: expected {file}, got no such file")
    name = _read(folder / file).get("_class_name")
    try:
        library = importlib.import_module("diffusers")
    except ImportError as error:
        reason = "to read folders of diffusers, koopflow needs diffusers: pip install 'koopflow[diffusers]'"
        raise ImportError(reason, name="diffusers") from error
    kind = getattr(library, name, None) if isinstance(name, str) else None
    if kind is None:
        raise CheckpointError(f"{folder / file}: expected a class of diffusers as _class_name, got {name!r}")
    options: dict[str, Any] = {"local_files_only": True}
    if issubclass(kind, torch.nn.Module) and importlib.util.find_spec("accelerate") is None:
        # The default without accelerate, set here so that diffusers does not log a warning.
        options["low_cpu_mem_usage"] = False
    try:
        return kind.from_pretrained(str(folder), **options)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{folder}: expected a {name} of diffusers; diffusers says: {reason}"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected an object of JSON, got {type(found).__name__}")
    return found


def _decoder(parts: Mapping[str, Any]) -> str | None:
    return next((name for name in ("vae", "vqvae", "movq") if parts.get(name) is not None), None)


# --- configurations of models and schedulers ------------------------------------------------------------


def config_of(part: Any, argument: str = "source") -> Mapping[str, Any]:
    """The configuration of a model or scheduler of diffusers, through wrappers such as torch.compile's."""
    for inner in (part, getattr(part, "_orig_mod", None), getattr(part, "module", None)):
        config = getattr(inner, "config", None)
        if isinstance(config, Mapping):
            return config
    raise ArgumentError(
        f"{argument}: expected models and schedulers of diffusers, got {_name(part)} without config"
    )


def noise_of(scheduler: Any) -> tuple[Noise | None, float]:
    """Noise levels of a diffusion model, or None for flow matching, and the number of training timesteps.

    Raises ``ArgumentError`` for unknown schedulers and prediction types.
    """
    config = config_of(scheduler, "scheduler")
    known = {kind.__name__ for kind in type(scheduler).__mro__}
    steps = int(config.get("num_train_timesteps", 1000))
    said = config.get("prediction_type", "epsilon")
    if known & set(FLOW) or (known & set(DISCRETE) and said == "flow_prediction"):
        if config.get("invert_sigmas"):
            raise ArgumentError("scheduler: expected invert_sigmas=False, got True, where time runs forwards")
        return None, float(steps)
    if known & set(EDM):
        if said not in ("epsilon", "v_prediction"):
            _unknown(scheduler, "'epsilon' or 'v_prediction'", said)
        log = torch.tensor([config["sigma_min"], config["sigma_max"]], dtype=torch.float64).log()
        sign = -1.0 if said == "v_prediction" else 1.0
        return Noise("F", log, 0.25 * log, False, float(config["sigma_data"]), sign), float(steps)
    if not known & set(DISCRETE):
        names = ", ".join(sorted((*DISCRETE, *EDM, *FLOW)))
        raise ArgumentError(f"scheduler: expected one of {names}, got {_name(scheduler)}")
    if said not in PARAMETRISATIONS:
        _unknown(scheduler, ", ".join(map(repr, PARAMETRISATIONS)), said)
    if said == "epsilon" and config.get("rescale_betas_zero_snr"):
        raise ArgumentError(
            "scheduler: expected prediction_type 'v_prediction' or 'sample' with rescale_betas_zero_snr, got "
            "'epsilon', which does not determine the data at a noise level without signal"
        )
    alpha = torch.as_tensor(scheduler.alphas_cumprod).double().cpu().clone()
    if config.get("rescale_betas_zero_snr"):
        # Some schedulers have 2^-24 here, which is more than the entry before.
        alpha[-1] = 0.0
    alpha = alpha.clamp(min=_LEAST)
    log = 0.5 * ((1.0 - alpha).log() - alpha.log())
    if len(log) < 2 or not bool((log.diff() > 0).all() and log.isfinite().all()):
        raise ArgumentError("scheduler: expected at least 2 falling alphas_cumprod in (0, 1), got others")
    told = torch.arange(len(log), dtype=torch.float64)
    if said == "v_prediction" and config.get("timestep_type") == "continuous":
        told = 0.25 * log
    return Noise(PARAMETRISATIONS[said], log, told), float(steps)


def _unknown(scheduler: Any, expected: str, got: Any) -> None:
    raise ArgumentError(
        f"scheduler: expected a prediction_type of {expected} for {_name(scheduler)}, got {got!r}"
    )


def _event_shape(config: Mapping[str, Any]) -> tuple[int, ...]:
    channels, size = config.get("in_channels"), config.get("sample_size")
    if not isinstance(channels, int) or not isinstance(size, int | list | tuple):
        raise ShapeError(
            "event_shape: expected the shape of one sample, because the model's config has in_channels "
            f"{channels!r} and sample_size {size!r}, got None"
        )
    if isinstance(size, int):
        size = (size,) if "1D" in str(config.get("_class_name", "")) else (size, size)
    return checked_event_shape((channels, *size))


def _conditioning(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The number of classes, or the length of the vectors, that the model takes as class_labels."""
    kind = config.get("class_embed_type")
    if kind == "identity":
        return None, config.get("time_embedding_dim") or 4 * config["block_out_channels"][0]
    if kind is not None:
        raise ArgumentError(
            f"condition_dim: expected the length of vectors for class_embed_type {kind!r}, got None"
        )
    if config.get("num_class_embeds") is not None:
        return int(config["num_class_embeds"]), None
    # In DiT the label after the last means no class, which is also the default of guided().
    classes = config.get("num_embeds_ada_norm") if config.get("norm_type") == "ada_norm_zero" else None
    return classes, None


def _with_text(config: Mapping[str, Any], extras: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's extra keywords, with the keyword of a text set to None if the model ignores it."""
    if config.get("_class_name", "UNet2DConditionModel") != "UNet2DConditionModel":
        return extras
    blocks = ("down_block_types", "mid_block_type", "up_block_types")
    crossed = any("CrossAttn" in str(config.get(name)) for name in blocks)
    if crossed and "encoder_hidden_states" not in extras:
        raise ArgumentError(
            "encoder_hidden_states: expected the embedding [1, L, D] of one text for the model's "
            "cross-attention, got None"
        )
    return {"encoder_hidden_states": None, **extras} if "cross_attention_dim" in config else extras


def _say(text: str) -> None:
    # The callers in between are attached, from_diffusers and its decorator.
    warnings.warn(text, UserWarning, stacklevel=5)


def _name(thing: Any) -> str:
    return repr(thing) if isinstance(thing, str) else type(thing).__name__
