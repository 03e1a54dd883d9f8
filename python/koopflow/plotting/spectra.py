"""Plots of eigenvalues and of the generator."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm, to_rgba
from numpy.typing import NDArray

from .._arrays import Array, to_numpy
from ..exceptions import ArgumentError, ShapeError
from ..spectrum import LevelSpectrum, Spectrum
from ._canvas import DATA, FAINT, INK, SIGNED, SIZES, STUDENT, axes_or_new, colour_bar, finish, note, titled

# Residual at the end of the colour scale.
WORST = 1.0


def eigenvalues(
    values: Array, *, ax: Axes | None = None, amplitudes: Array | None = None, title: str | None = None
) -> Axes:
    """Draw the eigenvalues of a generator in the complex plane.

    The line Re = 0 separates growth from decay. A conjugate pair has one colour, and real eigenvalues are
    grey.

    Parameters
    ----------
    values : array, ``[m]``, complex
        Eigenvalues, as :meth:`koopflow.KoopmanDistiller.eigenvalues` returns them.
    amplitudes : array, ``[m]``, optional
        Non-negative sizes, drawn as the area of each marker.

    Examples
    --------
    >>> from koopflow import plotting
    >>> ax = plotting.eigenvalues([0.0, -0.5 + 2j, -0.5 - 2j])
    """
    found = np.asarray(to_numpy(values), dtype=np.complex128).reshape(-1)
    if len(found) == 0:
        raise ArgumentError("values: expected at least one eigenvalue, got none")
    area = np.full(len(found), 34.0)
    if amplitudes is not None:
        weight = np.abs(to_numpy(amplitudes)).reshape(-1)
        if len(weight) != len(found):
            raise ShapeError(f"amplitudes: expected shape ({len(found)},), got ({len(weight)},)")
        area = _areas(weight, 12.0, 120.0)
    turning = np.abs(found.imag)
    colours = colormaps[SIZES](0.1 + 0.75 * turning / max(float(turning.max()), 1e-12))
    colours[turning < 1e-9] = to_rgba(DATA)
    ax = plane_of_growth(axes_or_new(ax, (5.0, 4.2)), found)
    ax.scatter(found.real, found.imag, s=area, c=colours, edgecolors="white", linewidths=0.6, zorder=3)
    return finish(ax, title, "growth rate, Re λ", "frequency, Im λ")


def spectrum(
    spectrum: Spectrum | LevelSpectrum, *, ax: Axes | None = None, labels: int = 6, title: str | None = None
) -> Axes:
    """Draw the eigenvalues of a spectrum in the complex plane: area by energy, colour by residual.

    The line Re = 0 separates growth from decay. Dark modes obey their equation along the teacher's paths,
    pale ones do not. A spectrum without a teacher is grey. :func:`level_eigenvalues` draws a LevelSpectrum.

    Parameters
    ----------
    labels : int, default 6
        Number of modes of highest energy that are labelled, one of each conjugate pair.
    """
    if isinstance(spectrum, LevelSpectrum):
        return level_eigenvalues(spectrum, ax=ax, title=title)
    values, energy, residuals = spectrum.eigenvalues, spectrum.energy, spectrum.residuals
    if len(values) == 0:
        raise ArgumentError("spectrum: expected at least one mode, got none")
    ax = plane_of_growth(axes_or_new(ax, (5.8, 4.4)), values)
    # Markers are smaller if there are many modes, and faint modes stay visible.
    area = _areas(energy, 5.0, 420.0 if len(values) <= 100 else 240.0)
    shades: dict[str, Any] = {"color": FAINT}
    if residuals is not None:
        shades = {"c": np.minimum(residuals, WORST), "cmap": SIZES, "norm": Normalize(0.0, WORST)}
    style: dict[str, Any] = {"edgecolors": INK, "linewidths": 0.4, "alpha": 0.9, "zorder": 3}
    dots = ax.scatter(values.real, values.imag, s=area, **shades, **style)
    if residuals is not None:
        bar = colour_bar(ax, dots, "residual along the teacher's paths", extend="max")
        bar.ax.axhline(0.5, color="white", linewidth=1.2)
    for place in [p for p in np.argsort(-energy, kind="stable") if values[p].imag >= 0][:labels]:
        centre, shift = (values[place].real, values[place].imag), (0.55 * np.sqrt(area[place]) + 1, 2)
        note(ax, str(spectrum.indices[place]), centre, shift, color=INK, zorder=4)
    x, y = "growth rate, Re λ (per whole flow)", "angular frequency, Im λ (radians per whole flow)"
    return finish(ax, title, x, y, warning=spectrum.caveat)


def level_eigenvalues(spectrum: LevelSpectrum, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the eigenvalues of a hierarchy's feature maps in the complex plane, one colour per resolution.

    The line Re = 0 separates growth from decay. The area of a marker shows the energy. One of each conjugate
    pair is drawn, that with positive frequency.
    """
    ax = plane_of_growth(axes_or_new(ax, (5.6, 4.2)), spectrum.eigenvalues)
    area = _areas(np.concatenate([level.energy for level in spectrum]), 10.0, 120.0)
    sizes = np.repeat([(m.height, m.width) for m in spectrum], [len(m.energy) for m in spectrum], axis=0)
    resolutions = np.unique(sizes, axis=0)[::-1]
    # Coarse maps are dark, since they affect many pixels at once.
    shades = colormaps[f"{SIZES}_r"](np.linspace(0.05, 0.95, len(resolutions)))
    style: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.5, "alpha": 0.85, "zorder": 3}
    for (height, width), shade in zip(resolutions, shades, strict=True):
        own = (sizes == (height, width)).all(axis=1)
        values, style["label"] = spectrum.eigenvalues[own], f"{height} x {width}"
        ax.scatter(values.real, np.abs(values.imag), s=area[own], color=shade, **style)
    ax.legend(title="feature maps", frameon=False, fontsize=8, title_fontsize=8)
    return finish(ax, title, "growth rate, Re λ", "frequency, |Im λ|")


def generator(
    matrix: Array, *, ax: Axes | None = None, dimension: int | None = None, title: str | None = None
) -> Axes:
    """Draw a generator as a heat map, linear near 0 and logarithmic beyond.

    Entry (i, j) is the contribution of observable i to the rate of change of observable j.

    Parameters
    ----------
    matrix : array, ``[m, m]``
        Generator, as :meth:`koopflow.KoopmanDistiller.generator_matrix` returns it.
    dimension : int, optional
        Dimension d of x, to mark the blocks [1, t], x and phi.

    Examples
    --------
    >>> from koopflow import plotting
    >>> ax = plotting.generator([[0.0, 1.0], [0.0, -0.5]])
    """
    entries = np.asarray(to_numpy(matrix), dtype=np.float64)
    if entries.ndim != 2 or entries.shape[0] != entries.shape[1] or entries.size == 0:
        raise ShapeError(f"matrix: expected shape (m, m), got {entries.shape}")
    if not np.isfinite(entries).all():
        raise ArgumentError("matrix: expected finite numbers, got NaN or infinite ones")
    ax = axes_or_new(ax, (5.2, 4.4))
    top = max(float(np.abs(entries).max()), 1e-12)
    scale = SymLogNorm(top * 1e-2, vmin=-top, vmax=top)
    image = ax.imshow(entries, cmap=SIGNED, norm=scale, interpolation="nearest")
    colour_bar(ax, image, "L (per whole flow)")
    ax.set(xlabel="rate of observable", ylabel="observable")
    if dimension is not None:
        for edge in (1.5, 1.5 + dimension):
            ax.axhline(edge, color=INK, linewidth=0.5)
            ax.axvline(edge, color=INK, linewidth=0.5)
        places = [0.5, 1.5 + dimension / 2, (1.5 + dimension + len(entries)) / 2]
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(places, ["1, t", "x", "phi"], fontsize=8)
    return titled(ax, title)


def _areas(sizes: NDArray[Any], smallest: float, span: float) -> NDArray[Any]:
    """Areas of markers, by size."""
    return smallest + span * sizes / max(float(sizes.max()), 1e-300)


def plane_of_growth(ax: Axes, values: NDArray[np.complex128]) -> Axes:
    """Set limits for eigenvalues, with decay on the left of a line and growth on its right."""
    left, right = min(0.0, float(values.real.min())), max(0.0, float(values.real.max()))
    margin = 0.16 * max(right - left, 1e-2)
    top = 1.15 * max(1e-2, float(np.abs(values.imag).max()))
    # Leave room for text below, where only one of each pair is drawn.
    bottom = -top if (values.imag < 0).any() else -0.12 * top
    ax.axvspan(0.0, right + margin, color=STUDENT, alpha=0.05, linewidth=0)
    ax.axvline(0.0, color=STUDENT, linewidth=0.9)
    ax.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    ax.set(xlim=(left - margin, right + margin), ylim=(bottom, top))
    note(ax, "decays", (0.0, bottom), (-4, 3), fontsize=8, ha="right")
    note(ax, "grows", (0.0, bottom), (4, 3), fontsize=8, ha="left")
    return ax
