"""A model as its file holds it, and back: all that a twin knows of the core."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from ..exceptions import ArgumentError, NonFiniteError

T = TypeVar("T", bound="Twin")
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
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
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
    # Those of the file's tensors, by their names there.
    dtypes: Mapping[str, torch.dtype] = MappingProxyType({})

    def __init__(self, stored: Stored) -> None:
        super().__init__()
        self.header = stored.header
        # Without initial values: drawing them would move the random numbers of the user and of other threads.
        with torch.device("meta"):
            self.build(stored.header["model"])
        tensors = {name: x for name, x in stored.tensors.items() if not name.startswith(self.left_out)}
        self.dtypes = {name: x.dtype for name, x in tensors.items()}
        own = next(dtype for dtype in self.dtypes.values() if dtype.is_floating_point)
        values = {name: x.to(own) if x.is_floating_point() else x for name, x in tensors.items()}
        self.load_state_dict({_begun(name, self.renamed): x for name, x in values.items()}, assign=True)
        self.to(own).eval()

    def build(self, model: dict[str, Any]) -> None:
        """Makes the parts that ``model``, the file's description, asks for."""
        raise NotImplementedError

    def stored(self) -> Stored:
        """The stored form of the module, of the dtypes of the model that it was made of.

        Raises ``NonFiniteError`` for values that are not finite.
        """
        back = {own: name for name, own in self.renamed.items()}
        tensors = {_begun(name, back): x for name, x in self.state_dict().items()}
        for name, tensor in tensors.items():
            tensors[name] = tensor = tensor.to(self.dtypes.get(name, tensor.dtype))
            if not torch.isfinite(tensor).all():
                raise NonFiniteError(f"module: expected finite weights, got NaN or infinite values in {name}")
        return Stored(self.header, tensors)

    @classmethod
    def of(cls: type[T], module: object) -> T:
        """A module of this class, compiled or not. Raises ``ArgumentError`` for others."""
        module = getattr(module, "_orig_mod", module)
        if not isinstance(module, cls):
            raise ArgumentError(f"module: expected what to_torch() makes, got {type(module).__name__}")
        return module


def _begun(name: str, beginnings: Mapping[str, str]) -> str:
    """``name`` with its beginning replaced."""
    for old, new in beginnings.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
