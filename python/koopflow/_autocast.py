"""Networks in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import _core


@contextmanager
def autocast(precision: str = "bf16") -> Iterator[None]:
    """Context manager that evaluates koopflow's own networks in half precision, in this thread.

    It applies to sampling of teachers and students and to training of teachers. Linear layers compute their
    products in half precision, and U-Nets compute everything in it; on CUDA U-Nets also use the channels-last
    memory format. Weights, losses, solvers and spectra keep their precision. A student's training is not
    affected: use ``training=Training(precision=...)``. For attached PyTorch models use ``torch.autocast``.

    Parameters
    ----------
    precision : {"bf16", "fp16", "float32"}, default "bf16"
        Precision of the products. ``"fp16"`` is for sampling only, since losses are not scaled here.

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
