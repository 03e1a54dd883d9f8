"""Plots of the parts of a flow: all parts over time, groups of modes, and samples built from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from .._arrays import Array, as_batch, as_condition, as_numbers, checked_count, to_numpy
from ..exceptions import ArgumentError, ShapeError
from ..spectrum import FlowSpectrum
from . import _canvas
from ._canvas import DATA, FAINT, INK, SIGNED, STUDENT, TEACHER, finish, note, titled
from .flow import caveat_beside_groups, checked_flow, flow_with_modes, mode_sizes, percent
from .images import edit_strip, show, tiled
from .modes import LINES

# Numbers of modes after which samples are shown.
STEPS = (1, 2, 6, 20, 60)
PARTS = {"affine": TEACHER, "nonlinear": STUDENT, "drift": FAINT}

# A caption, and the images ``[N, H, W]`` side by side below it.
Segment: TypeAlias = tuple[str, NDArray[Any]]


def blueprint(
    spectrum: FlowSpectrum,
    *,
    axes: Sequence[Axes] | None = None,
    count: int = 6,
    image_shape: tuple[int, int] | None = None,
    title: str | None = None,
) -> NDArray[Any]:
    """Draw the energies of drift, affine and nonlinear part over time, and the parts themselves.

    The left panel stacks mean squares of the displacement. Affine and nonlinear part add up to 1 at the end.
    The right panel shows each part. For images it shows the drift as it grows, on one scale; the directions
    in which noise and affine part together have the largest RMS, on one scale; and the first modes with their
    shares of the nonlinear energy, each on its own scale, with a bracket over the modes of a group. In the
    plane it shows the curves along which the drift, the axes of the affine part and modes of RMS amplitude
    move a sample. For other events there is no right panel.

    Parameters
    ----------
    spectrum : FlowSpectrum
        Spectrum of the flow. Raises ``TypeError`` for anything else.
    axes : sequence of Axes, optional
        Two axes, or one for events that are neither images nor in the plane.
    count : int, default 6
        Number of images of each part, or of curves of modes.
    image_shape : (int, int), optional
        Size of flat images; a square by default. Raises ``ShapeError`` if it does not fit.
    """
    flow, count = checked_flow(spectrum), checked_count(count, "count")
    size, plane = _image_size(flow, image_shape), flow.event_shape == (2,)
    pictures = size is not None or plane
    if axes is None and pictures:
        right = 4.6 if plane else 0.74 * (count + 1)
        figure = _canvas.new_figure((4.4 + right, 3.7))
        panels = np.asarray(figure.subplots(1, 2, width_ratios=(4.0, right)))
    else:
        panels = _canvas.panels_or_new(axes, 2 if pictures else 1, 1.0)
    _shares(panels[0], flow, title)
    if plane:
        _plane_of_parts(panels[1], flow, count)
    elif size is not None:
        names = ["drift", "affine\n(RMS kept)", "modes\n(energy)"]
        _rows(panels[1], _parts(flow, size, count), names)
    return panels


def flow_groups(
    spectrum: FlowSpectrum,
    *,
    ax: Axes | None = None,
    count: int = 24,
    columns: int = 8,
    image_shape: tuple[int, int] | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the first modes by groups, each with its share of the nonlinear energy.

    The energies of the modes in a group do not differ significantly, so only the span of its modes is
    determined. Images are scaled to their largest value and bracketed by group. In the plane, curves show the
    displacement by a mode of RMS amplitude over time, with one colour for each group and at most 8 modes.
    Other events are rows of a heat map.

    Parameters
    ----------
    spectrum : FlowSpectrum
        Spectrum of the flow. Raises ``TypeError`` for anything else, and ``ArgumentError`` for an empty
        selection.
    count : int, default 24
        Number of modes. A group that begins among them is drawn as a whole.
    columns : int, default 8
        Number of images in a row, and largest number of images of one group. The caption gives the number of
        its modes.
    image_shape : (int, int), optional
        Size of flat images; a square by default. Raises ``ShapeError`` if it does not fit.
    """
    flow = flow_with_modes(spectrum)
    count, columns = checked_count(count, "count"), checked_count(columns, "columns")
    size, plane = _image_size(flow, image_shape), flow.event_shape == (2,)
    groups = [(group, group[:columns]) for group in flow.groups if group[0] < count]
    shown = np.concatenate([kept for _, kept in groups])
    if plane:
        ax = _canvas.axes_or_new(ax, (5.2, 4.0))
        colours = [LINES[place % len(LINES)] for place, (_, kept) in enumerate(groups) for _ in kept]
        drawn = flow[shown[: len(LINES)]]
        _curves(ax, _moved(drawn), _names(drawn), colours)
    elif size is not None:
        rows: list[list[Segment]] = [[]]
        for whole, kept in groups:
            segment = _segment(flow, whole, kept, size)
            if sum(len(images) for _, images in rows[-1]) + len(segment[1]) > columns:
                rows.append([])
            rows[-1].append(segment)
        ax = _canvas.axes_or_new(ax, (0.74 * columns + 0.4, 0.98 * len(rows) + 0.5))
        _rows(ax, rows)
    else:
        ax = _canvas.axes_or_new(ax, (6.0, 0.2 * len(shown) + 1.0))
        flat = _scaled(flow.images.reshape(len(flow), -1)[shown])
        image = ax.imshow(flat, cmap=SIGNED, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        _canvas.colour_bar(ax, image, "mode, of its largest value")
        for _, kept in groups[1:]:
            ax.axhline(kept[0] - 0.5, color=INK, linewidth=0.6)
        captions = [_caption(flow, whole, kept) for whole, kept in groups]
        ax.set_yticks([float(kept.mean()) for _, kept in groups], captions, fontsize=7)
        ax.set_xlabel("coordinate of x")
    return titled(ax, title, caveat_beside_groups(flow))


def build_up(
    spectrum: FlowSpectrum,
    x0: Array,
    *,
    ax: Axes | None = None,
    counts: Sequence[int] | None = None,
    condition: Array | None = None,
    image_shape: tuple[int, int] | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Axes:
    """Draw how samples are built up: noise, with drift, with affine part, with modes, and the model's own.

    For images, each row is a sample. In the plane, each cloud shows all samples, coloured by the direction of
    their noise.

    Parameters
    ----------
    spectrum : FlowSpectrum
        Spectrum of the flow. Raises ``TypeError`` for anything else, and ``ArgumentError`` for one without
        its model.
    x0 : array, ``[B, *event]``
        Noise of the samples.
    counts : sequence of int, optional
        Numbers of modes; by default 1, 2, 6, 20 and 60, up to the number of modes.
    condition : array, optional
        Conditions of the samples of a conditional model.
    image_shape, limits
        As in :func:`image_grid`.
    """
    flow, x0 = checked_flow(spectrum), as_batch(x0, "x0")
    numbers = [number for number in STEPS if number <= len(flow)]
    if counts is not None:
        numbers = [int(number) for number in as_numbers(counts, "counts", "[1, 6, 20]")]
    if not all(number in range(1, len(flow) + 1) for number in numbers):
        raise ArgumentError(f"counts: expected integers from 1 to {len(flow)}, got {counts!r}")
    times = flow.times.tolist()
    paths = flow.source.states(x0, times, as_condition(condition))
    amplitudes, moved = flow.amplitudes_of_paths(paths), flow.modes_at(times[-1])
    base = to_numpy(flow.base(x0, t=times[-1]))
    columns = {"noise": to_numpy(x0), "+ drift": to_numpy(flow.base(x0, t=times[-1], affine=False))}
    columns["+ affine"] = base
    for place, number in enumerate(numbers):
        unit = "" if place else " mode" if number == 1 else " modes"
        columns[f"+ {number}{unit}"] = base + np.tensordot(amplitudes[:, :number], moved[:number], axes=1)
    columns["sample"] = to_numpy(paths[-1])
    names, states = list(columns), np.stack(list(columns.values()))
    # Only whole groups are determined, not parts of one.
    parted = bool(flow.groups) and any(number < len(flow.groups[0]) for number in numbers)
    warning = flow.caveat if parted else caveat_beside_groups(flow)
    if flow.event_shape == (2,):
        return titled(_clouds(states, names, ax), title, warning)
    options: dict[str, Any] = {"image_shape": image_shape, "limits": limits, "label": ""}
    return titled(edit_strip(states, ax=ax, strengths=names, **options), title, warning)


def _image_size(flow: FlowSpectrum, image_shape: tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width of events that are drawn as images, or None."""
    if image_shape is None:
        return _canvas.image_size(flow.event_shape) if _canvas.is_image(flow.event_shape) else None
    height, width = image_shape
    if height * width != np.prod(flow.event_shape):
        raise ShapeError(f"images: expected {height} x {width} pixels, got samples {flow.event_shape}")
    return height, width


def _shares(ax: Axes, flow: FlowSpectrum, title: str | None) -> None:
    """Mean squares of the displacement over time, stacked, each with its share at the end."""
    drift, affine, nonlinear = flow.shares.T
    parts = dict(zip(PARTS, (affine, nonlinear, drift), strict=True))
    ax.stackplot(flow.times, *parts.values(), colors=list(PARTS.values()), alpha=0.85, linewidth=0)
    below, end = 0.0, float(flow.times[-1])
    for name, energy in parts.items():
        height, colour = float(energy[-1]), DATA if name == "drift" else PARTS[name]
        # The drift is not part of the motion, so its energy is not a share.
        text = f"{height:.2f}" if name == "drift" else percent(height)
        style = {"va": "center", "color": colour, "fontsize": 8, "annotation_clip": False}
        note(ax, f"{name}\n{text}", (end, below + height / 2), (4, 0), **style)
        below += height
    ax.set(xlim=(float(flow.times[0]), end), ylim=(0.0, 1.02 * below))
    finish(
        ax,
        title,
        "time, from noise (0) to data (1)",
        "energy moved (motion at the end: 1)",
        warning=caveat_beside_groups(flow),
    )


def _plane_of_parts(ax: Axes, flow: FlowSpectrum, count: int) -> None:
    axes = np.stack([flow.axis_modes(t) for t in flow.times.tolist()], axis=1)
    curves, names, colours = [flow.drift, *axes], ["drift"], [DATA] + [TEACHER] * len(axes)
    names += [f"affine, axis {place}" for place in range(len(axes))]
    if len(first := flow[:count]):
        curves, colours = [*curves, *_moved(first)], [*colours, *[STUDENT] * len(first)]
        names += [f"mode {name}" for name in _names(first)]
    _curves(ax, np.stack(curves), names, colours)


def _names(flow: FlowSpectrum) -> list[str]:
    return [f"{place}: {percent(share)}" for place, share in zip(flow.places, flow.energy, strict=True)]


def _moved(flow: FlowSpectrum) -> NDArray[Any]:
    """Displacement by each mode of RMS amplitude at each time, ``[K, T, 2]``."""
    path = np.stack([flow.modes_at(t) for t in flow.times.tolist()], axis=1)
    return np.asarray(path * mode_sizes(flow)[:, None, None])


def _curves(ax: Axes, curves: NDArray[Any], names: Sequence[str], colours: Sequence[str]) -> None:
    """Draw curves ``[N, T, 2]`` of the plane from 0, with an arrow head and a name at the end."""
    for curve, name, colour in zip(curves, names, colours, strict=False):
        ax.plot(*curve.T, color=colour, linewidth=1.6, label=name)
        head = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", curve[-1], curve[-2], arrowprops=head)
        across, up = 8.0 * curve[-1] / max(float(np.linalg.norm(curve[-1])), 1e-300)
        side = "left" if across > 0 else "right"
        note(
            ax,
            name.split(":")[0].split()[-1],
            tuple(curve[-1]),
            (across, up),
            color=colour,
            ha=side,
            va="center",
        )
    ax.plot(0.0, 0.0, "o", color=INK, markersize=3)
    left, right, bottom, top = _canvas.limits_of(curves.reshape(-1, 2), central=1.0)
    spare = 0.08 * max(right - left, top - bottom)
    ax.set(xlim=(left - spare, right + spare), ylim=(bottom - spare, top + spare), aspect="equal")
    ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    finish(ax, None, "x₁, moved by time t (units of the data)", "x₂")


def _clouds(states: NDArray[Any], names: Sequence[str], ax: Axes | None) -> Axes:
    """Draw points ``[S, B, 2]`` of the plane as S clouds side by side."""
    ax = _canvas.axes_or_new(ax, (1.5 * len(names), 1.9))
    left, right, bottom, top = _canvas.limits_of(states.reshape(-1, 2), central=0.995)
    turn = np.arctan2(states[0, :, 1], states[0, :, 0])
    # The colours are darkened, since the lightest shade of the palette is nearly white.
    colours = colormaps["twilight"](turn / (2.0 * np.pi) + 0.5) * (0.85, 0.85, 0.85, 1.0)
    width = 1.05 * (right - left)
    for place, points in enumerate(states):
        # Points outside the box of their own cloud would lie in that of another.
        inside = ((points > (left, bottom)) & (points < (right, top))).all(axis=1)
        xs = points[inside, 0] + place * width
        ax.scatter(xs, points[inside, 1], s=5, c=colours[inside], linewidths=0)
    _canvas.square(ax, (left, left + len(names) * width, bottom, top))
    ax.set_xticks([(left + right) / 2 + place * width for place in range(len(names))], names, fontsize=8)
    ax.tick_params(length=0)
    return ax


def _parts(flow: FlowSpectrum, size: tuple[int, int], count: int) -> list[list[Segment]]:
    """Drift, affine part and modes as rows of images."""
    number, end = len(flow.times), float(flow.times[-1])
    at = np.unique(np.linspace(0, number - 1, count + 1).round().astype(int))[1:]
    drift = _of_largest(flow.drift.reshape(number, *size)[at])
    kept = flow.axis_values[:count]
    affine = _of_largest((flow.axes + flow.axis_modes(end))[:count].reshape(-1, *size))
    groups = [(group, group[group < count]) for group in flow.groups if group[0] < count]
    rows = [
        [(f"t = {t:.2g}", image[None]) for t, image in zip(flow.times[at], drift, strict=True)],
        [(f"± {rms:.2f}", image[None]) for rms, image in zip(kept, affine, strict=True)],
        [_segment(flow, whole, shown, size) for whole, shown in groups],
    ]
    return [row for row in rows if row]


def _of_largest(images: NDArray[Any]) -> NDArray[Any]:
    """All images divided by their largest absolute value."""
    return np.asarray(images / max(float(np.abs(images).max()), 1e-300))


def _scaled(rows: NDArray[Any]) -> NDArray[Any]:
    """Each of the images ``[N, ...]`` divided by its own largest absolute value."""
    return np.stack([_of_largest(row) for row in rows])


def _caption(flow: FlowSpectrum, whole: NDArray[Any], shown: NDArray[Any]) -> str:
    """Caption of a group: its modes, its energy and the number of images drawn."""
    first, last = flow.places[whole[0]], flow.places[whole[-1]]
    members = f"{first}" if len(whole) == 1 else f"{first} to {last}"
    text = f"{members}: {percent(float(flow.energy[whole].sum()))}"
    # Above a single image there is no room for the number.
    return text if len(shown) in (1, len(whole)) else f"{text} ({len(shown)} of {len(whole)})"


def _segment(flow: FlowSpectrum, whole: NDArray[Any], shown: NDArray[Any], size: tuple[int, int]) -> Segment:
    return _caption(flow, whole, shown), _scaled(flow[shown].images.reshape(-1, *size))


def _rows(ax: Axes, rows: Sequence[Sequence[Segment]], names: Sequence[str] = ()) -> None:
    """Draw rows of captioned images in [-1, 1], with a bracket over those that share a caption."""
    height, width = rows[0][0][1].shape[1:]
    room = max(3, round(0.4 * height))
    columns = max(sum(len(images) for _, images in row) for row in rows)
    canvas = np.full((len(rows), columns, room + height, width), np.nan)
    for line, row in zip(canvas, rows, strict=True):
        images = np.concatenate([images for _, images in row])
        line[: len(images), room:] = images
    image = show(ax, tiled(canvas.reshape(-1, room + height, width), columns), SIGNED, (-1.0, 1.0))
    # The gaps, where captions are, are white.
    image.set_cmap(image.get_cmap().with_extremes(bad="white"))
    tops = [number * (room + height + 1) + 0.5 + room for number in range(len(rows))]
    for top, row in zip(tops, rows, strict=True):
        left, lift = 0.5, top - 0.09 * height
        for text, images in row:
            right = left + len(images) * (width + 1) - 1
            if len(images) > 1:
                ys = [top - 0.02 * height, lift, lift, top - 0.02 * height]
                ends = left + 0.04 * width, right - 0.04 * width
                ax.plot([ends[0], ends[0], ends[1], ends[1]], ys, color=DATA, linewidth=0.7)
            note(ax, text, ((left + right) / 2, lift), (0, 2), ha="center", fontsize=6.5)
            left = right + 1
    ax.set_xticks([])
    ax.set_yticks([top + height / 2 for top in tops][: len(names)], names[: len(tops)], fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
