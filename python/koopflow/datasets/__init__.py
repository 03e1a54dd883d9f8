"""Data to train on: two-dimensional sets, handwritten digits, and readers of images.

The readers return images ``[N, C, H, W]``, float32 in [-1, 1], and labels ``[N]``, int64, or None in place of
labels. They download nothing.

Examples
--------
>>> from koopflow import datasets
>>> images, labels = datasets.digits(size=16)
>>> images.shape, labels.shape
((1797, 1, 16, 16), (1797,))
>>> train, held_out = datasets.split(images, held_out=297)
>>> len(train)
1500
"""

from .arrays import arrays
from .images import cifar10, digits, fashion_mnist, idx, image_folder, images, mnist
from .pixels import Images, Labels, resize, to_uint8
from .plane import TWO_DIMENSIONAL, Samples, checkerboard, eight_gaussians, moons, swiss_roll, tree
from .split import split

__all__ = [
    "TWO_DIMENSIONAL",
    "Images",
    "Labels",
    "Samples",
    "arrays",
    "checkerboard",
    "cifar10",
    "digits",
    "eight_gaussians",
    "fashion_mnist",
    "idx",
    "image_folder",
    "images",
    "mnist",
    "moons",
    "resize",
    "split",
    "swiss_roll",
    "to_uint8",
    "tree",
]
