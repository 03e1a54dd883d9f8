"""Plots of populations: paths through snapshots, and growth of mass along them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, TwoSlopeNorm
from numpy.typing import NDArray

from .._arrays import Array, to_numpy
from ..exceptions import ArgumentError, ShapeError
from . import _canvas
from ._canvas import DATA, INK, SIGNED, SIZES, colour_bar, in_plane, limits_of, titled


def population(
    snapshots: Sequence[Array],
    times: Array | Sequence[float],
    *,
    paths: Array | None = None,
    growth: Array | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw snapshots of a population, coloured by time, and paths through them.

    Parameters
    ----------
    snapshots : sequence of arrays, ``[N_k, 2]``
        Two coordinates of each row; for a latent space, the first two.
    times : sequence of float
        Time of each snapshot, shown by its colour.
    paths : array, ``[T, B, 2]``, optional
        Paths of some rows, as ``sample_path`` and ``trajectory`` return them.
    growth : array, ``[T, B]``, optional
        Rates of growth along the paths, shown by colour: red where mass grows, and blue where it shrinks.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import plotting
    >>> cells = [np.random.default_rng(k).normal(k, 0.3, (50, 2)) for k in range(3)]
    >>> ax = plotting.population(cells, [0, 1, 2], paths=np.stack([rows[:8] for rows in cells]))
    """
    sets = [in_plane(f"snapshots[{k}]", rows) for k, rows in enumerate(snapshots)]
    at = np.asarray(to_numpy(times), float)
    if not sets or at.shape != (len(sets),):
        raise ArgumentError(f"times: expected one for each of {len(sets)} snapshots, got {times!r}")
    ax = _canvas.axes_or_new(ax, (5.2, 4.2))
    norm = Normalize(at.min(), at.max() if len(at) > 1 else at.min() + 1.0)
    for rows, time in zip(sets, at, strict=True):
        size = float(np.clip(4000.0 / len(rows), 2.0, 14.0))
        colour: dict[str, Any] = {"c": np.full(len(rows), time), "cmap": SIZES, "norm": norm}
        ax.scatter(rows[:, 0], rows[:, 1], s=size, linewidths=0, alpha=0.45, **colour)
    box = np.concatenate(sets)
    if paths is not None:
        tracks = in_plane("paths", paths, "(T, B, 2)")
        box = np.concatenate([box, tracks.reshape(-1, 2)])
        _draw(ax, tracks, None if growth is None else np.asarray(to_numpy(growth), float))
    elif growth is not None:
        raise ArgumentError("growth: expected None without paths, got rates")
    bar = colour_bar(ax, ax.collections[0], "time")
    bar.set_ticks(at.tolist())
    _canvas.square(ax, limits_of(box, 1.0))
    return titled(ax, title)


def _draw(ax: Axes, tracks: NDArray[Any], growth: NDArray[Any] | None) -> None:
    """Draw lines along paths, segment by segment if each has a rate of growth."""
    if growth is None:
        each = list(tracks.transpose(1, 0, 2))
        ax.add_collection(LineCollection(each, colors=INK, linewidths=0.5, alpha=0.5))
        return
    if growth.shape != tracks.shape[:2]:
        raise ShapeError(f"growth: expected shape {tracks.shape[:2]}, got {growth.shape}")
    pieces = np.stack([tracks[:-1], tracks[1:]], axis=2).reshape(-1, 2, 2)
    rates = (0.5 * (growth[:-1] + growth[1:])).ravel()
    reach = float(np.quantile(np.abs(rates), 0.98)) or 1.0
    lines = LineCollection(
        list(pieces), array=rates, cmap=SIGNED, norm=TwoSlopeNorm(0.0, -reach, reach), linewidths=1.1
    )
    ax.add_collection(lines)
    colour_bar(ax, lines, "rate of growth", extend="both").ax.tick_params(colors=DATA)
