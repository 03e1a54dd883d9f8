"""State dicts of torchcfm's U-Nets, as its users have them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from .._arrays import as_path
from ..exceptions import ArgumentError, CheckpointError

# What training scripts keep weights under; the averaged ones are what is sampled from.
_NESTED = ("ema_model", "ema", "net_model", "model", "state_dict")
# A name that every such U-Net has; what comes before it are the names of wrappers, Lightning's modules say.
_FIRST = "time_embed.0.weight"
# What training scripts store beside weights, by the names in the file; reading it runs nothing.
_HARMLESS = {
    "argparse.Namespace": argparse.Namespace,
    "numpy.dtype": np.dtype,
    **{f"numpy.{core}.multiarray.scalar": np.float64(0).__reduce__()[0] for core in ("core", "_core")},
    **{f"pathlib.{name}": Path for name in ("PosixPath", "WindowsPath", "_local.PosixPath")},
}


def read_state_dict(weights: str | PathLike[str] | Mapping[str, Any], key: str | None) -> dict[str, Any]:
    """Names and tensors of a file or a mapping, without the wrappers that training scripts add.

    Raises ``FileNotFoundError`` or ``CheckpointError`` for a file that is not there, or neither safetensors
    nor what ``torch.load`` reads as weights only; ``ArgumentError`` when there are no tensors under ``key``.
    """
    stored = weights if isinstance(weights, Mapping) else _read(Path(as_path(weights)))
    if key is not None and not isinstance(stored.get(key), Mapping):
        raise ArgumentError(f"key: expected one of {sorted(map(str, stored))}, got {key!r}")
    nested = _NESTED if key is None else (key,)
    stored = next((stored[name] for name in nested if isinstance(stored.get(name), Mapping)), stored)
    tensors = {str(name): value for name, value in stored.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ArgumentError(f"weights: expected names and tensors, got {list(map(str, stored))[:5]}")
    wrappers = [name.removesuffix(_FIRST) for name in tensors if name.endswith(_FIRST)]
    # Of a module and its average, again the average.
    wrapper = min(wrappers, key=lambda name: ("ema" not in name, len(name)), default="")
    inside = {name: value for name, value in tensors.items() if name.startswith(wrapper)}
    return {name.removeprefix(wrapper): value.detach() for name, value in inside.items()}


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file {str(path)!r}")
    expected = f"{path}: expected a safetensors file or a state dict saved by torch.save"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        numbers = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
        with torch.serialization.safe_globals(
            [*((what, name) for name, what in _HARMLESS.items()), *numbers]
        ):
            others = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            stored = None if others else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{expected}, got {(str(error).splitlines() or [''])[0][:100]}") from error
    if others:
        found = f"{path}: holds {', '.join(others[:3])} beside weights, and reading such may run anything"
        raise CheckpointError(f"{found}; if you trust it, pass on torch.load(..., weights_only=False)")
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{expected}, got {type(stored).__name__}")
    return stored
