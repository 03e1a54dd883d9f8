"""Networks in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import _core


@contextmanager
def autocast(precision: str = "bf16") -> Iterator[None]:
    """A context in which koopflow's own networks are evaluated in half precision, in this thread.

    Teachers and students sample, and teachers train, with products of linear layers and the whole of U-Nets
    (there also channels-last in memory, on CUDA) in half precision; weights, losses, solvers and spectra stay
    as they are. A student's training is not affected: it has ``training=Training(precision=...)``. Attached
    PyTorch models have ``torch.autocast``.

    Parameters
    ----------
    precision : {"bf16", "fp16", "float32"}, default "bf16"
        Precision of products; ``"fp16"`` is for sampling only, as there is no scaling of losses here.

    Examples
    --------
    >>> import koopflow
    >>> with koopflow.autocast("bf16"):
    ...     pass
    """
    before = _core.lower_precision(precision)
    try:
        yield
    finally:
        _core.lower_precision(before)
