"""A comparison as files: CSV, JSON, Markdown and pictures."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ..environment import versions
from .claims import claims
from .figures import comparison
from .problems import file_name
from .table import ComparisonTable

CSV, JSON, MARKDOWN = "comparison.csv", "comparison.json", "comparison.md"

# Columns of the second table of a problem, and those of the first.
ALONG_THE_WAY = (
    *("path_over_line", "inversion_error", "round_trip_error", "energy", "precision", "recall"),
    *("density_correlation", "fit_seconds", "steps", "failed", "reason"),
)
AT_THE_END = ("evaluations", "milliseconds", "endpoint_error", "w2_over_teacher")


def write(table: ComparisonTable, folder: str | PathLike[str]) -> list[Path]:
    """Write everything into a folder.

    Parameters
    ----------
    table : ComparisonTable
        Table of single runs.
    folder : path
        Folder, created if it does not exist. Files of the same names are replaced.

    Returns
    -------
    list of Path
        ``comparison.csv``, ``comparison.json``, ``comparison.md`` and the pictures.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    table.to_csv(place / CSV)
    table.to_json(place / JSON)
    (place / MARKDOWN).write_text(to_markdown(table), encoding="utf-8")
    return [place / CSV, place / JSON, place / MARKDOWN, *figures(table, place)]


def to_markdown(table: ComparisonTable) -> str:
    """Machine and settings, a table for each problem and budget, and the claims."""
    settings = ", ".join(f"{name} {value}" for name, value in table.settings.items() if name != "methods")
    seeds = sorted({row["seed"] for row in table})
    lines = [
        f"{versions()}.",
        f"Seeds {seeds}: mean ± standard deviation. Settings: {settings}.",
    ]
    for problem in table.problems:
        rows = table.where(problem=problem)
        budgets = dict.fromkeys(row["budget"] for row in rows if row["budget"])
        for index, budget in enumerate(budgets):
            # Solvers have no budget and are part of the first table.
            allowed = (budget, "") if index == 0 else (budget,)
            part = ComparisonTable([row for row in rows if row["budget"] in allowed])
            summary = part.summary().without("problem", "budget")
            lines += ["", f"## {problem}, {budget}"]
            # Two narrow tables are easier to read than one wide one.
            for columns in (ALONG_THE_WAY, AT_THE_END):
                lines += ["", summary.without(*columns).to_text("pipe")]
        first = rows[0]
        lines += [
            "",
            f"Exact W2 of the teacher (seed {first['seed']}): 95% interval {first['teacher_w2_low']:.4f} to "
            f"{first['teacher_w2_high']:.4f}; the W2 between two sets of data is {first['w2_floor']:.4f}.",
        ]
    lines += ["", "## Claims", ""]
    lines += ["| problem | claim | got | bar | holds |", "|:---|:---|---:|---:|:---|"]
    for claim in claims(table):
        verdict = {None: "", True: "yes", False: "**no**"}[claim.holds]
        bar = "" if claim.holds is None else f"{claim.bar:.4g}"
        lines.append(f"| {claim.problem} | {claim.text} | {claim.got:.4g} | {bar} | {verdict} |")
    return "\n".join(lines) + "\n"


def figures(table: ComparisonTable, folder: str | PathLike[str]) -> list[Path]:
    """Draw quality over evaluations and milliseconds, and path errors over time, in one PNG per problem."""
    written = []
    for problem in table.problems:
        axes = comparison(table.where(problem=problem), curves=table.curves, title=problem)
        written.append(Path(folder) / f"{file_name(problem)}.png")
        axes[0].figure.savefig(written[-1])
    return written
