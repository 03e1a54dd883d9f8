"""Conversion between the user's times and a flow's own times, which run from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._arrays import Array, as_numbers, as_times, times_for
from .exceptions import ArgumentError


@dataclass(frozen=True)
class Clock:
    """Times from ``start``, where a flow has its source, to ``end``, where it has data.

    Examples
    --------
    >>> Clock.of((12.0, 48.0)).times([12, 30, 48])
    [0.0, 0.5, 1.0]
    """

    start: float = 0.0
    end: float = 1.0

    @classmethod
    def of(cls, horizon: Any, argument: str = "horizon") -> Clock:
        """The clock of two rising times. Raises ``ArgumentError`` for anything else."""
        times = as_numbers(horizon, argument, "(0.0, 1.0)")
        length = times[1] - times[0] if len(times) == 2 else 0.0
        # Times in between must be distinguishable in floating point.
        if not 1e-9 * max(map(abs, times), default=0.0) < length < 1e12 or length < 1e-12:
            raise ArgumentError(f"{argument}: expected two rising times such as (0.0, 1.0), got {horizon!r}")
        return cls(*times)

    @property
    def length(self) -> float:
        """Time from source to data."""
        return self.end - self.start

    @property
    def is_unit(self) -> bool:
        """Whether the clock is the flow's own, from 0 to 1."""
        return self == UNIT

    def plain(self) -> list[float]:
        """Start and end as a list, for a file."""
        return [self.start, self.end]

    def own(self, t: Any) -> Any:
        """The flow's own time for a time of this clock, a number or an array."""
        return (t - self.start) / self.length

    def read(self, share: Any) -> Any:
        """The time of this clock for one of the flow's own, a number or an array."""
        return share if self.is_unit else self.start + share * self.length

    def times(
        self, times: Array | Sequence[float], argument: str = "times", *, extrapolate: bool = False
    ) -> list[float]:
        """The flow's own times ``[T]`` for times of this clock.

        Raises ``ArgumentError`` for anything but times, and for times outside the clock unless
        ``extrapolate`` is set.
        """
        if self.is_unit:
            return as_times(times, argument, extrapolate=extrapolate)
        given = as_numbers(times, argument, f"[{self.start:g}, {self.end:g}]")
        self._check(given, argument, extrapolate=extrapolate)
        return [self.own(t) for t in given]

    def times_for(
        self, t: Array | float, x: Array, argument: str = "t", *, extrapolate: bool = False
    ) -> Array:
        """The flow's own time of each sample ``[B]``: see :func:`koopflow._arrays.times_for`."""
        if self.is_unit:
            return times_for(t, x, argument, extrapolate=extrapolate)
        given = times_for(t, x, argument, extrapolate=True)
        self._check(given.tolist(), argument, extrapolate=extrapolate)
        own: Array = self.own(given)
        return own

    def _check(self, times: list[float], argument: str, *, extrapolate: bool) -> None:
        room = 1e-6 * self.length
        for t in times:
            if not extrapolate and not self.start - room <= t <= self.end + room:
                raise ArgumentError(
                    f"{argument}: expected times in [{self.start:g}, {self.end:g}], got {t:g}"
                )


UNIT = Clock()


def clock_of(model: Any) -> Clock:
    """The clock of a teacher or student; for anything else, the flow's own."""
    clock = getattr(model, "clock", UNIT)
    return clock if isinstance(clock, Clock) else UNIT
