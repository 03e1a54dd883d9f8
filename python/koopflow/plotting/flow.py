"""Canonical spectra of flows: rates, profiles in time, energies, amplitudes, and what two flows share."""

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

# A rate that other paths move by more than this, of its modulus, is circled.
UNCERTAIN = 0.1
# Less of a mode than this in one image that grows as a whole, and its profile is not all of it.
ONE_IMAGE = 0.95
# Numbers on the axis of many modes, which is linear up to 10.
MARKS = (0, 2, 4, 6, 8, 10, 20, 40, 70, 100, 150, 200)


def flow_rates(
    spectra: FlowSpectrum | Mapping[str, FlowSpectrum] | Sequence[FlowSpectrum],
    *,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Shared rates of one or several flows in the complex plane, with those of resampled paths as clouds.

    The line Re = 0 divides growth from decay. Of each conjugate pair the one of positive frequency is drawn,
    inside the region in which it would explain the motion as well, together with others that adapt.
    A circle is around a rate that resampling moves by more than 10%, so that its place means little.

    Parameters
    ----------
    spectra : FlowSpectrum, mapping of names to some, or sequence
        Flows to draw, one colour each; the names are the legend, numbers for a sequence. Raises ``TypeError``
        for anything else and ``ArgumentError`` for none.

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
    # Smaller markers over larger ones, so that rates that agree are both seen.
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
    warning = "circled: moves by more than 10% with other paths" if len(circled) else None
    note(ax, "outlined: where it would do as well", (1.0, 0.0), (-4, 4), xycoords="axes fraction", ha="right")
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
    """When the first modes move samples: RMS over samples of what each has moved by time t.

    A mode is drawn as its best product of one image and one profile in time; the legend says so if less than
    95% of the mode is in that.

    Parameters
    ----------
    spectrum : FlowSpectrum
        Raises ``TypeError`` for anything else, and ``ArgumentError`` for a selection of no modes.
    count : int, default 6
        Number of modes, at most 8 of them.
    rates : bool, default False
        Draw the functions (e^{lambda t} - 1) / lambda instead, of which all parts are sums: real parts solid,
        imaginary parts dashed.
    times : sequence of float, optional
        Times of the curves; those of the spectrum by default.
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
    """Share of each mode in the nonlinear energy, with quantiles over resampled paths and the groups.

    Bands alternate between groups: within one, resampling cannot order the modes. The dashed line is the
    energy that the largest mode of sampling noise would have; words at the bottom if that is far below.

    Parameters
    ----------
    spectrum : FlowSpectrum
        Raises ``TypeError`` for anything else, and ``ArgumentError`` for a selection of no modes.
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
    """Cosines between the modes of two flows, sizes without signs, with a box around groups that are one.

    Modes are in the order of these groups. A box is solid if the group is found again and dashed otherwise;
    beside it stand the group's share of the energy and its mean squared cosine.

    Parameters
    ----------
    comparison : FlowComparison
        What ``a.compare(b)`` gives. Raises ``TypeError`` for anything else, and ``ArgumentError`` for flows
        without modes.
    count : int, default 36
        Most modes of the first flow; whole groups of them, unless the first one alone is larger.
    amplitudes : bool, default False
        Draw correlations between the amplitudes of the same noise instead. Raises ``ArgumentError`` if the
        flows were read from other noise.
    """
    if not isinstance(comparison, FlowComparison):
        raise TypeError(f"comparison: expected a FlowComparison, got {type(comparison).__name__}")
    matrix, squares = comparison.cosines, comparison.cosine
    if as_flag(amplitudes, "amplitudes"):
        if comparison.correlations is None or comparison.amplitude is None:
            raise ArgumentError("amplitudes: expected flows that were read from the same noise")
        matrix, squares = comparison.correlations, comparison.amplitude
    if 0 in matrix.shape:
        raise ArgumentError("comparison: expected flows with modes, got none")
    count, ends = checked_count(count, "count"), np.cumsum([len(first) for first in comparison.first])
    shown = max(int((ends <= count).sum()), 1)
    # Only the first can be larger than all that are drawn.
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
    """Which noise of the plane each of the first modes moves: points of noise, coloured by amplitude.

    Red points are moved along the arrow, blue ones against it. Colours end at three times the amplitudes'
    RMS. The arrow has one length for all modes: :func:`flow_groups` draws how far they move.

    Parameters
    ----------
    spectrum : FlowSpectrum
        Raises ``TypeError`` for anything else, ``ShapeError`` for events that are not in the plane, and
        ``ArgumentError`` for a selection of no modes or a spectrum without its model.
    x0 : array, ``[B, 2]``
        Noise, whose paths are taken.
    count : int, default 3
        Number of modes, if there are as many; one panel each.
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
    """The argument, if it is the spectrum of a flow; a ``TypeError`` otherwise."""
    if not isinstance(spectrum, FlowSpectrum):
        raise TypeError(f"{name}: expected a FlowSpectrum, got {type(spectrum).__name__}")
    return spectrum


def flow_with_modes(spectrum: Any) -> FlowSpectrum:
    """The same, and an ``ArgumentError`` for one without modes."""
    checked_spectrum("spectrum", spectrum, FlowSpectrum)
    return checked_flow(spectrum)


def caveat_beside_groups(flow: FlowSpectrum) -> str | None:
    """What a picture must say that shows which modes cannot be told apart: not the caveat of those."""
    return next((text for text in flow.caveats if text != flow.mixing), None)


def percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.9995 else "100%"


def mode_sizes(flow: FlowSpectrum) -> NDArray[Any]:
    """RMS of the amplitude of each mode, ``[K]``."""
    return np.asarray(np.sqrt(flow.core.array("energies")[flow.places]))


def _upper(flow: FlowSpectrum, values: NDArray[Any]) -> NDArray[Any]:
    """What belongs to rates, along the last axis: of each pair only that of positive frequency."""
    return np.asarray(values[..., flow.rates.imag >= 0])
