"""Eigenvalues of forecasters: which motions sequences are made of, and which of them to believe."""

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

# Share of the largest energy from which on a mode is named and decides what is in view.
IN_VIEW = 0.01
NAMES = 6


def sequence_eigenvalues(
    spectrum: SequenceSpectrum, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Eigenvalues of a forecaster in the complex plane: area by energy, colour by residual.

    The line Re = 0 divides growth from decay. In view are the modes that hold energy or follow the data, and
    whatever lies among them; the words say how many are further out, such as those that a step forgets. The
    modes of the highest energy carry their place in the spectrum, and their period where they turn.

    Parameters
    ----------
    spectrum : SequenceSpectrum
        What :meth:`koopflow.KoopmanForecaster.spectrum` found, or a selection. Raises ``TypeError`` for
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
    """Places of modes beside their markers, and periods of those that turn, where no other name stands."""
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
    """The modes that decide what is in view: those with energy, those that follow the data, or else those
    that outlive a step. Raises ``ArgumentError`` where no eigenvalue is finite."""
    finite = np.isfinite(spectrum.eigenvalues)
    if not finite.any():
        raise ArgumentError("spectrum: expected a finite eigenvalue at least, got none")
    if spectrum.energy is None or spectrum.residuals is None:
        step = json.loads(spectrum.core.facts)["facts"]["step"]
        chosen = finite & (spectrum.growth > -3.0 / step)
    else:
        large = spectrum.energy >= IN_VIEW * float(spectrum.energy[finite].max())
        chosen = finite & (large | (spectrum.residuals <= 0.5))
    return chosen if chosen.any() else finite


def _plane(ax: Axes, values: NDArray[np.complex128]) -> tuple[float, float, float]:
    """Room for eigenvalues, decay on the left and growth on the right; the sides and the top."""
    low, high = min(0.0, float(values.real.min())), max(0.0, float(values.real.max()))
    turning = float(np.abs(values.imag).max())
    # Whatever the unit of time, and where nothing decays or turns.
    scale = max(high - low, turning) or 1.0
    margin = 0.16 * max(high - low, 0.2 * scale)
    left, right, top = low - margin, high + margin, 1.15 * max(turning, 0.2 * scale)
    # Room for words below and above.
    edge = 1.16 * top
    ax.axvspan(0.0, right, color=STUDENT, alpha=0.05, linewidth=0)
    ax.axvline(0.0, color=STUDENT, linewidth=0.9)
    ax.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    ax.set(xlim=(left, right), ylim=(-edge, edge))
    note(ax, "decays", (0.0, -edge), (-4, 3), fontsize=8, ha="right")
    note(ax, "grows", (0.0, -edge), (4, 3), fontsize=8, ha="left")
    return left, right, top
