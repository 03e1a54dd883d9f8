"""koopflow's claims, each with its value in a table and the limit that it has to meet."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from ..tables import Row
from .methods import METHODS
from .table import ComparisonTable

KOOPFLOW, PLAIN, PAPERS = "koopflow", "plain network", "paper's losses, our inputs"

# Limits. Of two limits the first is for the plane, and the second for digits and anything larger.
ENDPOINT_BAR = 0.02
LINE_BAR = 1 / 6
INVERSION_BARS = (0.02, 0.22)
PLAIN_BARS = (2.0, 1.05)
QUALITY_BAR = 1.02


@dataclass(frozen=True)
class Claim:
    """One claim about one problem.

    Attributes
    ----------
    text : str
        Quantity of the claim.
    problem : str
        Name of the problem.
    got, bar : float
        Mean over the seeds, and the largest value allowed. With a NaN bar the mean is only reported.
    """

    text: str
    problem: str
    got: float
    bar: float = math.nan

    @property
    def holds(self) -> bool | None:
        """Whether ``got`` is at most ``bar``; None if the number is only reported."""
        return None if math.isnan(self.bar) else self.got <= self.bar

    def __str__(self) -> str:
        if self.holds is None:
            return f"{self.problem}: {self.text}: {self.got:.4g}"
        verdict = "yes" if self.holds else "NO"
        return f"{self.problem}: {self.text}: {self.got:.4g}, bar {self.bar:.4g}: {verdict}"


def claims(table: ComparisonTable) -> list[Claim]:
    """All claims that can be checked with the rows of a comparison.

    Parameters
    ----------
    table : ComparisonTable
        Table of single runs, not a summary.

    Examples
    --------
    >>> from experiments.compare import ComparisonTable, claims
    >>> row = {"problem": "moons/vp", "method": "koopflow", "budget": "8 s", "curved": True, "seed": 0}
    >>> print(claims(ComparisonTable([{**row, "path_over_line": 0.1}]))[0])
    moons/vp: path error over the straight line's: 0.1, bar 0.1667: yes
    """
    return [claim for problem in table.problems for claim in _of(table.where(problem=problem), problem)]


def _of(rows: ComparisonTable, problem: str) -> Iterator[Claim]:
    timed = next((row["budget"] for row in rows if row["method"] == KOOPFLOW), None)

    def mean(column: str, method: str = KOOPFLOW) -> float:
        values = [
            row.get(column, math.nan)
            for row in rows
            if row["method"] == method and row["budget"] in ("", timed)
        ]
        values = [value for value in values if not math.isnan(value)]
        return statistics.fmean(values) if values else math.nan

    def ratio(column: str, method: str = KOOPFLOW, over: str = KOOPFLOW) -> float:
        below = mean(column, over)
        return mean(column, method) / below if below else math.nan

    plane = problem.split("/")[0] in ("moons", "eight_gaussians", "checkerboard", "swiss_roll")
    which = 0 if plane else 1
    stated = []
    if rows[0]["curved"]:
        stated.append(("path error over the straight line's", mean("path_over_line"), LINE_BAR))
    if plane:
        stated.append(("endpoint error", mean("endpoint_error"), ENDPOINT_BAR))
    stated += [
        ("inversion error", mean("inversion_error"), INVERSION_BARS[which]),
        (f"endpoint error over the {PLAIN}'s", ratio("endpoint_error", over=PLAIN), PLAIN_BARS[which]),
    ]
    if plane:
        within = mean("wasserstein2") / mean("teacher_w2_high")
        stated.append(("W2 over the upper end of the teacher's interval", within, 1.0))
    else:
        stated.append(("W2 over the teacher's", mean("w2_over_teacher"), QUALITY_BAR))
    for solver in (f"Euler, {steps} steps" for steps in (4, 20)):
        stated += [
            (f"W2 over that of {solver}", ratio("wasserstein2", over=solver), 1.0),
            (f"milliseconds over those of {solver}", ratio("milliseconds", over=solver), 1.0),
        ]
    complete = {row["method"] for row in rows if _is_one_step_with_path_and_inverse(row)}
    stated.append(("other one-step methods with a path and an inverse", float(len(complete)), 0.0))
    # Reported without a bar.
    for text, column, method in (
        ("after reflow, endpoint error over that without", "endpoint_error", "reflow, koopflow"),
        ("after reflow, W2 over that without", "wasserstein2", "reflow, koopflow"),
        ("paper's losses with our inputs, endpoint error over koopflow's", "endpoint_error", PAPERS),
        ("paper's losses and inputs, endpoint error over koopflow's", "endpoint_error", "paper"),
    ):
        stated.append((text, ratio(column, method), math.nan))
    for text, got, bar in stated:
        if not math.isnan(got):
            yield Claim(text, problem, got, bar)


def _is_one_step_with_path_and_inverse(row: Row) -> bool:
    method = METHODS.get(row["method"])
    ours = method is not None and method.koopman
    has = all(not math.isnan(row.get(column, math.nan)) for column in ("path_error", "inversion_error"))
    return not ours and has and row.get("evaluations") == 1
