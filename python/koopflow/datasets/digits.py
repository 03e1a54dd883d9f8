"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from ..exceptions import ArgumentError
from .pixels import Images, Labels, resize

SIDE = 8


def digits(*, size: int | None = None) -> tuple[Images, Labels]:
    """The 1797 handwritten digits of 8x8 pixels that come with scikit-learn, flat or as images.

    Images, float32 in [-1, 1], are ``[1797, 64]`` in row order or ``[1797, 1, size, size]``, of at least 8
    pixels (else an ``ArgumentError``), by bicubic interpolation; labels, their digits, are ``[1797]``, int64.

    Examples
    --------
    >>> images, labels = digits()
    >>> images.shape, float(images.min()), float(images.max())
    ((1797, 64), -1.0, 1.0)
    >>> digits(size=16)[0].shape
    (1797, 1, 16, 16)
    """
    from sklearn.datasets import load_digits

    if size is not None and not (isinstance(size, Integral) and size >= SIDE):
        raise ArgumentError(f"size: expected an integer of at least {SIDE} or None, got {size!r}")
    bunch = load_digits()
    flat = (bunch.data / 8.0 - 1.0).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    if size is None:
        return flat, labels
    images = flat.reshape(-1, 1, SIDE, SIDE)
    return (images if size == SIDE else resize(images, size)), labels
