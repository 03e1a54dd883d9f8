"""The tables of a page, which stand between two comments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- side_by_side: begin -->", "<!-- side_by_side: end -->"
HEAD = f"| case | compared with | ms: koopflow, other | times as fast | target |\n{'|---' * 5}|"


def number(value: float) -> str:
    """A number with three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def cells(row: Mapping[str, Any]) -> str:
    """One row of a table."""
    low, high = map(number, row["quartiles"])
    target = "" if row["target"] is None else f"{number(row['target'])}: "
    met = {None: "", True: "met", False: "**missed**"}[row["met"]]
    times = f"{number(row['koopflow_ms'])}, {number(row['other_ms'])}"
    ratio = f"{number(row['ratio'])} ({low} to {high})"
    return "| " + " | ".join([row["case"], row["other"], times, ratio, target + met]) + " |"


def tables(found: Mapping[str, Any]) -> str:
    """All rows, in a table for each part, after the conditions of the measurement."""
    parts: dict[str, list[str]] = {}
    for row in found["rows"]:
        parts.setdefault(row["part"], []).append(cells(row))
    texts = [f"**{part[0].upper()}{part[1:]}**\n\n{HEAD}\n" + "\n".join(rows) for part, rows in parts.items()]
    goals = [row["met"] for row in found["rows"] if row["met"] is not None]
    how = f"{found['repetitions']} repetitions, seed {found['seed']}"
    about = f"`{found['command']}`: {found['machine']}, {how}"
    counted = f"{sum(goals)} of {len(goals)} targets are met."
    return "\n\n".join([f"{about}. {counted}", *texts])


def rewritten(page: str, found: Mapping[str, Any]) -> str:
    """The page with its marked block replaced. Raises ``ValueError`` for a page without one."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"page: expected one block between {BEGIN} and {END}")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{tables(found)}\n\n{END}{rest.split(END)[1]}"


def write(path: str, found: Mapping[str, Any]) -> None:
    """Rewrite the page's marked block."""
    page = Path(path)
    page.write_text(rewritten(page.read_text(encoding="utf-8"), found), encoding="utf-8")
