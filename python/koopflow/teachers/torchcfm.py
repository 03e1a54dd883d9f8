"""State dicts of torchcfm's U-Nets, as its users have them."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .._arrays import as_path
from ..exceptions import ArgumentError, CheckpointError

# What training scripts keep weights under; the averaged ones are what is sampled from.
_NESTED = ("ema_model", "net_model", "model", "state_dict")


def read_state_dict(weights: str | PathLike[str] | Mapping[str, Any], key: str | None) -> dict[str, Any]:
    """Names and tensors of a file or a mapping, without the wrappers that training scripts add.

    Raises ``FileNotFoundError`` or ``CheckpointError`` for a file that is not there, or neither safetensors
    nor what ``torch.load`` reads as weights only; ``ArgumentError`` when there are no tensors under ``key``.
    """
    stored = weights if isinstance(weights, Mapping) else _read(Path(as_path(weights)))
    if key is not None:
        if not isinstance(stored.get(key), Mapping):
            raise ArgumentError(f"key: expected one of {sorted(map(str, stored))}, got {key!r}")
        stored = stored[key]
    else:
        stored = next((stored[name] for name in _NESTED if isinstance(stored.get(name), Mapping)), stored)
    tensors = {str(name): value for name, value in stored.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ArgumentError("weights: expected names and tensors, got no tensor")
    # Of DataParallel, and of torch.compile.
    for prefix in ("_orig_mod.", "module."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
    return {name: value.detach() for name, value in tensors.items()}


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path}: expected a safetensors file or a state dict saved by torch.save, got {error}"
        ) from error
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{path}: expected a state dict, got {type(stored).__name__}")
    return stored
