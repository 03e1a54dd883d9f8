"""The table that an ablation answers: rows of plain values, grouped, printed and written."""

from __future__ import annotations

import csv
import html
import importlib
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from typing import Any, overload

from .exceptions import ArgumentError

Row = dict[str, Any]

DESIGN = ("name", "weights", "observables", "generator")
"""The columns that say which student a row is about; rows that differ in the seed alone agree on them."""

MEASURES = (
    "endpoint_error",
    "path_error",
    "straight_line_path_error",
    "inversion_error",
    "round_trip_error",
    "wasserstein2",
    "teacher_wasserstein2",
    "seconds",
    "steps",
    "teacher_evaluations",
)
"""The columns that were measured: numbers, NaN where the run diverged."""

COLUMNS = (*DESIGN, "seed", *MEASURES, "reason")
"""The columns of a table of single runs, in order."""

# How printed tables call the columns, and how many decimals they give; the rest is left to the CSV.
_HEADINGS = {
    "name": "terms",
    "observables": "observables",
    "generator": "generator",
    "seed": "seed",
    "runs": "runs",
    "endpoint_error": "endpoint",
    "path_error": "path",
    "straight_line_path_error": "straight line",
    "inversion_error": "inversion",
    "wasserstein2": "W2",
    "teacher_wasserstein2": "teacher's W2",
    "seconds": "fit, s",
    "steps": "steps",
    "teacher_evaluations": "teacher NFE",
    "failed": "diverged",
    "reason": "reason",
}
_DECIMALS = {"seconds": 1, "steps": 0, "teacher_evaluations": 0}
_TEXT = ("name", "generator", "reason")


class AblationTable(Sequence[Row]):
    """Rows of an ablation: a sequence of dictionaries that prints as an aligned table.

    Made by :func:`koopflow.ablate`. Errors are those of :class:`koopflow.EvaluationReport`.

    Parameters
    ----------
    rows : sequence of dict
        With the same keys each: ``name``, ``weights`` (of every term that is on), ``observables``,
        ``generator``, ``seed``, ``endpoint_error``, ``path_error``, ``straight_line_path_error``,
        ``inversion_error``, ``round_trip_error``, ``wasserstein2``, ``teacher_wasserstein2``, ``seconds``,
        ``steps``, ``teacher_evaluations`` and ``reason`` (why a run has no results, otherwise empty).
    interrupted : bool, default False
        Whether Ctrl-C ended the ablation before the last run.

    Examples
    --------
    >>> row = {"name": "target", "observables": 8, "generator": "dense", "seed": 0, "endpoint_error": 0.25}
    >>> table = AblationTable([row, {**row, "seed": 1, "endpoint_error": 0.75}])
    >>> print(table)
    terms   observables  generator  seed  endpoint
    target            8  dense         0    0.2500
    target            8  dense         1    0.7500
    >>> print(table.summary())
    terms   observables  generator  runs         endpoint
    target            8  dense         2  0.5000 ± 0.3536
    >>> table.to_dict()["endpoint_error"]
    [0.25, 0.75]
    """

    def __init__(self, rows: Sequence[Row], *, interrupted: bool = False) -> None:
        self._rows = [dict(row) for row in rows]
        self.interrupted = interrupted

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._rows[0]) if self._rows else COLUMNS

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> AblationTable: ...
    def __getitem__(self, index: int | slice) -> Row | AblationTable:
        if isinstance(index, slice):
            return AblationTable(self._rows[index])
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def summary(self) -> AblationTable:
        """One row for each design, its seeds together.

        Returns
        -------
        AblationTable
            ``name``, ``weights``, ``observables``, ``generator``, ``runs`` (how many seeds) and ``failed``
            (how many of them diverged). Every measure is the mean over the runs that did not diverge, with
            the sample standard deviation as ``<measure>_spread``; NaN where there are too few.
        """
        groups: dict[str, list[Row]] = {}
        for row in self._rows:
            design = [row.get(column) for column in DESIGN]
            groups.setdefault(json.dumps(design, sort_keys=True), []).append(row)
        return AblationTable([_grouped(rows) for rows in groups.values()])

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns as lists, ready for JSON or a data frame."""
        return {column: [row[column] for row in self._rows] for column in self.columns}

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write every column; weights as JSON."""
        with open(fspath(path), "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows([_csv_cell(row[column]) for column in self.columns] for row in self._rows)

    def to_markdown(self) -> str:
        """A Markdown table of what is printed."""
        headings, cells, text = self._cells()
        lines = [headings, [":---" if is_text else "---:" for is_text in text], *cells]
        escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
        return "\n".join(f"| {' | '.join(line)} |" for line in escaped)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` of every column.

        Raises
        ------
        ArgumentError
            When pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ArgumentError("to_pandas needs pandas: pip install pandas, or use to_dict()") from error
        return pandas.DataFrame(self.to_dict())

    def __str__(self) -> str:
        headings, cells, text = self._cells()
        widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if is_text else cell.rjust(width)
                for cell, width, is_text in zip(line, widths, text, strict=True)
            ).rstrip()
            for line in (headings, *cells)
        )

    def __repr__(self) -> str:
        return f"<AblationTable: {len(self)} rows>\n{self}"

    def _repr_html_(self) -> str:
        headings, cells, text = self._cells()

        def line(tag: str, values: Sequence[str]) -> str:
            marked = (
                f'<{tag} style="text-align: {"left" if is_text else "right"}">{html.escape(value)}</{tag}>'
                for value, is_text in zip(values, text, strict=True)
            )
            return f"<tr>{''.join(marked)}</tr>"

        body = "".join(line("td", values) for values in cells)
        return f"<table><thead>{line('th', headings)}</thead><tbody>{body}</tbody></table>"

    def _cells(self) -> tuple[list[str], list[list[str]], list[bool]]:
        """Headings, formatted cells, and which columns are text."""
        columns = _shown(self.columns)
        # What went wrong is a column only where something did.
        for column in ("failed", "reason"):
            if column in columns and not any(row[column] for row in self._rows):
                columns.remove(column)
        cells = [[_cell(row, column) for column in columns] for row in self._rows]
        return [_HEADINGS[column] for column in columns], cells, [column in _TEXT for column in columns]


def _shown(columns: Sequence[str]) -> list[str]:
    return [column for column in columns if column in _HEADINGS]


def _cell(row: Row, column: str) -> str:
    value = row[column]
    if column not in MEASURES:
        return str(value)
    decimals = _DECIMALS.get(column, 4)
    spread = row.get(f"{column}_spread", math.nan)
    text = f"{value:.{decimals}f}"
    return text if math.isnan(spread) else f"{text} ± {spread:.{decimals}f}"


def _csv_cell(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def _grouped(rows: list[Row]) -> Row:
    grouped = {column: rows[0][column] for column in DESIGN if column in rows[0]}
    grouped["runs"] = len(rows)
    for measure in MEASURES:
        if measure not in rows[0]:
            continue
        values = [float(row[measure]) for row in rows if not math.isnan(row[measure])]
        grouped[measure] = statistics.fmean(values) if values else math.nan
        grouped[f"{measure}_spread"] = statistics.stdev(values) if len(values) > 1 else math.nan
    grouped["failed"] = sum(bool(row.get("reason")) for row in rows)
    return grouped
