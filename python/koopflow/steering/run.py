"""The state that all methods share: random numbers, progress, and the construction of results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .found import TiltedSamples
from .objective import Evaluated, Objective
from .reliability import pareto_k

Real = NDArray[np.float64]


@dataclass
class Run:
    """One call of ``sample``: an objective, seeded noise, and the samples to keep if a function fails."""

    objective: Objective
    n: int
    seed: int
    monitor: Any = None
    moves: int = 10
    chains: int | None = None
    burn_in: int = 200
    thin: int = 5
    kind: str = "pcn"
    notes: list[str] = field(default_factory=list)
    #: Function that returns the useful samples so far of the running method.
    kept: Callable[[], TiltedSamples] | None = None
    draws: int = 0

    def __post_init__(self) -> None:
        self._before = self.objective.step.evaluations
        self._begun = time.monotonic()

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the model since the run began."""
        return self.objective.step.evaluations - self._before

    def noise(self, count: int) -> Real:
        """New standard normal noise ``[count, d]``, fixed by the seed and the number of earlier draws."""
        flat = _core.normal((count, self.objective.step.dimension), self.fresh_seed())
        return np.asarray(flat, dtype=np.float64)

    def fresh_seed(self) -> int:
        """A new seed at each call, determined by the run's seed."""
        self.draws += 1
        state = np.random.SeedSequence([self.seed, self.draws]).generate_state(1, np.uint64)
        return int(state[0])

    def tell(self, step: int, total: int, **values: float) -> None:
        """Report progress, if there is a monitor."""
        if self.monitor is not None:
            seconds = time.monotonic() - self._begun
            event = {"stage": "tilt", "step": step, "total": total, "seconds": seconds, "values": values}
            self.monitor(event)

    def weighted(self, at: Evaluated, log_weights: Real, method: str) -> TiltedSamples:
        """Independent draws with weights."""
        size, interval, log_mean = _core.weighed(log_weights, seed=self.seed)
        relative = np.exp(log_weights - log_mean) if math.isfinite(log_mean) else np.zeros(len(log_weights))
        error = float(relative.std()) / math.sqrt(len(relative)) if math.isfinite(log_mean) else float("inf")
        return self.found(
            at,
            log_weights,
            method,
            ess=size,
            ess_interval=interval,
            pareto_k=pareto_k(log_weights),
            log_evidence=log_mean,
            log_evidence_error=error,
            blocks=np.arange(len(log_weights)),
        )

    def found(self, at: Evaluated, log_weights: Real, method: str, **figures: Any) -> TiltedSamples:
        """The result, with samples in the event shape and the given measures."""
        shape = self.objective.step.event_shape
        return TiltedSamples(
            x=at.x,
            noise=at.noise.reshape(-1, *shape).astype(at.x.dtype),
            log_weights=log_weights,
            method=method,
            evaluations=self.evaluations,
            notes=list(self.notes),
            **{"acceptance": float("nan"), **figures},
        )
