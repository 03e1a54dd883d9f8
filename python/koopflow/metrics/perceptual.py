"""The named perceptual networks, LPIPS and DINOv2, with weights from local files."""

from __future__ import annotations

import importlib
import json
import pickle
import re
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .._arrays import as_path
from ..exceptions import ArgumentError, CheckpointError, ShapeError
from .fidelity import MOST

# For each LPIPS name, the network's name in the package lpips, and torchvision's class of its weights.
LPIPS = {"lpips": ("alex", "AlexNet_Weights"), "lpips-vgg": ("vgg", "VGG16_Weights")}
DINO = "dinov2"
NAMES = (*LPIPS, DINO)
# Side of the patches whose human judgements LPIPS was fitted to. Its networks would reduce smaller ones to
# nothing.
PATCH = 64
# Side of DINOv2's input, and mean and deviation of its colours, which are those of ImageNet.
SIDE = 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Lpips(nn.Module):
    """The LPIPS distances ``[B]`` (Zhang et al., arXiv 1801.03924) between two batches of images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        answer: Tensor = self.network(*(_at_least(in_colour(images), PATCH) for images in (x, target)))
        return answer.reshape(len(x))


class Dino(nn.Module):
    """The class tokens ``[B, F]`` of DINOv2 (Oquab et al., arXiv 2304.07193) for images."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = in_colour(images)
        if images.shape[2:] != (SIDE, SIDE):
            images = interpolate(
                images, size=(SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True
            )
        answer = self.network((0.5 * (images + 1.0) - self.mean) / self.deviation)
        tokens = getattr(answer, "last_hidden_state", None)
        found: Tensor = answer if tokens is None else tokens[:, 0]
        return found


def perceptual_network(
    features: Any, weights: str | PathLike[str] | None, device: str
) -> Lpips | Dino | None:
    """The network that ``features`` names, frozen and on a device; None for a name not in :data:`NAMES`.

    For LPIPS ``weights`` is torchvision's file for the underlying network, by default where torch.hub keeps
    it. For DINOv2 it is a folder of transformers, or a checkout of facebookresearch/dinov2 with one file of
    weights in it; the code of the checkout is run. Nothing is downloaded, and torch's random state is not
    changed.

    Raises ``ImportError`` without the package. Raises ``ArgumentError``, ``FileNotFoundError`` or
    ``CheckpointError`` for weights that are not given and not found, do not exist, or belong to another
    network.
    """
    if not isinstance(features, str) or features not in NAMES or Path(features).is_file():
        return None
    with torch.random.fork_rng(devices=[]):
        network = _dino(weights) if features == DINO else _lpips(features, weights)
    return network.requires_grad_(False).to(device)


def check_pictures(name: str, shape: Sequence[int]) -> None:
    """Raise ``ShapeError`` for samples ``[*event]`` that are not images."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ShapeError(f"features: {name!r} expects images (1 or 3, H, W), got samples {tuple(shape)}")


def check_range(name: str, images: Tensor) -> None:
    """Raise ``ArgumentError`` for images with values far outside [-1, 1]."""
    most = images.abs().max().item()
    if most > MOST:
        raise ArgumentError(f"features: {name!r} expects images in [-1, 1], got values up to {most:g}")


def in_colour(images: Tensor) -> Tensor:
    """Images ``[B, 1 or 3, H, W]`` with three channels, in single precision."""
    return images.float().expand(-1, 3, -1, -1)


def _at_least(images: Tensor, side: int) -> Tensor:
    """Images enlarged until their shorter side is ``side``; larger images unchanged."""
    shorter = min(images.shape[2:])
    if shorter >= side:
        return images
    size = [round(length * side / shorter) for length in images.shape[2:]]
    return interpolate(images, size=size, mode="bilinear", align_corners=False)


def _lpips(name: str, weights: Any) -> Lpips:
    network, known = LPIPS[name]
    package = _package("lpips", f"features={name!r} needs the package lpips: pip install lpips")
    path = _hub_file(name, known) if weights is None else Path(as_path(weights, "feature_weights"))
    tensors = _tensors(path)
    with warnings.catch_warnings():
        # It calls torchvision with deprecated arguments.
        warnings.simplefilter("ignore")
        # Random weights keep it from downloading those of torchvision.
        module: Any = package.LPIPS(net=network, pnet_rand=True, verbose=False)
    under = module.net.state_dict()
    for key, own in under.items():
        # Layers of torchvision's `features`, by their numbers.
        place = re.fullmatch(r"slice\d+\.(\d+\.\w+)", key)
        found = None if place is None else tensors.get(f"features.{place[1]}")
        if found is None or found.shape != own.shape:
            raise CheckpointError(
                f"{path}: expected torchvision's weights of {network!r}, got another network's"
            )
        own.copy_(found)
    return Lpips(module)


def _hub_file(name: str, known: str) -> Path:
    """The path at which torch.hub keeps torchvision's weights."""
    models = _package("torchvision.models", f"features={name!r} needs torchvision: pip install torchvision")
    url: str = getattr(models, known).IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.is_file():
        raise ArgumentError(
            f"feature_weights: expected a file of torchvision's weights for {name!r}, because {str(path)!r}, "
            f"where torch.hub keeps {url}, is not there, got None; koopflow downloads nothing"
        )
    return path


def _dino(weights: Any) -> Dino:
    if weights is None:
        raise ArgumentError(
            f"feature_weights: expected a folder for {DINO!r}, of transformers (config.json and weights) or "
            "a checkout of facebookresearch/dinov2 with its weights, got None; koopflow downloads nothing"
        )
    folder = Path(as_path(weights, "feature_weights"))
    if not folder.is_dir():
        raise FileNotFoundError(f"feature_weights: no folder {str(folder)!r}")
    if (folder / "config.json").is_file():
        return Dino(_of_transformers(folder))
    if (folder / "hubconf.py").is_file():
        return Dino(_of_checkout(folder))
    raise CheckpointError(
        f"{folder}: expected a config.json of transformers or a hubconf.py of torch.hub, got neither"
    )


def _of_transformers(folder: Path) -> nn.Module:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'}: expected a model's configuration: {error}"
        ) from error
    if not str(kind).startswith(DINO):
        raise CheckpointError(f"{folder}: expected a model of type {DINO!r}, got {kind!r}")
    reason = f"features={DINO!r} with a folder of transformers needs that package: pip install transformers"
    models = _package("transformers", reason)
    try:
        network: nn.Module = models.AutoModel.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _refused(folder, "a model that transformers can read", error) from error
    return network


def _of_checkout(folder: Path) -> nn.Module:
    """The network of a checkout, with the size in the name of its file of weights."""
    files = sorted(folder.glob(f"{DINO}_*_pretrain.pth"))
    if len(files) != 1:
        got = ", ".join(file.name for file in files) or "none"
        raise CheckpointError(f"{folder}: expected one file {DINO}_<size>_pretrain.pth, got {got}")
    # File names include the number of registers, entries do not.
    entry = files[0].name.removesuffix("_pretrain.pth").replace("_reg4", "_reg")
    tensors = _tensors(files[0])
    try:
        network: nn.Module = torch.hub.load(str(folder), entry, source="local", pretrained=False)  # type: ignore[no-untyped-call]
        network.load_state_dict(tensors)
    except (RuntimeError, ValueError, ImportError, AttributeError) as error:
        raise _refused(folder, f"a checkout whose {entry!r} has these weights", error) from error
    return network


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights by name; nothing else in it is unpickled."""
    if not path.is_file():
        raise FileNotFoundError(f"feature_weights: no file {str(path)!r}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise _refused(path, "a file of weights", error) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected weights by name, got a {type(found).__name__}")
    return found


def _refused(path: Path, expected: str, error: Exception) -> CheckpointError:
    reason = (str(error).splitlines() or [""])[0]
    return CheckpointError(f"{path}: expected {expected}: {reason}")


def _package(module: str, reason: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(reason, name=module) from error
