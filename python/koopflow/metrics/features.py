"""Features of samples by a given network, whose state is not changed, and distances of features."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._arrays import Array, as_path, as_samples, checked_count
from ..exceptions import ArgumentError, DtypeError, NonFiniteError, ShapeError
from .fidelity import fidelity_features
from .perceptual import Lpips, check_pictures, check_range, perceptual_network


def extract_features(
    samples: Array,
    features: Any,
    *,
    batch_size: int = 64,
    feature_weights: str | PathLike[str] | None = None,
) -> NDArray[np.float64]:
    """Compute features of samples with a given network, batch by batch, as a float64 array ``[N, F]``.

    Parameters
    ----------
    samples : array, ``[N, *event]``
        Samples. Floats are cast to the dtype of a module's parameters; integers (images as bytes) are not.
    features : torch.nn.Module, callable, path or str
        Network from torch tensors ``[B, *event]`` to one tensor ``[B, ...]``, or a list of one, which is
        flattened. A module is called in evaluation mode, on the device of its parameters, and its own mode is
        restored afterwards. A TorchScript file is loaded to the device of the samples.
        ``"torch-fidelity"`` is that library's Inception network; the name of any extractor registered in the
        library is accepted too, and so is an instance of its ``FeatureExtractorBase``. Their images are
        ``[N, 1 or 3, H, W]`` in [-1, 1], or bytes, and the features are those of layer "fid". ``"dinov2"`` is
        DINOv2 with weights from the folder ``feature_weights``, for floats in [-1, 1].
    batch_size : int, default 64
        Number of samples in one call.
    feature_weights : path, optional
        Weights of a named extractor; by default those that torch-fidelity has downloaded before.
        torch-fidelity unpickles the file, so it must come from a source that you trust.

    Raises
    ------
    ImportError
        If torch-fidelity is needed and not installed.
    ArgumentError, FileNotFoundError, CheckpointError
        If weights would have to be downloaded, do not exist, or belong to another network.

    Examples
    --------
    >>> import torch
    >>> network = torch.nn.Linear(2, 5)
    >>> extract_features(np.zeros((100, 2)), network).shape
    (100, 5)
    """
    samples, batch_size = as_samples(samples, "samples"), checked_count(batch_size, "batch_size")
    if len(samples) == 0:
        raise ShapeError(f"samples: expected (N, *event) with N of at least 1, got {tuple(samples.shape)}")
    if isinstance(samples, np.ndarray):
        # torch supports only the machine's byte order, and no long doubles.
        kind = np.float64 if samples.dtype == np.longdouble else samples.dtype.newbyteorder("=")
        samples = samples.astype(kind, copy=False)
    device = str(getattr(samples, "device", "cpu"))
    network: Any = perceptual_network(features, feature_weights, device)
    if isinstance(network, Lpips):
        raise ArgumentError(
            f"features: expected a network that gives features, got {features!r}, which is a distance"
        )
    if network is None:
        network = fidelity_features(features, feature_weights, device) or network_of(features, device)
    else:
        check_pictures(features, samples.shape[1:])
    parameters = network.parameters() if isinstance(network, torch.nn.Module) else iter(())
    home = next((p for p in parameters if p.is_floating_point()), None)
    found = []
    with evaluating(network), torch.no_grad():
        for first in range(0, len(samples), batch_size):
            part = samples[first : first + batch_size]
            part = part.detach() if isinstance(part, torch.Tensor) else torch.from_numpy(part.copy())
            if part.is_complex() or part.is_meta:
                raise DtypeError(f"samples: expected real numbers, got {part.dtype} on {part.device}")
            if home is not None:
                part = part.to(home.device, home.dtype if part.is_floating_point() else part.dtype)
            maps = maps_of(network(part), len(part))
            if len(maps) != 1:
                raise ShapeError(f"features: expected one tensor, got {len(maps)}")
            found.append(maps[0].reshape(len(part), -1).double().cpu())
    whole = torch.cat(found).numpy()
    if not np.isfinite(whole).all():
        raise NonFiniteError("features: expected finite numbers, got NaN or infinite ones")
    return whole


def feature_distance(
    features: Any,
    device: str,
    *,
    weights: str | PathLike[str] | None = None,
    event_shape: Sequence[int] = (),
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A function of two batches that returns their distance in features and its gradient by the first.

    The distance is the mean squared difference between the features of each pair, divided by the total
    variance of the second batch's features. It is 1 for constant features at their mean. The distances of
    several feature maps are averaged. ``features`` is a module, a function or a file as in
    :func:`extract_features`, loaded to ``device``; or ``"dinov2"``, ``"lpips"`` or ``"lpips-vgg"`` with
    ``weights``, for samples that are images of ``event_shape``. For LPIPS the distance is the mean LPIPS.
    """
    known = perceptual_network(features, weights, device)
    if known is not None:
        check_pictures(features, event_shape)
    elif weights is not None:
        raise ArgumentError(f"feature_weights: expected None unless features is a name, got {weights!r}")
    network: Any = network_of(features, device) if known is None else known

    def maps(images: Any) -> list[Any]:
        return [part.flatten(1).float() for part in maps_of(network(images), len(images))]

    def distance(x: Any, target: Any) -> Any:
        if isinstance(network, Lpips):
            return network(x, target).mean()
        with torch.no_grad():
            wanted = maps(target)
        total = x.new_zeros(())
        for ours, theirs in zip(maps(x), wanted, strict=True):
            spread = theirs.var(dim=0, unbiased=False).sum().clamp_min(1e-8)
            total = total + (ours - theirs).square().sum(dim=1).mean() / spread
        return total / len(wanted)

    def measure(x: Any, target: Any) -> tuple[Any, Any]:
        if known is not None:
            check_range(features, target)
        with evaluating(network), torch.enable_grad():
            x = x.detach().requires_grad_()
            total = distance(x, target)
            (gradient,) = torch.autograd.grad(total, x)
        return total.detach(), gradient

    return measure


def network_of(features: Any, device: str) -> Callable[[Any], Any]:
    """A callable unchanged, or the module of a TorchScript file on a device."""
    if isinstance(features, (str, PathLike)):
        path = Path(as_path(features))
        if not path.is_file():
            raise FileNotFoundError(f"features: no file {str(path)!r}")
        try:
            with warnings.catch_warnings():
                # torch deprecates TorchScript, but such files are still in use.
                warnings.filterwarnings("ignore", message="`torch.jit")
                features = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ArgumentError(f"features: expected a TorchScript file, got {path}: {reason}") from error
    if not callable(features):
        raise ArgumentError(
            f"features: expected a module, a function or a TorchScript file, got {type(features).__name__}"
        )
    return features  # type: ignore[no-any-return]


def maps_of(answer: Any, count: int) -> list[torch.Tensor]:
    """The tensors in a network's output, each ``[count, ...]``."""
    parts = list(answer) if isinstance(answer, (tuple, list)) else [answer]
    for part in parts:
        if not isinstance(part, torch.Tensor) or part.shape[:1] != (count,):
            got = tuple(part.shape) if isinstance(part, torch.Tensor) else type(part).__name__
            raise ShapeError(f"features: expected tensors ({count}, ...), got {got}")
    return parts


@contextmanager
def evaluating(network: Callable[[Any], Any]) -> Iterator[None]:
    """A context in which a module is in evaluation mode; the modes of its parts are restored afterwards."""
    parts = list(network.modules()) if isinstance(network, torch.nn.Module) else []
    modes = [part.training for part in parts]
    if isinstance(network, torch.nn.Module):
        network.eval()
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
