"""Rows of plain values that print as an aligned table and are written as CSV, Markdown and HTML."""

from __future__ import annotations

import csv
import html
import importlib
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any, ClassVar, TypeAlias, TypeVar

from koopflow.exceptions import ArgumentError

Row: TypeAlias = dict[str, Any]
Table = TypeVar("Table", bound="RowTable")


class RowTable(Sequence[Row]):
    """A sequence of dictionaries with the same keys; subclasses say what the columns are.

    Attributes
    ----------
    design : tuple of str
        The columns that say what a row is about; rows that differ in the seed alone agree on them.
    measures : tuple of str
        The columns that were measured: numbers, NaN where there is none.
    headings : mapping
        How printed tables call the columns that they show, in order.
    decimals : mapping
        How many decimals printed tables give of a measure; 4 unless said.
    text : tuple of str
        Columns that are aligned to the left.
    optional : tuple of str
        Columns that are printed only where one row has something there.
    missing : str
        What is printed for NaN.
    """

    design: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[tuple[str, ...]] = ()
    headings: ClassVar[Mapping[str, str]] = {}
    decimals: ClassVar[Mapping[str, int]] = {}
    text: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    missing: ClassVar[str] = "nan"

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = [dict(row) for row in rows]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._rows[0]) if self._rows else (*self.design, "seed", *self.measures)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """A row, or a table of some rows for a slice."""
        return self._of(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def _of(self: Table, rows: Sequence[Row]) -> Table:
        """A table like this one of other rows."""
        return type(self)(rows)

    def summary(self: Table) -> Table:
        """One row for each design, its seeds together.

        Returns
        -------
        table
            The design, ``runs`` (how many seeds) and ``failed`` (how many of them have no results and say
            why). Every measure is the mean over the runs that have it, with the sample standard deviation
            as ``<measure>_spread``; NaN where there are too few.
        """
        groups: dict[str, list[Row]] = {}
        for row in self._rows:
            key = json.dumps([row.get(column) for column in self.design], sort_keys=True)
            groups.setdefault(key, []).append(row)
        return self._of([self._grouped(rows) for rows in groups.values()])

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns as lists, ready for JSON or a data frame."""
        return {column: [row[column] for row in self._rows] for column in self.columns}

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write every column; mappings as JSON."""
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
        return f"<{type(self).__name__}: {len(self)} rows>\n{self}"

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
        columns = [column for column in self.columns if column in self.headings]
        for column in self.optional:
            if column in columns and not any(_is_something(row[column]) for row in self._rows):
                columns.remove(column)
        cells = [[self._cell(row, column) for column in columns] for row in self._rows]
        headings = [self.headings[column] for column in columns]
        return headings, cells, [column in self.text for column in columns]

    def _cell(self, row: Row, column: str) -> str:
        value = row[column]
        if column not in self.measures:
            return str(value)
        if math.isnan(value):
            return self.missing
        decimals = self.decimals.get(column, 4)
        spread = row.get(f"{column}_spread", math.nan)
        text = f"{value:.{decimals}f}"
        return text if math.isnan(spread) else f"{text} ± {spread:.{decimals}f}"

    def _grouped(self, rows: list[Row]) -> Row:
        grouped = {column: rows[0][column] for column in self.design if column in rows[0]}
        grouped["runs"] = len(rows)
        for measure in self.measures:
            if measure not in rows[0]:
                continue
            values = [float(row[measure]) for row in rows if not math.isnan(row[measure])]
            grouped[measure] = statistics.fmean(values) if values else math.nan
            grouped[f"{measure}_spread"] = statistics.stdev(values) if len(values) > 1 else math.nan
        grouped["failed"] = sum(bool(row.get("reason")) for row in rows)
        return grouped


def _is_something(value: Any) -> bool:
    return not math.isnan(value) if isinstance(value, float) else bool(value)


def _csv_cell(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value
