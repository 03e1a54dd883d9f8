"""Plots of modes and eigenfunctions: their images, their energy over time, and the effect of truncation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .._arrays import Array
from ..exceptions import ArgumentError, ShapeError
from ..spectrum import LevelSpectrum, Spectrum
from . import _canvas
from ._canvas import DATA, FAINT, INK, SIGNED, SIZES, STUDENT, TEACHER, finish, titled
from .images import corners, show, tiled

# Okabe and Ito's palette, distinguishable in grey and for colour-blind readers.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


def modes(
    spectrum: Spectrum,
    *,
    ax: Axes | None = None,
    count: int = 16,
    columns: int | None = None,
    weights: bool = False,
    title: str | None = None,
) -> Axes:
    """Draw the Koopman modes of highest energy, one of each conjugate pair.

    Modes are images, arrows in the plane, or rows of a heat map. In the plane, an arrow has the length of the
    displacement at t = 1 by an eigenfunction of RMS size; a pair moves along its ellipse as its phase turns.
    Otherwise the real part is drawn, scaled to the mode's largest value. For images, the imaginary part of a
    pair is drawn to the right.

    Parameters
    ----------
    count : int, default 16
        Number of modes; a conjugate pair counts once.
    columns : int, optional
        Number of images in a row.
    weights : bool, default False
        Whether to draw ``spectrum.weight_images`` instead, which are not modes.
    """
    places = _leading(spectrum, count)
    drawn = (spectrum.weight_images if weights else spectrum.modes)[places]
    names = [_name(spectrum, place) for place in places]
    if spectrum.event_shape == (2,):
        if not weights:
            drawn = np.sqrt(spectrum.power[places, None]) * spectrum.displacements[places]
        ax = _arrows(drawn, names, ax, weights=weights)
    elif _canvas.is_image(spectrum.event_shape):
        ax = _images(drawn, names, ax, columns)
    else:
        ax = _canvas.axes_or_new(ax, (6.0, 0.25 * len(places) + 1.0))
        flat = drawn.reshape(len(places), -1).real
        flat = flat / np.maximum(np.abs(flat).max(axis=1, keepdims=True), 1e-300)
        image = ax.imshow(flat, cmap=SIGNED, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        _canvas.colour_bar(ax, image, "mode, of its largest value")
        ax.set_yticks(range(len(places)), names, fontsize=7)
        ax.set_xlabel("coordinate of x")
    return titled(ax, title, spectrum.caveat)


def eigenfunctions(
    spectrum: Spectrum,
    *,
    axes: Sequence[Axes] | None = None,
    mode: int = 0,
    times: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    limits: tuple[float, float, float, float] = (-3.0, 3.0, -3.0, 3.0),
    resolution: int = 96,
    condition: Array | None = None,
    background: Array | None = None,
) -> NDArray[Any]:
    """Draw one eigenfunction of a two-dimensional student over the plane, at several times.

    Colour is the real part, divided by the 97th percentile of the modulus. Lines are contours of the modulus.
    Along a path the modulus grows by exp(Re lambda t), and the phase turns by Im lambda t.

    Parameters
    ----------
    mode : int, default 0
        Position of the mode in the spectrum.
    times : sequence of float
        Times in [0, 1].
    limits : (left, right, bottom, top)
        Limits of the region of the plane that is drawn.
    resolution : int, default 96
        Number of points on each side.
    condition : array, optional
        One label or vector, ``[1]`` or ``[1, dim]``, for a conditional student.
    background : array, ``[T, B, 2]``, optional
        States at the same times, drawn as dots.
    """
    if spectrum.event_shape != (2,):
        raise ShapeError(f"spectrum: expected event shape (2,), got {spectrum.event_shape}")
    left, right, bottom, top = limits
    across, up = np.linspace(left, right, resolution), np.linspace(bottom, top, resolution)
    points = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2).astype(np.float32)
    given = None if condition is None else np.repeat(np.asarray(condition), len(points), axis=0)
    panels = _canvas.panels_or_new(axes, len(times), (top - bottom) / (right - left))
    shades: dict[str, Any] = {"cmap": SIGNED, "vmin": -1, "vmax": 1, "interpolation": "bilinear"}
    for index, (ax, t) in enumerate(zip(panels, times, strict=True)):
        psi = spectrum[mode].eigenfunctions(float(t), points, condition=given).reshape(resolution, -1)
        size = max(float(np.quantile(np.abs(psi), 0.97)), 1e-12)
        image = ax.imshow(psi.real / size, origin="lower", extent=limits, **shades)
        ax.contour(across, up, np.abs(psi), levels=5, colors=INK, linewidths=0.4, alpha=0.6)
        if background is not None:
            _canvas.dots(ax, np.asarray(background)[index], 3, "black", alpha=0.5)
        ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        titled(ax, f"t = {t:g}")
    panels[0].set_ylabel(f"mode {_name(spectrum, mode)}", fontsize=8)
    _canvas.colour_bar(panels[-1], image, "Re ψ / |ψ| (97th percentile)")
    titled(panels[-1], None, spectrum.caveat)
    return panels


def mode_energy(
    spectrum: Spectrum,
    *,
    ax: Axes | None = None,
    count: int = 7,
    times: Sequence[float] | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the mean squared displacement by each mode over time, on a logarithmic scale.

    Parameters
    ----------
    count : int, default 7
        Number of modes with their own curve; a conjugate pair has one. The other modes share a dashed curve.
    times : sequence of float, optional
        Times of the curves; by default 40 from 0.025 to 1.
    """
    grid = np.linspace(0.025, 1.0, 40) if times is None else np.asarray(times, dtype=np.float64)
    energy = spectrum.energy_over_time(grid.tolist())
    places = _leading(spectrum, min(count, len(LINES)))
    ax = _canvas.axes_or_new(ax, (5.6, 3.8))
    shown = np.zeros(len(spectrum), dtype=bool)
    for colour, place in zip(LINES, places, strict=False):
        both = spectrum.paired(np.asarray([place]))
        shown |= both
        ax.plot(grid, energy[:, both].sum(axis=1), color=colour, linewidth=1.4, label=_name(spectrum, place))
    if not shown.all():
        rest = energy[:, ~shown].sum(axis=1)
        ax.plot(grid, rest, "--", color=DATA, linewidth=1.2, label=f"{int((~shown).sum())} others")
    ax.set_yscale("log")
    ax.legend(frameon=False, fontsize=7, title="mode: eigenvalue", title_fontsize=7)
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    x, y = "time, from noise (0) to data (1)", "energy moved (share of all at t = 1)"
    return finish(ax, title, x, y, warning=spectrum.caveat)


def truncation(
    spectrum: Spectrum | LevelSpectrum,
    x0: Array,
    *,
    ax: Axes | None = None,
    counts: Sequence[int] | None = None,
    condition: Array | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the error of samples with only the first modes by energy, over the number of modes.

    Parameters
    ----------
    x0, counts, condition
        As in :meth:`koopflow.spectrum.Spectrum.truncation_curve`.
    """
    kept, errors = spectrum.truncation_curve(x0, counts=counts, condition=condition)
    ax = _canvas.axes_or_new(ax, (5.0, 3.6))
    ax.plot(kept, errors, color=STUDENT, marker="o", markersize=3, linewidth=1.4)
    order = np.argsort(-spectrum.energy, kind="stable")
    left = 1.0 - np.cumsum(spectrum.energy[order]) / max(spectrum.energy.sum(), 1e-300)
    expected, label = np.sqrt(np.maximum(left, 0.0)), "if contributions were orthogonal"
    ax.plot(range(1, len(left) + 1), expected, "--", color=TEACHER, linewidth=1.0, label=label)
    ax.axhline(0.1, color=FAINT, linewidth=0.8, zorder=0)
    ax.set_xscale("symlog", linthresh=1.0)
    ax.set(xlim=(0.0, 1.1 * max(1, len(left))), ylim=(0.0, None))
    ax.legend(frameon=False, fontsize=7)
    x, y = "modes, in the order of their energy", "RMS error (of what all modes move)"
    return finish(ax, title, x, y, warning=spectrum.caveat)


def _leading(spectrum: Spectrum, count: int) -> NDArray[np.int64]:
    """Positions of the modes of highest energy, one of each conjugate pair."""
    if len(spectrum) == 0:
        raise ArgumentError("spectrum: expected at least one mode, got none")
    order = np.argsort(-spectrum.energy, kind="stable")
    own = spectrum.places[order]
    _, first = np.unique(np.minimum(own, np.asarray(spectrum.core.partners)[own]), return_index=True)
    return order[np.sort(first)][:count]


def _name(spectrum: Spectrum, place: int) -> str:
    value = spectrum.eigenvalues[place]
    turn = f" ± {abs(value.imag):.2f}i" if value.imag else ""
    return f"{spectrum.indices[place]}: {value.real:.2f}{turn}"


def _arrows(drawn: NDArray[np.complex128], names: list[str], ax: Axes | None, *, weights: bool) -> Axes:
    ax = _canvas.axes_or_new(ax, (5.4, 4.4))
    reach = max(float(np.abs(drawn).max()), 1e-300)
    top = reach if weights else 1.0
    colours = colormaps[SIZES](np.linspace(0.0, 0.9, len(names)))
    # A conjugate pair moves the state along an ellipse; the real part is the direction at phase 0.
    phases = np.exp(1j * np.linspace(0.0, 2.0 * np.pi, 73))
    for mode, name, colour in zip(drawn / top, names, colours, strict=True):
        if np.abs(mode.imag).max() > 0:
            ax.plot(*np.outer(mode, phases).real, color=colour, linewidth=0.7, alpha=0.7)
        arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.3}
        ax.annotate("", mode.real, (0.0, 0.0), arrowprops=arrow)
        ax.plot([], [], color=colour, label=name)
    side = 1.1 * reach / top
    ax.set(xlim=(-side, side), ylim=(-side, side), aspect="equal")
    ax.legend(frameon=False, fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    moved = "x₁, weight (of the largest)" if weights else "x₁, moved by t = 1 (units of the data)"
    return finish(ax, None, moved, "x₂")


def _images(drawn: NDArray[np.complex128], names: list[str], ax: Axes | None, columns: int | None) -> Axes:
    height, width = _canvas.image_size(drawn.shape[1:])
    count = len(drawn)
    # Each image has room for a caption above it, and a column that separates it from the next.
    room = max(2, height // 3)
    pictures = np.full((count, room + height, 2 * width + 1), np.nan)
    for picture, mode in zip(pictures, drawn.reshape(count, height, width), strict=True):
        top = max(float(np.abs(mode).max()), 1e-300)
        picture[room:, :width] = mode.real / top
        if np.abs(mode.imag).max() > 1e-12 * top:
            picture[room:, width:-1] = mode.imag / top
    columns = columns or min(4, count)
    ax = _canvas.axes_or_new(ax, (1.7 * columns + 0.6, 1.15 * -(-count // columns) + 0.5))
    image = show(ax, tiled(pictures, columns), SIGNED, (-1.0, 1.0))
    places = corners(count, *pictures.shape[1:], columns)
    for (above, left), name in zip(places, names, strict=True):
        ax.text(left, above + room - 1.0, name, fontsize=6, color=INK, va="bottom")
    ax.set_axis_off()
    _canvas.colour_bar(ax, image, "real | imaginary part, of the mode's largest modulus")
    return ax
