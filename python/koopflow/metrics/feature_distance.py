"""Distances of images in the features of the user's own network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .features import maps_of, network_of


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
    network = network_of(features, device)
    if isinstance(network, torch.nn.Module):
        network.eval()

    def maps(images: Any) -> list[Any]:
        return [part.flatten(1).float() for part in maps_of(network(images), len(images))]

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
