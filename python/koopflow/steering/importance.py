"""Importance sampling from the model itself."""

from __future__ import annotations

from .found import TiltedSamples
from .objective import ROWS, Evaluated
from .run import Run


def importance(run: Run) -> TiltedSamples:
    """Draws of the model, each with exp(l) as its weight: one evaluation a sample, and unbiased."""
    whole: Evaluated | None = None
    for begin in range(0, run.n, ROWS):
        part = run.objective.at(run.noise(min(ROWS, run.n - begin)))
        whole = part if whole is None else whole.joined(part)
        run.kept = run.weighted(whole, whole.values, "importance")
        run.tell(len(whole.x), run.n, ess=run.kept.ess)
    assert run.kept is not None
    return run.kept
