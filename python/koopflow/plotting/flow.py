"""Plots of canonical spectra of flows: rates, profiles in time, energies, amplitudes and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .._arrays import Array, as_flag, as_numbers, checked_count
from ..exceptions import ArgumentError, ShapeError
from ..spectrum import FlowComparison, FlowSpectrum, checked_spectrum
from . import _canvas
from ._canvas import FAINT, INK, SIGNED, STUDENT, TEACHER, finish, note, titled
from .modes import LINES
from .spectra import plane_of_growth

# Rates with a relative change of more than this over resampled paths are circled.
UNCERTAIN = 0.1
# Share of a mode, explained by one image times one profile, below which the legend gives the share.
ONE_IMAGE = 0.95
# Ticks of the axis of modes if there are many; the axis is linear up to 10.
MARKS = (0, 2, 4, 6, 8, 10, 20, 40, 70, 100, 150, 200)


def flow_rates(
    spectra: FlowSpectrum | Mapping[str, FlowSpectrum] | Sequence[FlowSpectrum],
    *,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the shared rates of one or several flows in the complex plane, with those of resampled paths.

    The line Re = 0 separates growth from decay. One of each conjugate pair is drawn, that with positive
    frequency. The outline around a rate is the region in which it would explain the motion equally well, with
    the other rates adapted. A circle marks a rate that changes by more than 10% over resampled paths, so that
    its position means little.

    Parameters
    ----------
    spectra : FlowSpectrum, mapping of names to some, or sequence
        Flows to draw, with one colour for each. The legend shows the names, or numbers for a sequence. Raises
        ``TypeError`` for anything else, and ``ArgumentError`` for none.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher, plotting
    >>> from koopflow.analysis import flow_spectrum
    >>> flow = flow_spectrum(FlowTeacher.gaussian([1.0, 0.0], np.diag([4.0, 0.25])), n=256)
    >>> ax = plotting.flow_rates(flow)
    """
    if isinstance(spectra, FlowSpectrum):
        named: dict[str, Any] = {"": spectra}
    elif isinstance(spectra, Mapping):
        named = dict(spectra)
    elif isinstance(spectra, Sequence) and not isinstance(spectra, str):
        named = {str(place): flow for place, flow in enumerate(spectra)}
    else:
        raise TypeError(f"spectra: expected FlowSpectrum objects, got {type(spectra).__name__}")
    flows = [checked_flow(flow, "spectra") for flow in named.values()]
    if not flows:
        raise ArgumentError("spectra: expected at least one flow, got none")
    rates, clouds = [_upper(flow, flow.rates) for flow in flows], [_upper(flow, flow.cloud) for flow in flows]
    outlines = [flow.regions[flow.rates.imag >= 0] for flow in flows]
    every = np.concatenate([part.reshape(-1) for part in [*rates, *clouds, *outlines]])
    ax = plane_of_growth(_canvas.axes_or_new(ax, (5.2, 4.2)), every)
    vague: list[NDArray[Any]] = []
    # Smaller markers are drawn over larger ones, so that equal rates are all visible.
    for place, area in enumerate(np.geomspace(28.0 * min(len(flows), 4), 28.0, len(flows))):
        flow, own, cloud, colour = flows[place], rates[place], clouds[place], LINES[place % len(LINES)]
        for region in outlines[place]:
            around = np.append(region, region[0])
            ax.fill(around.real, around.imag, color=colour, alpha=0.08, linewidth=0, zorder=1)
            ax.plot(around.real, around.imag, color=colour, alpha=0.5, linewidth=0.8, zorder=1)
        ax.scatter(cloud.real, cloud.imag, s=6, color=colour, alpha=0.35, linewidths=0, zorder=2)
        label = list(named)[place] or None
        ax.scatter(
            own.real, own.imag, s=area, marker="x", color=colour, linewidths=1.2, label=label, zorder=3
        )
        vague.append(own[_upper(flow, flow.uncertainty) > UNCERTAIN])
    circled = np.concatenate(vague)
    if len(circled):
        ax.scatter(circled.real, circled.imag, s=190, facecolors="none", edgecolors=STUDENT, linewidths=0.9)
    if any(named):
        ax.legend(frameon=False, fontsize=8)
    warning = "circled: changes by more than 10% with other paths" if len(circled) else None
    note(ax, "outlined: rates that fit as well", (1.0, 0.0), (-4, 4), xycoords="axes fraction", ha="right")
    x, y = "growth rate, Re λ (per whole flow)", "frequency, |Im λ| (radians per whole flow)"
    return finish(ax, title, x, y, warning=warning)


def flow_profiles(
    spectrum: FlowSpectrum,
    *,
    ax: Axes | None = None,
    count: int = 6,
    rates: bool = False,
    times: Sequence[float] | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the RMS displacement of samples by each of the first modes over time.

    A mode is approximated by the best product of one image and one profile in time. The legend gives the
    share of the mode that this explains, if it is less than 95%.

    Parameters
    ----------
    spectrum : FlowSpectrum
        Spectrum of the flow. Raises ``TypeError`` for anything else, and ``ArgumentError`` for an empty
        selection.
    count : int, default 6
        Number of modes, at most 8.
    rates : bool, default False
        Whether to draw instead the functions (e^{lambda t} - 1) / lambda, of which all parts are sums. Real
        parts are solid, imaginary parts dashed.
    times : sequence of float, optional
        Times of the curves; by default those of the spectrum.
    """
    functions = as_flag(rates, "rates")
    flow = checked_flow(spectrum) if functions else flow_with_modes(spectrum)
    count = min(checked_count(count, "count"), len(LINES))
    grid = flow.times.tolist() if times is None else as_numbers(times, "times", "[0, 0.5, 1]")
    ax = _canvas.axes_or_new(ax, (5.0, 3.6))
    if functions:
        values = _upper(flow, flow.functions(grid))
        for colour, curve, rate in zip(LINES, values.T, _upper(flow, flow.rates), strict=False):
            turn = f" ± {abs(rate.imag):.2f}i" if rate.imag else ""
            ax.plot(grid, curve.real, color=colour, linewidth=1.4, label=f"{rate.real:.2f}{turn}")
            if rate.imag:
                ax.plot(grid, curve.imag, "--", color=colour, linewidth=1.1)
        ax.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
        label, heading = "(exp λt - 1) / λ", "rate λ"
    else:
        first = flow[:count]
        curves = first.profiles(grid) * mode_sizes(first)
        for place, colour in zip(range(len(first)), LINES, strict=False):
            name = f"{first.places[place]}: {percent(first.energy[place])}"
            if (held := first.separability[place]) < ONE_IMAGE:
                name += f" ({held:.0%} of it)"
            ax.plot(grid, curves[:, place], color=colour, linewidth=1.4, label=name)
        label, heading = "RMS moved by time t (units of the data)", "mode: energy"
    ax.legend(frameon=False, fontsize=7, title=heading, title_fontsize=7)
    warning = None if functions else flow.caveat
    return finish(ax, title, "time, from noise (0) to data (1)", label, warning=warning)


def flow_energy(spectrum: FlowSpectrum, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the share of each mode in the nonlinear energy, with quantiles over resampled paths and groups.

    Bands alternate between groups. The order of the modes within a group is not significant. The dashed line
    is the energy that the largest mode of sampling noise would have. If it is far below, a note gives it
    instead.

    Parameters
    ----------
    spectrum : FlowSpectrum
        Spectrum of the flow. Raises ``TypeError`` for anything else, and ``ArgumentError`` for an empty
        selection.
    """
    flow = flow_with_modes(spectrum)
    ax = _canvas.axes_or_new(ax, (5.2, 3.6))
    energy, low, high = (np.maximum(values, 1e-12) for values in (flow.energy, flow.low, flow.high))
    for group in flow.groups[::2]:
        ax.axvspan(
            flow.places[group[0]] - 0.5, flow.places[group[-1]] + 0.5, color=_canvas.GAP, lw=0, zorder=0
        )
    ax.vlines(flow.places, low, high, color=TEACHER, linewidth=4, alpha=0.35, label="1% to 99% of resamples")
    ax.plot(flow.places, energy, "o", color=TEACHER, markersize=2, label="energy")
    ax.set_yscale("log")
    if flow.places.max() > 20:
        ax.set_xscale("symlog", linthresh=10.0)
        ax.set_xticks([mark for mark in MARKS if mark <= flow.places.max()])
        ax.xaxis.set_major_formatter("{x:.0f}")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlim(flow.places.min() - 0.5, flow.places.max() + 0.5)
    above = f"{flow.standing} modes stand above sampling noise"
    if flow.edge > 0.1 * float(low.min()):
        ax.axhline(flow.edge, color=STUDENT, linewidth=1.0, linestyle="--", label=above)
    else:
        where = {"xycoords": "axes fraction", "color": STUDENT, "va": "bottom"}
        note(ax, f"{above}, which is at {flow.edge:.0e}", (0.0, 0.0), (5, 4), **where)
    ax.legend(frameon=False, fontsize=7, loc="upper right")
    return finish(
        ax, title, "mode (bands: groups)", "share of the nonlinear energy", warning=caveat_beside_groups(flow)
    )


def flow_agreement(
    comparison: FlowComparison,
    *,
    ax: Axes | None = None,
    count: int = 36,
    amplitudes: bool = False,
    title: str | None = None,
) -> Axes:
    """Draw the absolute cosines between the modes of two flows, with a box around matched groups.

    Modes are in the order of these groups. A box is solid if the group is found again, and dashed otherwise.
    The text next to it gives the group's share of the energy and its mean squared cosine.

    Parameters
    ----------
    comparison : FlowComparison
        Result of ``a.compare(b)``. Raises ``TypeError`` for anything else, and ``ArgumentError`` for flows
        without modes.
    count : int, default 36
        Largest number of modes of the first flow. Only whole groups are drawn, unless the first group alone
        is larger.
    amplitudes : bool, default False
        Whether to draw instead the correlations between the amplitudes of the same noise. Raises
        ``ArgumentError`` if the flows were computed from different noise.
    """
    if not isinstance(comparison, FlowComparison):
        raise TypeError(f"comparison: expected a FlowComparison, got {type(comparison).__name__}")
    matrix, squares = comparison.cosines, comparison.cosine
    if as_flag(amplitudes, "amplitudes"):
        if comparison.correlations is None or comparison.amplitude is None:
            raise ArgumentError("amplitudes: expected flows computed from the same noise, got others")
        matrix, squares = comparison.correlations, comparison.amplitude
    if 0 in matrix.shape:
        raise ArgumentError("comparison: expected flows with modes, got none")
    count, ends = checked_count(count, "count"), np.cumsum([len(first) for first in comparison.first])
    shown = max(int((ends <= count).sum()), 1)
    # Only the first group can exceed the number of modes drawn.
    first = [group[:count] for group in comparison.first[:shown]]
    second = [group[:count] for group in comparison.second[:shown]]
    rows, columns = np.concatenate(first), np.concatenate(second)
    if len(columns) == 0:
        columns = np.arange(min(count, matrix.shape[1]))
    ax = _canvas.axes_or_new(ax, (5.4, 4.6))
    image = ax.imshow(np.abs(matrix[np.ix_(rows, columns)]), cmap="Blues", vmin=0.0, vmax=1.0)
    what = "correlation of amplitudes" if amplitudes else "cosine in space and time"
    _canvas.colour_bar(ax, image, f"size of the {what}")
    top, left = 0, 0
    for place, (high, wide) in enumerate(zip(map(len, first), map(len, second), strict=True)):
        colour, style = (INK, "-") if comparison.found[place] else (STUDENT, "--")
        box = Rectangle((left - 0.5, top - 0.5), wide, high, fill=False, edgecolor=colour, linestyle=style)
        ax.add_patch(box)
        text = f"{percent(comparison.energy[place])}, cos² {squares[place]:.2f}"
        middle, near_end = top + (high - 1) / 2, left + wide > 0.6 * len(columns)
        end, shift, side = (left, -4, "right") if near_end else (left + wide, 4, "left")
        note(ax, text, (end - 0.5, middle), (shift, 0), ha=side, va="center", fontsize=6)
        top, left = top + high, left + wide
    for axis, places in ((ax.yaxis, rows), (ax.xaxis, columns)):
        at = range(0, len(places), max(1, -(-len(places) // 12)))
        axis.set_ticks(list(at), [str(places[place]) for place in at], fontsize=7)
    ax.set(xlabel="mode of the other flow", ylabel="mode of the first flow")
    return titled(ax, title)


def flow_amplitudes(
    spectrum: FlowSpectrum,
    x0: Array,
    *,
    axes: Sequence[Axes] | None = None,
    count: int = 3,
    condition: Array | None = None,
) -> NDArray[Any]:
    """Draw points of noise in the plane, coloured by the amplitude of each of the first modes.

    Red points are moved along the arrow, and blue ones against it. The colour scale ends at three times the
    RMS of the amplitudes. All arrows have the same length; :func:`flow_groups` draws the displacements.

    Parameters
    ----------
    spectrum : FlowSpectrum
        Spectrum of the flow. Raises ``TypeError`` for anything else, ``ShapeError`` for events that are not
        in the plane, and ``ArgumentError`` for an empty selection or a spectrum without its model.
    x0 : array, ``[B, 2]``
        Noise, whose paths are computed.
    count : int, default 3
        Largest number of modes, with one panel for each.
    condition : array, optional
        Conditions of the noise for a conditional model.
    """
    flow = flow_with_modes(spectrum)[: checked_count(count, "count")]
    if flow.event_shape != (2,):
        raise ShapeError(f"spectrum: expected event shape (2,), got {flow.event_shape}")
    noise = _canvas.in_plane("x0", x0)
    ends = flow.modes_at(float(flow.times[-1]))
    amplitudes = flow.amplitudes(x0, condition=condition) / mode_sizes(flow)
    panels = _canvas.panels_or_new(axes, len(flow), 1.0)
    head, limits = (
        {"arrowstyle": "-|>", "color": INK, "linewidth": 1.6},
        _canvas.limits_of(noise, central=0.99),
    )
    for place, ax in enumerate(panels):
        style: dict[str, Any] = {"c": amplitudes[:, place], "cmap": SIGNED, "vmin": -3, "vmax": 3}
        drawn = ax.scatter(noise[:, 0], noise[:, 1], s=6, linewidths=0, **style)
        ax.annotate("", ends[place] / np.linalg.norm(ends[place]), (0.0, 0.0), arrowprops=head)
        _canvas.square(ax, limits)
        titled(ax, f"mode {flow.places[place]}: {percent(flow.energy[place])}")
    _canvas.colour_bar(panels[-1], drawn, "amplitude (of its RMS)")
    titled(panels[0], None, flow.caveat)
    return panels


def checked_flow(spectrum: Any, name: str = "spectrum") -> FlowSpectrum:
    """The argument, if it is the spectrum of a flow. Raises ``TypeError`` otherwise."""
    if not isinstance(spectrum, FlowSpectrum):
        raise TypeError(f"{name}: expected a FlowSpectrum, got {type(spectrum).__name__}")
    return spectrum


def flow_with_modes(spectrum: Any) -> FlowSpectrum:
    """As :func:`checked_flow`, and raises ``ArgumentError`` for a spectrum without modes."""
    checked_spectrum("spectrum", spectrum, FlowSpectrum)
    return checked_flow(spectrum)


def caveat_beside_groups(flow: FlowSpectrum) -> str | None:
    """The first caveat other than that about groups, for plots that show the groups themselves."""
    return next((text for text in flow.caveats if text != flow.mixing), None)


def percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.9995 else "100%"


def mode_sizes(flow: FlowSpectrum) -> NDArray[Any]:
    """RMS of the amplitude of each mode, ``[K]``."""
    return np.asarray(np.sqrt(flow.core.array("energies")[flow.places]))


def _upper(flow: FlowSpectrum, values: NDArray[Any]) -> NDArray[Any]:
    """Values of the rates along the last axis, with only the positive frequency of each conjugate pair."""
    return np.asarray(values[..., flow.rates.imag >= 0])
