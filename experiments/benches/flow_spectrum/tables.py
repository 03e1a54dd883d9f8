"""Tables of measured values and their targets in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Values = Sequence[float]


@dataclass(frozen=True)
class Row:
    """One line of a table: the values of a problem, the decisive one, and its target."""

    text: str
    numbers: Callable[[Mapping[str, Any]], Values]
    worst: Callable[[Values], float] = max
    bar: Callable[[str], tuple[str, float] | None] = lambda problem: None
    decimals: int = 3

    def cell(self, problem: str, found: Mapping[str, Any]) -> str:
        """Mean and range; bold with the target if the worst value misses it."""
        values = [value for value in self.numbers(found) if value == value]
        if not values:
            return "-"
        low, high = (f"{value:.{self.decimals}f}" for value in (min(values), max(values)))
        text = f"{statistics.fmean(values):.{self.decimals}f}"
        text += f" ({low} to {high})" if len(values) > 1 else ""
        bar = self.bar(problem)
        if bar is None:
            return text
        sign, limit = bar
        counted = self.worst(values)
        met = counted <= limit if sign == "<=" else counted >= limit
        return text if met else f"**{text}; aimed at {sign} {limit:g}**"


def at(*keys: str) -> Callable[[Mapping[str, Any]], Values]:
    """A function that returns the numbers under these keys, or none if they do not exist."""

    def numbers(found: Mapping[str, Any]) -> Values:
        inner: Any = found
        for key in keys:
            inner = inner.get(key, []) if isinstance(inner, Mapping) else []
        return list(inner)

    return numbers


def each(sign: str, plane: float, digits: float | None = None) -> Callable[[str], tuple[str, float] | None]:
    """A target that differs between the plane and digits."""
    return lambda problem: (sign, digits if digits is not None and problem == "digits" else plane)


KNOWN = [
    Row(
        "linear flows, exact paths in float64: eigenvalues off by",
        at("linear"),
        bar=each("<=", 1e-3),
        decimals=7,
    ),
    Row("the same in float32", at("linear_float32"), bar=each("<=", 1e-3), decimals=7),
    Row("paths that dopri5 solved", at("linear_solved"), bar=each("<=", 1e-3), decimals=7),
    Row("Gaussian teachers: affine share", at("gaussian"), min, each(">=", 1.0 - 1e-6), decimals=9),
]

AGREEMENT = [
    Row("rates of teachers, largest relative distance", at("teachers", "rates"), bar=each("<=", 0.05)),
    Row("pairs of teachers with the same number of rates", at("teachers", "same_number"), decimals=2),
    Row("rates of teachers, where all are read with two", at("few", "teachers"), bar=each("<=", 0.05)),
    Row("share of the motion that a teacher's own rates leave", at("teachers", "left"), decimals=6),
    Row("share that the other's rates leave", at("teachers", "left_by_other"), decimals=6),
    Row("rates of students of one teacher", at("students", "rates"), bar=each("<=", 0.05)),
    *(
        Row(f"{text}: the other's rates do as well", at(kind, "interchangeable"), min, each(">=", 1.0), 2)
        for text, kind in (
            ("teachers", "teachers"),
            ("students of one teacher", "students"),
            ("student and teacher", "following"),
        )
    ),
    Row("pairs of those students with the same number", at("students", "same_number"), decimals=2),
    Row("rates of those students, where all are read with two", at("few", "students"), bar=each("<=", 0.05)),
    Row("energy found again, teachers", at("teachers", "found"), min, each(">=", 0.95, 0.80)),
    Row("energy found again, students of one teacher", at("students", "found"), min, each(">=", 0.95, 0.90)),
    Row("cosine², teachers, mean over the energy", at("teachers", "cosine")),
    Row("cosine², students of one teacher", at("students", "cosine")),
    Row("control: modes turned in space and time, cosine²", at("teachers", "turned")),
    Row("what chance would give", at("teachers", "chance")),
    Row("control: flow turned in space, cosine²", at("turned", "turned_cosine")),
    Row("control: flow turned in space, energy found again", at("turned", "turned_found")),
    Row("control: flow turned in space, amplitudes, correlation²", at("turned", "turned_amplitude")),
    Row("amplitudes, teachers, correlation²", at("teachers", "amplitude")),
    Row("control: shuffled noise, correlation²", at("teachers", "shuffled"), decimals=5),
    Row("what chance would give", at("teachers", "shuffled_chance"), decimals=5),
    Row("largest p of a group, teachers", at("teachers", "p")),
    Row("student and teacher: shares, points apart", at("following", "affine_points"), bar=each("<=", 1.0)),
    Row("student and teacher: rates", at("following", "rates"), bar=each("<=", 0.05)),
    Row("student and teacher: the same number of rates", at("following", "same_number"), decimals=2),
    Row(
        "student and teacher: rates, where both are read with two",
        at("few", "following"),
        bar=each("<=", 0.05),
    ),
    Row(
        "share of a teacher's motion that its student's rates leave",
        at("following", "left_by_other"),
        decimals=6,
    ),
    Row("student and teacher: energy found again", at("following", "found"), min),
]

NEEDED = [
    Row(f"{text}, {kind}", at("needed", name), decimals=1)
    for text, bar in (
        ("modes for 10% RMS error of the whole motion", "whole"),
        ("modes for 10% of the remainder's energy", "energy"),
        ("modes for 10% RMS error of the remainder", "rms"),
        ("all modes", ""),
    )
    for kind, name in (
        ("canonical", f"canonical_{bar}" if bar else "all_canonical"),
        ("generator's", f"today_{bar}" if bar else "all_today"),
    )
]


def table(rows: Sequence[Row], found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [f"| | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for row in rows:
        lines.append(
            f"| {row.text} | {' | '.join(row.cell(name, values) for name, values in found.items())} |"
        )
    return "\n".join(lines)


def excess(canonical: Sequence[Values], best: Sequence[Values]) -> list[list[float]]:
    """Excess of each error over the optimum, by count, as lists over the runs.

    Errors below 1e-3 of the remainder count as 0.
    """
    return [
        [max(a, 1e-3) / max(b, 1e-3) - 1.0 for a, b in zip(own, other, strict=True)]
        for own, other in zip(zip(*canonical, strict=True), zip(*best, strict=True), strict=True)
    ]


def truncation(found: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of the errors of k modes and of the optimum."""
    lines = ["| | k | canonical | optimum | above it, % |", "|---|---|---|---|---|"]
    for name, values in found.items():
        above = excess(values["canonical"], values["optimum"])
        for place, k in enumerate(values["counts"]):
            own, best = (
                statistics.fmean(errors[place] for errors in values[kind])
                for kind in ("canonical", "optimum")
            )
            worst = 100.0 * max(above[place])
            text = f"{100.0 * statistics.fmean(above[place]):.1f} (at most {worst:.1f})"
            text = text if worst <= 5.0 else f"**{text}; aimed at <= 5**"
            lines.append(f"| {name} | {k} | {own:.4f} | {best:.4f} | {text} |")
    return "\n".join(lines)


def plain(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A table of rows of numbers by name: means, with the range if there are several."""
    names = list(dict.fromkeys(name for measured in rows.values() for row in measured for name in row))
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for text, measured in rows.items():
        found = {name: [row[name] for row in measured if name in row] for name in names}
        cells = [Row(name, at(name)).cell("", found) for name in names]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines)
