"""A model as its file holds it, and back: all that a twin knows of the core."""

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
# Beginning of names of what a flow starts from, which samples alone need.
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
        """What the core's ``to_bytes`` wrote."""
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        return cls(json.loads(metadata[KEY]), safetensors.torch.load(content))

    def to_bytes(self) -> bytes:
        """What the core's ``from_bytes`` reads."""
        # Weights may be one tensor, tied, or views of one; those of a file are each their own.
        own = partial(torch.clone, memory_format=torch.contiguous_format)
        tensors = {name: own(tensor.detach().cpu()) for name, tensor in self.tensors.items()}
        return safetensors.torch.save(tensors, {KEY: json.dumps(self.header)})


class Twin(nn.Module):
    """A plain PyTorch module that computes what a model of the core does, built from the model's stored form.

    Its parameters and persistent buffers have the names of the file's tensors. Subclasses build their parts
    from ``header["model"]`` in :meth:`build`, where only what is no part of the file has values.
    """

    # What names in the file begin with, and what they begin with here: ``forward`` is a method of a module.
    renamed: ClassVar[Mapping[str, str]] = {}
    # Beginnings of names of tensors that are not part of the model in use.
    left_out: ClassVar[tuple[str, ...]] = ()
    # The file's tensors of what the flow starts from.
    apart: Mapping[str, Tensor] = MappingProxyType({})
    # The file's other tensors without their values, by their names here.
    given: Mapping[str, Tensor] = MappingProxyType({})

    def __init__(self, stored: Stored) -> None:
        super().__init__()
        self.header = stored.header
        # Without initial values: drawing them would move the random numbers of the user and of other threads.
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
        """Makes the parts that ``model``, the file's description, asks for, if there are any."""

    def stored(self) -> Stored:
        """The stored form of the module, of the dtypes of the model that it was made of.

        Raises ``ArgumentError`` for other weights than :attr:`given`, and ``NonFiniteError`` for values that
        are not finite.
        """
        back, tensors = {own: name for name, own in self.renamed.items()}, {}
        state = self.state_dict()
        if other := sorted(state.keys() ^ self.given.keys()):
            names = ", ".join(other[:4]) + (", ..." if len(other) > 4 else "")
            raise ArgumentError(
                f"module: expected the weights of to_torch() alone, got more or fewer: {names}; "
                "what parametrises, prunes or wraps a layer is to be merged into its weights first"
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
            raise ArgumentError(f"module: expected what to_torch() makes, got {type(module).__name__}")
        return module


def without_values(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Shapes and dtypes alone."""
    return {name: torch.empty_like(x, device="meta") for name, x in tensors.items()}


def _begun(name: str, beginnings: Mapping[str, str]) -> str:
    """``name`` with its beginning replaced."""
    for old, new in beginnings.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
