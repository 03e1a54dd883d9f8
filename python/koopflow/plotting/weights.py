"""A plot of the concentration of weights of samples."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from ..steering import TiltedSamples
from . import _canvas
from ._canvas import FAINT, STUDENT, TEACHER, finish, note


def weights(found: TiltedSamples, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the share of the total weight of the heaviest samples, over their number.

    Equal weights would lie on the line. The further the curve is above it, the fewer samples dominate. The
    dot is at the effective sample size. The text gives the measures of reliability.

    Parameters
    ----------
    found : TiltedSamples
        Result of :meth:`koopflow.steering.Tilted.sample`. Raises ``TypeError`` for anything else, and
        ``DivergenceError`` if no sample has a weight above zero.

    Examples
    --------
    >>> from koopflow import FlowTeacher, plotting
    >>> teacher = FlowTeacher.gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    >>> found = teacher.tilt(reward=lambda x: x[:, 0]).sample(256)
    >>> ax = plotting.weights(found)
    """
    if not isinstance(found, TiltedSamples):
        raise TypeError(f"found: expected TiltedSamples, got {type(found).__name__}")
    shares = np.concatenate([[0.0], np.cumsum(np.sort(found.weights)[::-1])])
    count = len(found)
    ax = _canvas.axes_or_new(ax, (4.8, 3.6))
    places = np.arange(count + 1)
    ax.plot(places[1:], places[1:] / count, color=FAINT, linewidth=1.0)
    ax.plot(places[1:], shares[1:], color=STUDENT, linewidth=1.6)
    effective = min(max(found.ess, 1.0), float(count))
    ax.scatter(effective, np.interp(effective, places, shares), s=28, color=TEACHER, zorder=3)
    note(ax, f"{found.ess:.0f} effective", (effective, float(np.interp(effective, places, shares))), (6, -10))
    ax.set_xscale("log")
    ax.set(xlim=(1, max(count, 2)), ylim=(0.0, 1.03))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    words = [found.method, f"{found.evaluations / max(found.ess, 1e-12):.0f} evaluations for each effective"]
    if not math.isnan(found.pareto_k):
        words.append(f"Pareto k {found.pareto_k:.2f}")
    if not math.isnan(found.log_evidence):
        words.append(f"log evidence {found.log_evidence:.2f} ± {found.log_evidence_error:.2f}")
    note(ax, "\n".join(words), (0.02, 0.98), (0, 0), xycoords="axes fraction", va="top", fontsize=8)
    warning = None if found.reliable else "unreliable: " + found.concerns[0].split(":")[0]
    return finish(ax, title, "heaviest samples", "share of the weight", warning=warning)
