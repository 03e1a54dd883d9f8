"""Samples as a picture: a scatter in the plane, a grid of images."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import plotting
from ..plotting._canvas import image_size, is_image
from .inputs import write_bytes

SUFFIXES = (".png", ".pdf", ".svg")


def can_be_drawn(event_shape: tuple[int, ...]) -> bool:
    """Whether there is a picture of samples of this shape."""
    colour = len(event_shape) == 3 and event_shape[0] == 3 and min(event_shape[1:]) >= 4
    return event_shape == (2,) or is_image(event_shape) or colour


def draw_samples(samples: NDArray[Any], path: Path, *, columns: int | None = None) -> Path:
    """Write the picture of samples ``[N, *event]`` that :func:`can_be_drawn` says is possible."""
    if samples.shape[1:] == (2,):
        return save(plotting.samples(samples), path)
    height, width = image_size(samples.shape[1:])
    columns = columns or -(-len(samples) // max(1, int(len(samples) ** 0.5)))
    rows = -(-len(samples) // columns)
    # A whole number of dots for each pixel, and not less than one.
    dots = max(1, round(56 / max(height, width)))
    size = ((columns * (width + 1) + 1) * dots, (rows * (height + 1) + 1) * dots)
    figure = plotting.new_figure((size[0] / 140 + 0.2, size[1] / 140 + 0.2))
    return save(plotting.image_grid(samples, ax=figure.add_subplot(), columns=columns), path)


def draw_training(history: Mapping[str, Any], path: Path) -> None:
    """Write the picture of a training's history; none where it ended before the first entry."""
    if history.get("loss") or history.get("log"):
        save(plotting.loss_history(history), path)


def columns_of(condition: NDArray[Any] | None) -> int | None:
    """The columns that put each label on rows of its own; None where none do."""
    if condition is None or condition.ndim != 1:
        return None
    labels, counts = np.unique(condition, return_counts=True)
    return int(counts[0]) if len(labels) > 1 and len(set(counts.tolist())) == 1 else None


def save(axes: Any, path: Path) -> Path:
    """Write the figure of axes."""
    picture = BytesIO()
    axes.figure.savefig(picture, format=path.suffix[1:])
    return write_bytes(path, picture.getvalue())
