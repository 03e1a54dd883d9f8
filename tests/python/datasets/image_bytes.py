"""What the tests of image readers share: pixels, their bytes in files, and what should come back."""

from __future__ import annotations

import struct

import numpy as np

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)
NUMBERS = np.array([3, 1, 4, 1, 5], np.uint8)
COLOUR = RNG.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8)
PLANES = COLOUR.transpose(0, 3, 1, 2)
RECORDS = RNG.integers(0, 256, (12, 3073), dtype=np.uint8)
RECORDS[:, 0] = np.arange(12) % 10


def idx_bytes(array, dtype=8):
    return struct.pack(f">HBB{array.ndim}I", 0, dtype, array.ndim, *array.shape) + array.tobytes()


def scaled(levels):
    """[0, 255] to [-1, 1], in double precision."""
    return levels.astype(np.float64) / 127.5 - 1.0


def assert_images(images, expected):
    assert images.dtype == np.float32
    assert images.flags.c_contiguous
    np.testing.assert_allclose(images, expected, atol=1e-6)
