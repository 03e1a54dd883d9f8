"""Features as torch-fidelity computes them, and its Fréchet inception distance."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .._arrays import as_path
from ..exceptions import ArgumentError, CheckpointError, ShapeError

NAME, DEFAULT = "torch-fidelity", "inception-v3-compat"
# Larger values than this mean images in 0..255; samples in [-1, 1] exceed their range by less.
MOST = 16.0


class FidelityFeatures(nn.Module):
    """An extractor of torch-fidelity as a network of images ``[B, C, H, W]`` with 1 or 3 channels.

    Images are bytes, or floats in [-1, 1], which are rounded to bytes as if written to a file.
    """

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor
        known, wanted = list(extractor.get_requested_features_list()), None
        if len(known) > 1:
            wanted = extractor.get_default_feature_layer_for_metric("fid")
        if wanted is not None and wanted not in known:
            raise ArgumentError(f"features: expected an extractor of one layer or of {wanted!r}, got {known}")
        self.place = 0 if wanted is None else known.index(wanted)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ShapeError(f"samples: expected images (N, 1 or 3, H, W), got {tuple(images.shape)}")
        answer: Tensor = self.extractor(as_bytes(images).expand(-1, 3, -1, -1))[self.place]
        return answer


def as_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, rounded to the nearest byte; bytes unchanged.

    Raises ``ArgumentError`` for numbers that are neither.
    """
    if images.dtype == torch.uint8:
        return images
    most = images.abs().max().item() if images.is_floating_point() and images.numel() else MOST + 1.0
    if not most <= MOST:
        got = f"{images.dtype}" + (f" up to {most:g}" if images.is_floating_point() else "")
        raise ArgumentError(f"samples: expected floats in [-1, 1], or bytes as uint8, got {got}")
    return ((images + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8)


def fidelity_features(
    features: Any, weights: str | PathLike[str] | None, device: str
) -> FidelityFeatures | None:
    """The extractor that ``features`` names or is, or None if it is not one of torch-fidelity.

    Raises ``ImportError`` without torch-fidelity; ``ArgumentError`` for weights of anything else, and for an
    extractor that would have to be downloaded; and ``FileNotFoundError`` or ``CheckpointError`` for
    ``weights`` that do not exist or belong to another network.
    """
    library = sys.modules.get("torch_fidelity")
    found = None
    if library is not None and isinstance(features, library.FeatureExtractorBase):
        found = FidelityFeatures(features)
    elif isinstance(features, str) and not Path(features).is_file() and _may_know(features):
        registry = _library("registry").FEATURE_EXTRACTORS_REGISTRY
        name = DEFAULT if features == NAME else features
        if name in registry:
            return _made(name, registry[name], weights, device)
    if weights is not None:
        raise ArgumentError(
            f"feature_weights: expected None unless features names a fidelity extractor, got {weights!r}"
        )
    return found


def fidelity_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The squared Fréchet distance of features ``[N, F]`` and ``[M, F]`` by torch-fidelity's formula."""
    formulas = _library("metric_fid")
    parts = [formulas.fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    found = formulas.fid_statistics_to_metric(*parts, verbose=False)
    return float(found[formulas.KEY_METRIC_FID])


def _made(name: str, kind: type[Any], weights: Any, device: str) -> FidelityFeatures:
    options: dict[str, Any] = {"verbose": False}
    path = _weights(name, kind) if weights is None else Path(as_path(weights))
    if path is not None:
        if not path.is_file():
            raise FileNotFoundError(f"feature_weights: no file {str(path)!r}")
        options["feature_extractor_weights_path"] = str(path)
    layer = kind.get_default_feature_layer_for_metric("fid")
    try:
        extractor = _library("utils").create_feature_extractor(name, [layer], cuda=False, **options)
    except Exception as error:
        if path is None:
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{path}: expected weights of {name}; torch-fidelity says: {reason}") from error
    return FidelityFeatures(extractor.to(device))


def _weights(name: str, kind: type[Any]) -> Path | None:
    """The file of weights that torch-fidelity has downloaded before; None for a user's class."""
    if not kind.__module__.startswith("torch_fidelity."):
        return None
    module = importlib.import_module(kind.__module__)
    file: str | None = None
    if name == DEFAULT:
        file = os.path.basename(module.URL_INCEPTION_V3)
    elif name == "vgg16":
        file = os.path.basename(importlib.import_module("torchvision").models.VGG16_Weights.IMAGENET1K_V1.url)
    elif name in getattr(module, "MODEL_URLS", {}):
        file = f"{name}-{module.MODEL_METADATA[name]['hash']}.pt"
    if file is None:
        raise ArgumentError(
            f"features: expected an extractor whose weights are one file, got {name!r}, which torch-fidelity "
            "downloads together with its code; pass a module instead"
        )
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        raise ArgumentError(
            f"feature_weights: expected a file of weights of {name!r}, because {str(path)!r}, where "
            "torch-fidelity keeps them, is not there, got None; koopflow downloads nothing"
        )
    return path


def _may_know(name: str) -> bool:
    return name == NAME or importlib.util.find_spec("torch_fidelity") is not None


def _library(module: str) -> Any:
    try:
        return importlib.import_module(f"torch_fidelity.{module}")
    except ImportError as error:
        reason = f"features={NAME!r} needs torch-fidelity: pip install 'koopflow[fidelity]'"
        raise ImportError(reason, name="torch_fidelity") from error
