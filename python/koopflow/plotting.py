"""Pictures of samples, paths, images, spectra and training.

Every function takes ``ax=None`` (or ``axes=None`` where it draws several panels), draws on a figure of its
own when there is none, returns the axes, and shows nothing: ``ax.figure.savefig(...)`` or a notebook does.
Outside notebooks no figure is registered with pyplot, so none has to be closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from ._arrays import Array, to_numpy
from .exceptions import ArgumentError, ShapeError
from .progress import in_notebook

DATA, TEACHER, STUDENT, INK, FAINT = "#4c4c4c", "#3b6fb6", "#d1495b", "#222222", "#c9c9c9"
GAP = "#e4eaf1"
COLOURS = {"data": DATA, "teacher": TEACHER, "student": STUDENT}


def samples(
    points: Array,
    *,
    ax: Axes | None = None,
    kind: str = "scatter",
    colour: str | None = None,
    limits: tuple[float, float, float, float] | None = None,
    title: str | None = None,
) -> Axes:
    """Two-dimensional samples.

    Parameters
    ----------
    points : array, ``[N, 2]``
        NumPy or torch.
    ax : matplotlib axes, optional
        Where to draw.
    kind : {"scatter", "density"}, default "scatter"
        A dot a sample, or a histogram of 128 by 128 cells.
    colour : str, optional
        Of the dots.
    limits : (left, right, bottom, top), optional
        Otherwise what the central 99.8% of the samples span.
    title : str, optional
        Above the panel.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from koopflow import datasets, plotting
    >>> ax = plotting.samples(datasets.moons(500), title="two moons")
    >>> ax.get_title(loc="left")
    'two moons'
    """
    xy = _plane("points", points)
    ax = _axes(ax)
    left, right, bottom, top = limits or _limits(xy)
    if kind == "scatter":
        size = float(np.clip(6000.0 / len(xy), 1.0, 16.0))
        alpha = float(np.clip(1200.0 / len(xy), 0.15, 0.8))
        ax.scatter(xy[:, 0], xy[:, 1], s=size, alpha=alpha, color=colour or TEACHER, linewidths=0)
    elif kind == "density":
        counts, _, _ = np.histogram2d(xy[:, 0], xy[:, 1], bins=128, range=[[left, right], [bottom, top]])
        ax.imshow(counts.T, origin="lower", extent=(left, right, bottom, top), cmap="magma", aspect="equal")
    else:
        raise ArgumentError(f"kind: expected 'scatter' or 'density', got {kind!r}")
    _square(ax, (left, right, bottom, top))
    if title:
        _title(ax, title)
    return ax


def side_by_side(
    sets: Mapping[str, Array],
    *,
    axes: Sequence[Axes] | None = None,
    kind: str = "scatter",
) -> NDArray[Any]:
    """Sets of two-dimensional samples next to each other, on the same scale.

    Parameters
    ----------
    sets : mapping from title to array ``[N, 2]``
        A title that begins with data, teacher or student gets that colour.
    axes : sequence of matplotlib axes, optional
        One for each set.
    kind : {"scatter", "density"}, default "scatter"
        As in :func:`samples`.

    Returns
    -------
    array of matplotlib.axes.Axes

    Examples
    --------
    >>> from koopflow import datasets, plotting
    >>> axes = plotting.side_by_side({"data": datasets.moons(200), "student": datasets.moons(200, seed=1)})
    >>> len(axes)
    2
    """
    if not sets:
        raise ArgumentError("sets: expected at least one set of samples, got none")
    limits = _limits(_plane("sets", next(iter(sets.values()))))
    shape = (limits[3] - limits[2]) / (limits[1] - limits[0])
    panels = _panels(axes, len(sets), shape)
    for ax, (title, points) in zip(panels, sets.items(), strict=True):
        samples(points, ax=ax, kind=kind, limits=limits, title=title, colour=_colour(title))
    return panels


def paths(
    student: Array,
    teacher: Array | None = None,
    *,
    ax: Axes | None = None,
    background: Array | None = None,
    title: str | None = None,
) -> Axes:
    """Two-dimensional paths from noise to data, the student's over the teacher's.

    Parameters
    ----------
    student : array, ``[T, B, 2]``
        States at T times, as :meth:`koopflow.KoopmanDistiller.sample_path` gives them.
    teacher : array, ``[T', B, 2]``, optional
        The teacher's paths from the same noise, drawn wide and pale underneath.
    ax : matplotlib axes, optional
        Where to draw.
    background : array, ``[N, 2]``, optional
        Data, drawn faintly.
    title : str, optional
        Above the panel.

    Returns
    -------
    matplotlib.axes.Axes
    """
    lines = _path("student", student)
    below = None if teacher is None else _path("teacher", teacher)
    ax = _axes(ax)
    seen = [lines.reshape(-1, 2)]
    if background is not None:
        cloud = _plane("background", background)
        ax.scatter(cloud[:, 0], cloud[:, 1], s=3, color=FAINT, alpha=0.5, linewidths=0, zorder=0)
        seen.append(cloud)
    if below is not None:
        wide = LineCollection(list(below.swapaxes(0, 1)), colors=TEACHER, linewidths=3.2, alpha=0.35)
        wide.set_label("teacher")
        ax.add_collection(wide)
        seen.append(below.reshape(-1, 2))
    thin = LineCollection(list(lines.swapaxes(0, 1)), colors=STUDENT, linewidths=1.0)
    thin.set_label("student")
    ax.add_collection(thin)
    starts, ends = lines[0].T, lines[-1].T
    ax.scatter(
        starts[0],
        starts[1],
        s=14,
        facecolors="white",
        edgecolors=INK,
        linewidths=0.8,
        zorder=3,
        label="noise",
    )
    ax.scatter(ends[0], ends[1], s=14, color=STUDENT, linewidths=0, zorder=3, label="data")
    _square(ax, _limits(np.concatenate(seen), central=1.0))
    ax.legend(loc="upper right", frameon=False, fontsize=8, handlelength=1.4)
    if title:
        _title(ax, title)
    return ax


def image_grid(
    images: Array,
    *,
    ax: Axes | None = None,
    columns: int | None = None,
    image_shape: tuple[int, int] | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
    title: str | None = None,
) -> Axes:
    """Grey images in a grid.

    Parameters
    ----------
    images : array, ``[N, H, W]``, ``[N, 1, H, W]`` or ``[N, H * W]``
        Values within ``limits``; what lies beyond is cut off.
    ax : matplotlib axes, optional
        Where to draw.
    columns : int, optional
        Images in a row; nearly square by default.
    image_shape : (int, int), optional
        Of one image; a square by default, where images are flat.
    limits : (float, float), default (-1, 1)
        The values of black and white.
    title : str, optional
        Above the grid.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from koopflow import datasets, plotting
    >>> images, labels = datasets.digits()
    >>> ax = plotting.image_grid(images[:20], columns=10)
    """
    pixels = to_numpy(images).astype(np.float64)
    n = len(pixels)
    if n == 0:
        raise ArgumentError("images: expected at least one image, got none")
    size = pixels[0].size
    height, width = image_shape or (_image_shape(pixels))
    if height * width != size:
        raise ShapeError(f"images: expected {height} x {width} pixels each, got an array {pixels.shape}")
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    low, high = limits
    # One pixel between the images and around them, left to the colour of missing values.
    canvas = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), np.nan)
    for index, image in enumerate(pixels.reshape(n, height, width)):
        top, left = 1 + index // columns * (height + 1), 1 + index % columns * (width + 1)
        canvas[top : top + height, left : left + width] = np.clip(image, low, high)
    ax = _axes(ax, size=(0.45 * columns + 0.3, 0.45 * rows + 0.5))
    ink = colormaps["gray_r"].with_extremes(bad=GAP)
    ax.imshow(canvas, cmap=ink, vmin=low, vmax=high, interpolation="nearest")
    ax.set_axis_off()
    if title:
        _title(ax, title)
    return ax


def eigenvalues(
    values: Array,
    *,
    ax: Axes | None = None,
    amplitudes: Array | None = None,
    title: str | None = None,
) -> Axes:
    """Eigenvalues of a generator in the complex plane.

    The line Re = 0 divides growth from decay; a conjugate pair has one colour, real eigenvalues are grey.

    Parameters
    ----------
    values : array, ``[m]``, complex
        As :meth:`koopflow.KoopmanDistiller.eigenvalues` gives them.
    ax : matplotlib axes, optional
        Where to draw.
    amplitudes : array, ``[m]``, optional
        Non-negative; the area of each marker.
    title : str, optional
        Above the panel.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from koopflow import plotting
    >>> ax = plotting.eigenvalues([0.0, -0.5 + 2j, -0.5 - 2j])
    >>> ax.get_xlabel()
    'growth rate, Re λ'
    """
    spectrum = np.asarray(to_numpy(values), dtype=np.complex128).reshape(-1)
    if len(spectrum) == 0:
        raise ArgumentError("values: expected at least one eigenvalue, got none")
    ax = _axes(ax, size=(5.0, 4.2))
    area = np.full(len(spectrum), 34.0)
    if amplitudes is not None:
        weight = np.abs(to_numpy(amplitudes)).reshape(-1)
        if len(weight) != len(spectrum):
            raise ShapeError(f"amplitudes: expected shape ({len(spectrum)},), got ({len(weight)},)")
        area = 12.0 + 120.0 * weight / max(float(weight.max()), 1e-300)
    left, right = min(0.0, float(spectrum.real.min())), max(0.0, float(spectrum.real.max()))
    margin = 0.16 * max(right - left, 1e-2)
    left, right = left - margin, right + margin
    top = 1.15 * max(1e-2, float(np.abs(spectrum.imag).max()))
    ax.axvspan(0.0, right, color=STUDENT, alpha=0.05, linewidth=0)
    ax.axvline(0.0, color=STUDENT, linewidth=0.9)
    ax.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
    ax.scatter(
        spectrum.real,
        spectrum.imag,
        s=area,
        c=_pair_colours(spectrum),
        edgecolors="white",
        linewidths=0.6,
        zorder=3,
    )
    ax.set_xlim(left, right)
    ax.set_ylim(-top, top)
    for text, side, shift in (("decays", "right", -4), ("grows", "left", 4)):
        ax.annotate(
            text,
            (0.0, -top),
            xytext=(shift, 3),
            textcoords="offset points",
            ha=side,
            fontsize=8,
            color=DATA,
        )
    ax.set_xlabel("growth rate, Re λ")
    ax.set_ylabel("frequency, Im λ")
    _plain(ax)
    if title:
        _title(ax, title)
    return ax


def loss_history(
    history: Mapping[str, Any],
    *,
    ax: Axes | None = None,
    terms: Sequence[str] | None = None,
    title: str | None = None,
) -> Axes:
    """Loss terms and errors over the training steps, on a logarithmic scale.

    Parameters
    ----------
    history : mapping
        ``teacher.history`` or ``student.history_``.
    ax : matplotlib axes, optional
        Where to draw.
    terms : sequence of str, optional
        Which values; by default all that stay positive, but for the learning rate and times.
    title : str, optional
        Above the panel.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from koopflow import plotting
    >>> ax = plotting.loss_history({"loss": [[1, 2.0], [2, 1.0], [3, 0.5]]})
    >>> ax.get_xlabel()
    'step'
    """
    curves = _curves(history)
    if terms is None:
        terms = [
            name
            for name, (_, values) in curves.items()
            if name not in ("learning_rate", "seconds") and np.all(np.asarray(values) > 0)
        ]
    missing = [name for name in terms if name not in curves]
    if missing or not terms:
        raise ArgumentError(f"terms: expected names among {sorted(curves)}, got {missing or 'none'}")
    ax = _axes(ax, size=(5.6, 3.6))
    for name in terms:
        steps, values = curves[name]
        judged = name.endswith("error")
        ax.plot(
            steps,
            values,
            linewidth=1.6 if judged else 0.9,
            alpha=1.0 if judged else 0.7,
            label=name.replace("_", " "),
        )
    ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.legend(frameon=False, fontsize=8)
    ax.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    _plain(ax)
    if title:
        _title(ax, title)
    return ax


def _curves(history: Mapping[str, Any]) -> dict[str, tuple[list[float], list[float]]]:
    """Named curves from either history: pairs of a step and a loss, or a log of rows."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for step, value in history.get("loss", []):
        steps, values = curves.setdefault("loss", ([], []))
        steps.append(step)
        values.append(value)
    for row in history.get("log", []):
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    if not curves:
        raise ArgumentError("history: expected 'loss' or 'log' with at least one entry, got neither")
    return curves


def _pair_colours(spectrum: NDArray[np.complex128]) -> list[Any]:
    """One colour for each conjugate pair, by frequency; grey for real eigenvalues."""
    top = max(float(np.abs(spectrum.imag).max()), 1e-12)
    return [
        DATA if abs(value.imag) < 1e-9 else colormaps["viridis"](0.1 + 0.75 * abs(value.imag) / top)
        for value in spectrum
    ]


def _image_shape(pixels: NDArray[Any]) -> tuple[int, int]:
    if pixels.ndim >= 3:
        return int(pixels.shape[-2]), int(pixels.shape[-1])
    side = int(np.sqrt(pixels.shape[1])) if pixels.ndim == 2 else 0
    if pixels.ndim != 2 or side * side != pixels.shape[1]:
        raise ShapeError(f"images: expected square images, or an image_shape, got an array {pixels.shape}")
    return side, side


def _plane(name: str, points: Array) -> NDArray[Any]:
    xy = to_numpy(points)
    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) == 0:
        raise ShapeError(f"{name}: expected shape (N, 2), got {xy.shape}")
    return xy


def _path(name: str, states: Array) -> NDArray[Any]:
    lines = to_numpy(states)
    if lines.ndim != 3 or lines.shape[2] != 2 or lines.size == 0:
        raise ShapeError(f"{name}: expected shape (T, B, 2), got {lines.shape}")
    return lines


def _limits(xy: NDArray[Any], central: float = 0.998) -> tuple[float, float, float, float]:
    """A box around the central share of the points, with a margin, no flatter than two to one."""
    low, high = np.quantile(xy, [(1.0 - central) / 2, (1.0 + central) / 2], axis=0)
    middle, reach = (low + high) / 2, 0.55 * (high - low) + 1e-6
    reach = np.maximum(reach, reach.max() / 2)
    return (
        float(middle[0] - reach[0]),
        float(middle[0] + reach[0]),
        float(middle[1] - reach[1]),
        float(middle[1] + reach[1]),
    )


def _axes(ax: Axes | None, *, size: tuple[float, float] = (4.0, 4.0)) -> Axes:
    return new_figure(size).add_subplot() if ax is None else ax


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure, ``size`` in inches.

    In a notebook pyplot knows it, so that the cell shows it and lets it go; elsewhere nobody does, and none
    has to be closed.
    """
    options: dict[str, Any] = {
        "figsize": size,
        "dpi": 140,
        "layout": ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
    }
    if in_notebook():
        from matplotlib import pyplot

        return pyplot.figure(**options)
    return Figure(**options)


def _panels(axes: Sequence[Axes] | None, count: int, shape: float) -> NDArray[Any]:
    if axes is None:
        figure = new_figure((3.4 * count, 3.2 * shape + 0.5))
        return np.atleast_1d(figure.subplots(1, count))
    panels = np.atleast_1d(np.asarray(axes, dtype=object)).reshape(-1)
    if len(panels) != count:
        raise ArgumentError(f"axes: expected {count} axes, got {len(panels)}")
    return panels


def _square(ax: Axes, limits: tuple[float, float, float, float]) -> None:
    ax.set_xlim(limits[0], limits[1])
    ax.set_ylim(limits[2], limits[3])
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(FAINT)


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8, color=DATA)


def _title(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=10, color=INK)


def _colour(title: str) -> str:
    return next((colour for name, colour in COLOURS.items() if title.lower().startswith(name)), TEACHER)
