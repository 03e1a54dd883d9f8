"""Times of alternatives, measured in turns, and the comparison of their ratios with targets."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

KOOPFLOW = "koopflow"


@dataclass
class Bench:
    """Options of the measurements, and the rows measured so far."""

    threads: int
    repetitions: int
    seed: int
    quick: bool
    compiled: bool
    rows: list[dict[str, Any]] = field(default_factory=list)

    def clock(self) -> float:
        """Processor seconds of all threads, or wall-clock seconds with more than one thread."""
        return time.process_time() if self.threads == 1 else time.perf_counter()

    def seconds(self, work: Callable[[], Any], least: float | None = None) -> Callable[[], float]:
        """A function that measures one call, over as many as take ``least`` seconds (0.15 by default)."""
        work()
        started = time.perf_counter()
        work()
        took = max(time.perf_counter() - started, 1e-6)
        least = 0.0 if self.quick else 0.15 if least is None else least
        repeats = max(1, min(1000, round(least / took)))

        def measured() -> float:
            started = self.clock()
            for _ in range(repeats):
                work()
            return (self.clock() - started) / repeats

        return measured

    def step_of(self, fit: Callable[[int], Any]) -> Callable[[], float]:
        """A function that measures one training step, by the difference of two trainings."""
        # Both have at least two steps, since students are evaluated after the first and the last step.
        fit(2)
        started = time.perf_counter()
        fit(2)
        short = time.perf_counter() - started
        fit(5)
        step = max((time.perf_counter() - started - 2 * short) / 3, 1e-5)
        # The difference should be as long as the common part, and at least a fifth of a second.
        more = 2 if self.quick else max(3, min(400, round(max(0.2, short) / step)))

        def measured() -> float:
            ends = [self.clock()]
            for steps in (2, 2 + more):
                fit(steps)
                ends.append(self.clock())
            return max(ends[2] - 2 * ends[1] + ends[0], 1e-9) / more

        return measured

    def compare(
        self,
        part: str,
        case: str,
        works: Mapping[str, Callable[[], float]],
        targets: Mapping[str, float],
    ) -> None:
        """Measure in turns, in random order, and keep one row for each of the others."""
        random = np.random.default_rng(self.seed)
        found: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(self.repetitions):
            for name in random.permutation(list(works)):
                found[str(name)].append(works[str(name)]())
        own = found[KOOPFLOW]
        for name, times in found.items():
            if name != KOOPFLOW:
                self.rows.append(row(part, case, name, own, times, targets.get(name)))
                print(line(self.rows[-1]), flush=True)


def row(
    part: str, case: str, other: str, own: Sequence[float], times: Sequence[float], target: float | None
) -> dict[str, Any]:
    """One comparison: medians in milliseconds, and how many times as fast koopflow is, with quartiles."""
    ratios = sorted(theirs / ours for theirs, ours in zip(times, own, strict=True))
    low, high = (float(np.quantile(ratios, share)) for share in (0.25, 0.75))
    ratio = statistics.median(ratios)
    return {
        "part": part,
        "case": case,
        "other": other,
        "koopflow_ms": 1e3 * statistics.median(own),
        "other_ms": 1e3 * statistics.median(times),
        "ratio": ratio,
        "quartiles": [low, high],
        "target": target,
        "met": None if target is None else ratio >= target,
    }


def line(found: Mapping[str, Any]) -> str:
    """A row as a line of text."""
    goal = "" if found["target"] is None else f", target {found['target']:.3g}: "
    goal += {None: "", True: "met", False: "missed"}[found["met"]]
    low, high = found["quartiles"]
    times = f"{found['koopflow_ms']:.3g} ms, the other {found['other_ms']:.3g} ms"
    name = f"{found['part']}, {found['case']}, {found['other']}"
    return f"{name}: {times}, {found['ratio']:.2f} times as fast ({low:.2f} to {high:.2f}){goal}"


def alone(threads: int) -> None:
    """Restrict this process to as many processors as threads, so that all methods use the same number."""
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def compiled(work: Any, *, dynamic: bool = False) -> Any:
    """``torch.compile``, for one shape."""
    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    return torch.compile(work, dynamic=dynamic)
