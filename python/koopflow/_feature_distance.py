"""Distances of images in the features of the user's own network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from .exceptions import ArgumentError, ShapeError


def feature_distance(features: Any, device: str) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A function of two batches of images that answers their distance and its gradient in the first.

    The distance is the mean square over the batch of the difference of features, over the summed variance of
    the second batch's features: 1 for a constant image at their mean. A network may answer several feature
    maps, whose distances are averaged.

    Raises
    ------
    FileNotFoundError, ArgumentError
        For what is neither a callable nor a TorchScript file.
    """
    import torch

    network = _network(features, device)

    def maps(images: Any) -> list[Any]:
        answer = network(images)
        parts = list(answer) if isinstance(answer, (tuple, list)) else [answer]
        for part in parts:
            if not isinstance(part, torch.Tensor) or part.shape[:1] != images.shape[:1]:
                got = tuple(part.shape) if isinstance(part, torch.Tensor) else type(part).__name__
                raise ShapeError(f"features: expected tensors ({len(images)}, ...), got {got}")
        return [part.flatten(1).float() for part in parts]

    def measure(x: Any, target: Any) -> tuple[Any, Any]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            with torch.no_grad():
                wanted = maps(target)
            total = x.new_zeros(())
            for ours, theirs in zip(maps(x), wanted, strict=True):
                spread = theirs.var(dim=0, unbiased=False).sum().clamp_min(1e-8)
                total = total + (ours - theirs).square().sum(dim=1).mean() / spread
            total = total / len(wanted)
            (gradient,) = torch.autograd.grad(total, x)
        return total.detach(), gradient

    return measure


def _network(features: Any, device: str) -> Callable[[Any], Any]:
    import torch

    if isinstance(features, (str, PathLike)):
        path = Path(fspath(features))
        if not path.is_file():
            raise FileNotFoundError(f"features: no file {str(path)!r}")
        try:
            with warnings.catch_warnings():
                # What torch would rather have is not what people have on disk.
                warnings.simplefilter("ignore", DeprecationWarning)
                features = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ArgumentError(f"features: expected a TorchScript file, got {path}: {reason}") from error
    if not callable(features):
        raise ArgumentError(
            f"features: expected a module, a function or a TorchScript file, got {type(features).__name__}"
        )
    if isinstance(features, torch.nn.Module):
        features = features.eval()
    return features  # type: ignore[no-any-return]
