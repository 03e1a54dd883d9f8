"""A plot of the eigenvalues of forecasters, with energies and residuals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from ..exceptions import ArgumentError
from ..forecasting import SequenceSpectrum
from . import _canvas
from ._canvas import FAINT, INK, SIZES, STUDENT, colour_bar, finish, note
from .spectra import WORST, _areas

# Fraction of the largest energy from which a mode is labelled and determines the limits of the axes.
IN_VIEW = 0.01
NAMES = 6


def sequence_eigenvalues(
    spectrum: SequenceSpectrum, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw the eigenvalues of a forecaster in the complex plane: area by energy, colour by residual.

    The line Re = 0 separates growth from decay. The axes include the modes with energy or a small residual. A
    note says how many other modes lie outside, such as those that decay within a step. The modes of highest
    energy are labelled with their position in the spectrum and, if they oscillate, with their period.

    Parameters
    ----------
    spectrum : SequenceSpectrum
        Result of :meth:`koopflow.KoopmanForecaster.spectrum`, or a selection of it. Raises ``TypeError`` for
        anything else.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import KoopmanForecaster, plotting
    >>> t = 0.1 * np.arange(60)
    >>> paths = np.stack([np.cos(t), np.sin(t)], axis=1)[None] * np.array([1.0, 2.0, 3.0])[:, None, None]
    >>> model = KoopmanForecaster(basis="polynomial", degree=1).fit(paths, t, progress=False)
    >>> ax = plotting.sequence_eigenvalues(model.spectrum())
    """
    if not isinstance(spectrum, SequenceSpectrum):
        raise TypeError(f"spectrum: expected SequenceSpectrum, got {type(spectrum).__name__}")
    if len(spectrum) == 0:
        raise ArgumentError("spectrum: expected at least one mode, got none")
    values, residuals = spectrum.eigenvalues, spectrum.residuals
    energy = None if spectrum.energy is None else np.nan_to_num(spectrum.energy)
    ax = _canvas.axes_or_new(ax, (6.0, 4.4))
    left, right, top = _plane(ax, values[_deciding(spectrum)])
    seen = (values.real >= left) & (values.real <= right) & (np.abs(values.imag) <= top)
    area = np.full(len(values), 34.0)
    if energy is not None:
        area = _areas(energy, 5.0, 420.0 if seen.sum() <= 100 else 240.0)
    shades: dict[str, Any] = {"color": FAINT}
    if residuals is not None:
        shades = {"c": np.minimum(residuals, WORST)[seen], "cmap": SIZES, "norm": Normalize(0.0, WORST)}
    style: dict[str, Any] = {"edgecolors": INK, "linewidths": 0.4, "alpha": 0.9, "zorder": 3}
    dots = ax.scatter(values.real[seen], values.imag[seen], s=area[seen], **shades, **style)
    if residuals is not None:
        bar = colour_bar(ax, dots, "residual along the paths", extend="max")
        bar.ax.axhline(0.5, color="white", linewidth=1.2)
    if energy is not None:
        known = seen & (values.imag >= 0) & (energy >= IN_VIEW * energy.max())
        _named(ax, spectrum, [place for place in np.argsort(-energy, kind="stable") if known[place]], area)
    if hidden := int((~seen).sum()):
        growing = int((~seen & (values.real > 0)).sum())
        said = f"{hidden} of {len(values)} further out" + (f", {growing} of them growing" * (growing > 0))
        note(ax, said, (0.015, 0.985), (0, 0), xycoords="axes fraction", va="top", fontsize=8)
    verdict = spectrum.verdict.partition(":")[0]
    warning = verdict if verdict.startswith("only") else None
    x, y = "growth rate, Re λ (per unit of time)", "angular frequency, Im λ (radians per unit of time)"
    return finish(ax, title, x, y, warning=warning)


def _named(ax: Axes, spectrum: SequenceSpectrum, places: Sequence[int], area: NDArray[Any]) -> None:
    """Label modes with positions and periods of oscillation, where this covers no other label."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    taken: list[tuple[float, float]] = []
    for place in places[:NAMES]:
        rate, turning = spectrum.growth[place], spectrum.frequency[place]
        x, y = (rate - left) / (right - left), (turning - low) / (high - low)
        if any(abs(x - other) < 0.2 and abs(y - level) < 0.05 for other, level in taken):
            continue
        taken.append((x, y))
        said = f"{place}" + (f": period {spectrum.period[place]:.3g}" if turning > 1e-3 * high else "")
        beside, last = 0.55 * np.sqrt(area[place]) + 1, x > 0.75
        side: dict[str, Any] = {"ha": "right" if last else "left", "color": INK, "zorder": 4}
        note(ax, said, (rate, turning), (-beside if last else beside, 2), **side)


def _deciding(spectrum: SequenceSpectrum) -> NDArray[np.bool_]:
    """The modes that determine the limits of the axes.

    They are the modes with energy and those that follow the data, or else those that last longer than a step.
    Raises ``ArgumentError`` if no eigenvalue is finite.
    """
    finite = np.isfinite(spectrum.eigenvalues)
    if not finite.any():
        raise ArgumentError("spectrum: expected at least one finite eigenvalue, got none")
    if spectrum.energy is None or spectrum.residuals is None:
        step = json.loads(spectrum.core.facts)["facts"]["step"]
        chosen = finite & (spectrum.growth > -3.0 / step)
    else:
        large = spectrum.energy >= IN_VIEW * float(spectrum.energy[finite].max())
        chosen = finite & (large | (spectrum.residuals <= 0.5))
    return chosen if chosen.any() else finite


def _plane(ax: Axes, values: NDArray[np.complex128]) -> tuple[float, float, float]:
    """Set limits for eigenvalues, with decay on the left and growth on the right; returns sides and top."""
    low, high = min(0.0, float(values.real.min())), max(0.0, float(values.real.max()))
    turning = float(np.abs(values.imag).max())
    # The scale follows the values, whose unit of time may be any; it is 1 if nothing decays or oscillates.
    scale = max(high - low, turning) or 1.0
    margin = 0.16 * max(high - low, 0.2 * scale)
    left, right, top = low - margin, high + margin, 1.15 * max(turning, 0.2 * scale)
    # Leave room for text below and above.
    edge = 1.16 * top
    ax.axvspan(0.0, right, color=STUDENT, alpha=0.05, linewidth=0)
    ax.axvline(0.0, color=STUDENT, linewidth=0.9)
    ax.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    ax.set(xlim=(left, right), ylim=(-edge, edge))
    note(ax, "decays", (0.0, -edge), (-4, 3), fontsize=8, ha="right")
    note(ax, "grows", (0.0, -edge), (4, 3), fontsize=8, ha="left")
    return left, right, top
