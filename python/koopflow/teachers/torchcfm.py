"""State dicts of torchcfm's U-Nets, in the forms in which training scripts save them."""

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

# Entries of a checkpoint that may hold the weights. The averaged ones, which are for sampling, come first.
_NESTED = ("ema_model", "ema", "net_model", "model", "state_dict")
# A name that every such U-Net has. Any prefix comes from wrappers, such as Lightning's modules.
_FIRST = "time_embed.0.weight"
# Objects that training scripts store with weights, by their names in the file. Reading them runs no code.
_HARMLESS = {
    "argparse.Namespace": argparse.Namespace,
    "numpy.dtype": np.dtype,
    **{f"numpy.{core}.multiarray.scalar": np.float64(0).__reduce__()[0] for core in ("core", "_core")},
    **{f"pathlib.{name}": Path for name in ("PosixPath", "WindowsPath", "_local.PosixPath")},
}


def read_state_dict(weights: str | PathLike[str] | Mapping[str, Any], key: str | None) -> dict[str, Any]:
    """Names and tensors of a file or a mapping, without the wrappers that training scripts add.

    Raises ``FileNotFoundError`` for a missing file, ``CheckpointError`` for one that is neither safetensors
    nor readable by ``torch.load`` with ``weights_only``, and ``ArgumentError`` if there are no tensors under
    ``key``.
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
    # If the file has both a module and its average, the average is taken.
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
        found = f"{path}: expected only weights, got also {', '.join(others[:3])}, whose reading may run code"
        raise CheckpointError(f"{found}; if you trust the file, pass torch.load(..., weights_only=False)")
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{expected}, got {type(stored).__name__}")
    return stored
