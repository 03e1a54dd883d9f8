"""Importance sampling from the model itself."""

from __future__ import annotations

from .found import TiltedSamples
from .objective import ROWS, Evaluated
from .run import Run


def importance(run: Run) -> TiltedSamples:
    """Draws of the model with weights exp(l): one evaluation for each sample, and unbiased."""
    parts: list[Evaluated] = []

    def found() -> TiltedSamples:
        whole = Evaluated.joined(parts)
        return run.weighted(whole, whole.values, "importance")

    for begin in range(0, run.n, ROWS):
        parts.append(run.objective.at(run.noise(min(ROWS, run.n - begin))))
        run.kept = found
        run.tell(min(begin + ROWS, run.n), run.n)
    return found()
