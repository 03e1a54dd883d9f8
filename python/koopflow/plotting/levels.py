"""A plot of what each level of a hierarchy adds to samples."""

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
    """Draw samples of the coarsest feature maps alone, then with finer ones added step by step.

    Each row is a sample, and each column a step. Feature maps that a column leaves out are at their mean over
    noise, the same in every row. The last column has all maps of the spectrum; it shows the student's own
    samples, unless the spectrum is a selection.

    Parameters
    ----------
    spectrum : LevelSpectrum
        Spectrum of the hierarchy. Raises ``TypeError`` for anything else.
    x0 : array, ``[B, *event]``
        Noise of the samples.
    by : {"level", "map"}, default "level"
        Whether a step adds all maps of one size or a single map.
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
