"""The stored form of a model, from which twins are built, and to which they are converted back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from ..exceptions import ArgumentError, NonFiniteError

T = TypeVar("T", bound="Twin")
# Prefix of the tensors of a flow's source, which are needed only for sampling.
APART = "source."
# The key of the header among a file's metadata.
KEY = "koopflow"


@dataclass
class Stored:
    """The header of a model's file, ``{"version", "model", "facts"}``, and its tensors by name."""

    header: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def from_bytes(cls, content: bytes) -> Stored:
        """The stored form in the output of the core's ``to_bytes``."""
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        return cls(json.loads(metadata[KEY]), safetensors.torch.load(content))

    def to_bytes(self) -> bytes:
        """The bytes that the core's ``from_bytes`` reads."""
        # Weights may be tied, or views of one tensor. In a file each tensor is separate.
        own = partial(torch.clone, memory_format=torch.contiguous_format)
        tensors = {name: own(tensor.detach().cpu()) for name, tensor in self.tensors.items()}
        return safetensors.torch.save(tensors, {KEY: json.dumps(self.header)})


class Twin(nn.Module):
    """A plain PyTorch module that computes the same as a model of the core, built from its stored form.

    Its parameters and persistent buffers have the names of the file's tensors. Subclasses build their parts
    from ``header["model"]`` in :meth:`build`. Tensors of the file have no values yet at that point.
    """

    # Prefixes of names in the file and here. They differ because ``forward`` is a method of a module.
    renamed: ClassVar[Mapping[str, str]] = {}
    # Prefixes of tensors that are not part of the model in use.
    left_out: ClassVar[tuple[str, ...]] = ()
    # The file's tensors of the flow's source.
    apart: Mapping[str, Tensor] = MappingProxyType({})
    # The file's other tensors without their values, by their names here.
    given: Mapping[str, Tensor] = MappingProxyType({})

    def __init__(self, stored: Stored) -> None:
        super().__init__()
        self.header = stored.header
        # Without initial values, since drawing them would advance the user's random number generator.
        with torch.device("meta"):
            self.build(stored.header["model"])
        tensors = {
            _begun(name, self.renamed): x
            for name, x in stored.tensors.items()
            if not name.startswith((*self.left_out, APART))
        }
        self.apart = {name: x for name, x in stored.tensors.items() if name.startswith(APART)}
        self.given = without_values(tensors)
        own = next(x.dtype for x in tensors.values() if x.is_floating_point())
        values = {name: x.to(own) if x.is_floating_point() else x for name, x in tensors.items()}
        self.load_state_dict(values, assign=True)
        self.to(own).eval()

    def build(self, model: dict[str, Any]) -> None:
        """Make the parts of the module according to ``model``, the description in the file."""

    def stored(self) -> Stored:
        """The stored form of the module, with the dtypes of the original model.

        Raises ``ArgumentError`` if the weights differ from :attr:`given` in name or shape, and
        ``NonFiniteError`` for values that are not finite.
        """
        back, tensors = {own: name for name, own in self.renamed.items()}, {}
        state = self.state_dict()
        if other := sorted(state.keys() ^ self.given.keys()):
            names = ", ".join(other[:4]) + (", ..." if len(other) > 4 else "")
            raise ArgumentError(
                f"module: expected the weights of to_torch() alone, got more or fewer: {names}; "
                "merge parametrisations, pruning masks and wrappers into the weights first"
            )
        for name, tensor in state.items():
            given = self.given[name]
            if tensor.shape != given.shape or tensor.is_meta:
                got = f"{tuple(tensor.shape)} on {tensor.device}"
                raise ArgumentError(f"module: expected {name} of shape {tuple(given.shape)}, got {got}")
            tensors[_begun(name, back)] = tensor = tensor.to(given.dtype)
            if not torch.isfinite(tensor).all():
                raise NonFiniteError(f"module: expected finite weights, got NaN or infinite values in {name}")
        return Stored(self.header, {**tensors, **self.apart})

    @classmethod
    def of(cls: type[T], module: object) -> T:
        """A module of this class, compiled or not. Raises ``ArgumentError`` for others."""
        module = getattr(module, "_orig_mod", module)
        if not isinstance(module, cls):
            raise ArgumentError(f"module: expected a module of to_torch(), got {type(module).__name__}")
        return module


def without_values(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without values, with the same shapes and dtypes."""
    return {name: torch.empty_like(x, device="meta") for name, x in tensors.items()}


def _begun(name: str, beginnings: Mapping[str, str]) -> str:
    """``name`` with its prefix replaced."""
    for old, new in beginnings.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
