"""Measurement of time. On a busy machine, processor time says more than wall-clock time."""

from __future__ import annotations

import time

WALL, WORKED = "fit, s", "fit, CPU s"


class Clock:
    """A clock that starts when it is made."""

    def __init__(self) -> None:
        self.wall, self.worked = time.perf_counter(), time.process_time()

    def row(self) -> dict[str, float]:
        return {WALL: time.perf_counter() - self.wall, WORKED: time.process_time() - self.worked}
