"""What each level of a hierarchy adds to samples."""

from __future__ import annotations

from typing import Literal

from matplotlib.axes import Axes

from .._arrays import Array
from ..spectrum import LevelSpectrum
from ._canvas import titled
from .images import edit_strip


def level_build_up(
    spectrum: LevelSpectrum,
    x0: Array,
    *,
    ax: Axes | None = None,
    by: Literal["level", "map"] = "level",
    condition: Array | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Axes:
    """Samples of the coarsest feature maps alone, then with finer ones: a row is a sample, a column a step.

    What a column leaves out is the mean over noise, the same in every row. The last one has all of the
    spectrum, which are the student's own samples unless it is a selection.

    Parameters
    ----------
    spectrum : LevelSpectrum
        Raises ``TypeError`` for anything else.
    x0 : array, ``[B, *event]``
        Noise of the samples.
    by : {"level", "map"}, default "level"
        Whether a step adds all maps of a size, or one map.
    condition : array, optional
        Conditions of the samples of a conditional student.
    limits
        As in :func:`image_grid`.
    """
    if not isinstance(spectrum, LevelSpectrum):
        raise TypeError(f"spectrum: expected a LevelSpectrum, got {type(spectrum).__name__}")
    names, samples = spectrum.build_up(x0, by=by, condition=condition)
    ax = edit_strip(samples, ax=ax, strengths=names, limits=limits, label="feature maps")
    return titled(ax, title, spectrum.caveat)
