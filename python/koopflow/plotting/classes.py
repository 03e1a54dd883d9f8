"""Plots of classes in the coordinates of a spectrum."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from .._arrays import Array, as_batch, to_numpy
from ..analysis import Signatures
from ..exceptions import ArgumentError, ShapeError
from ..spectrum import Spectrum
from ._canvas import DATA, SIGNED, SIZES, axes_or_new, colour_bar, dots, finish, note, titled


def signatures(
    signatures: Signatures, *, ax: Axes | None = None, count: int = 40, title: str | None = None
) -> Axes:
    """Draw signatures of classes as a heat map with a dendrogram.

    Colour is the mean of ``|psi_k|``, or of a FlowSpectrum's amplitudes, minus the mean over all classes, in
    deviations within classes. Classes are clustered by average linkage. The modes shown are those in which
    classes differ most, ordered by time and energy.

    Parameters
    ----------
    count : int, default 40
        Number of columns, each for one mode at one time.
    """
    standard = signatures.mean / signatures.pooled
    classes, times, modes = standard.shape
    flat = (standard - standard.mean(axis=0)).reshape(classes, -1)
    # One of each conjugate pair, since both have the same modulus.
    single = np.tile(signatures.spectrum.single, times)
    spread = np.where(single, flat.std(axis=0), -1.0)
    shown = np.sort(np.argsort(-spread, kind="stable")[: min(count, int(single.sum()))])
    ax = axes_or_new(ax, (8.0, 0.28 * classes + 1.6))
    side = ax.inset_axes((-0.2, 0.0, 0.12, 1.0))
    side.set_axis_off()
    tree = linkage(squareform(signatures.distances, checks=False), "average")
    lines: dict[str, Any] = {"no_labels": True, "color_threshold": 0, "above_threshold_color": DATA}
    order = np.asarray(dendrogram(tree, ax=side, orientation="left", **lines)["leaves"])
    top = max(float(np.abs(flat[:, shown]).max()), 1e-12)
    shades: dict[str, Any] = {"cmap": SIGNED, "vmin": -top, "vmax": top, "interpolation": "nearest"}
    image = ax.imshow(flat[order][:, shown], aspect="auto", origin="lower", **shades)
    ax.set_yticks(range(classes), [str(signatures.labels[place]) for place in order], fontsize=8)
    names = [f"{signatures.spectrum.indices[place % modes]}" for place in shown]
    ax.set_xticks(range(len(shown)), names, fontsize=6, rotation=90)
    edges = np.flatnonzero(np.diff(shown // modes)) + 0.5
    for edge in edges:
        ax.axvline(edge, color=DATA, linewidth=0.8)
    for start, time in zip([0.0, *edges], np.unique(shown // modes), strict=True):
        note(ax, f"t = {signatures.times[time]:g}", (start, classes - 0.5), (2, 2), annotation_clip=False)
    ax.set_xlabel("mode", fontsize=8)
    colour_bar(ax, image, "signature against all classes (deviations)")
    # The title is raised, since the times are in its usual position.
    return titled(ax, title, signatures.spectrum.caveat, pad=16.0)


def embedding(
    spectrum: Spectrum,
    x: Array,
    labels: Array,
    *,
    ax: Axes | None = None,
    at: float = 0.0,
    method: str = "pca",
    condition: Array | None = None,
    seed: int = 0,
    title: str | None = None,
) -> Axes:
    """Draw data in two coordinates computed from their eigenfunction values, coloured by class.

    Parameters
    ----------
    x, labels : array, ``[N, *event]`` and ``[N]``
        Data and their classes. Each class is labelled at its median.
    at : float, default 0.0
        Time, from noise at 0 to data at 1, at which eigenfunctions are evaluated.
    method : {"pca", "tsne"}, default "pca"
        Projection: principal components, which preserve distances, or t-SNE, which preserves neighbours.
    condition : array, optional
        Labels ``[N]`` or vectors ``[N, dim]`` for a conditional student.
    seed : int, default 0
        Random seed of t-SNE.
    """
    given = np.asarray(to_numpy(labels))
    states = spectrum.states_at(as_batch(x, "x"), at, condition=condition)
    if given.shape != (len(states),):
        raise ShapeError(f"labels: expected shape ({len(states)},), got {given.shape}")
    psi = spectrum.eigenfunctions(at, states, condition=condition)
    features = np.concatenate([psi.real, psi.imag[:, spectrum.frequency != 0]], axis=1)
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12)
    if method == "pca":
        model = PCA(2, random_state=seed)
        points = model.fit_transform(features)
        names = [f"principal component {c + 1} ({model.explained_variance_ratio_[c]:.0%})" for c in (0, 1)]
    elif method == "tsne":
        perplexity = min(30.0, (len(features) - 1) / 3)
        points = TSNE(2, random_state=seed, init="pca", perplexity=perplexity).fit_transform(features)
        names = ["t-SNE 1", "t-SNE 2"]
    else:
        raise ArgumentError(f"method: expected 'pca' or 'tsne', got {method!r}")
    ax = axes_or_new(ax, (5.4, 4.4))
    values = np.unique(given)
    for value, colour in zip(values, colormaps[SIZES](np.linspace(0.0, 1.0, len(values))), strict=True):
        own = points[given == value]
        dots(ax, own, 10, colour, alpha=0.7, label=str(value))
        # Labels distinguish classes of similar colours.
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colour, "alpha": 0.85}
        x, y = np.median(own, axis=0)
        ax.text(x, y, str(value), fontsize=9, ha="center", va="center", bbox=box)
    return finish(ax, title, *names, warning=spectrum.caveat)
