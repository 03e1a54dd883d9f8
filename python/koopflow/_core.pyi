"""The Rust extension. Arrays are NumPy or torch; outputs follow the kind (and, for torch, the device)
of the first array argument."""

from collections.abc import Callable, Sequence
from typing import Any, final

TORCH_VERSION: str
__version__: str

@final
class VelocityField:
    @staticmethod
    def callable(
        function: Callable[..., Any],
        vjp: Callable[..., Any],
        *,
        event_shape: Sequence[int],
        conditioning: str = '"none"',
        device: str = "cpu",
        dtype: str = "float32",
        label: str = "callable",
    ) -> VelocityField: ...
    @property
    def event_shape(self) -> tuple[int, ...]: ...
    @property
    def kind(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def evaluations(self) -> int: ...
    @property
    def conditioning(self) -> str: ...
    def velocity(self, t: Any, x: Any, condition: Any = None) -> Any: ...
