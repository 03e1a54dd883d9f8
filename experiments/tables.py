"""Tables of studies: rows of plain values with their seeds, summarised, printed and written as CSV."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any, ClassVar, TypeAlias, TypeVar

from koopflow import _tables

Row: TypeAlias = dict[str, Any]
Table = TypeVar("Table", bound="RowTable")


class RowTable(Sequence[Row]):
    """A sequence of dictionaries with the same keys. Subclasses define the columns.

    Attributes
    ----------
    design : tuple of str
        Columns that identify a row. Rows of the same design differ only in the seed.
    measures : tuple of str
        Columns of numbers, NaN if not measured.
    headings : mapping
        Headings of the columns that are printed, in order.
    decimals : mapping
        Number of printed decimals of a measure; 4 for measures not named.
    optional : tuple of str
        Columns that are printed only if a row has a value in them.
    """

    design: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[tuple[str, ...]] = ()
    headings: ClassVar[Mapping[str, str]] = {}
    decimals: ClassVar[Mapping[str, int]] = {}
    optional: ClassVar[tuple[str, ...]] = ()

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = [dict(row) for row in rows]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self._rows[0]) if self._rows else (*self.design, "seed", *self.measures, "reason")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """A row, or a table of some rows for a slice."""
        return self._of(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def _of(self: Table, rows: Sequence[Row]) -> Table:
        """A table of the same kind with other rows."""
        return type(self)(rows)

    def summary(self: Table) -> Table:
        """One row for each design, over its seeds.

        Returns
        -------
        table
            The design, ``runs`` (number of seeds) and ``failed`` (number of seeds without results). Every
            measure is the mean over the runs that have it, with the sample standard deviation as
            ``<measure>_spread``; NaN if there are too few.
        """
        groups: dict[str, list[Row]] = {}
        for row in self._rows:
            key = json.dumps([row.get(column) for column in self.design], sort_keys=True)
            groups.setdefault(key, []).append(row)
        return self._of([self._grouped(rows) for rows in groups.values()])

    def _grouped(self, rows: list[Row]) -> Row:
        grouped = {column: rows[0][column] for column in self.design if column in rows[0]}
        grouped["runs"] = len(rows)
        for measure in self.measures:
            if measure in rows[0]:
                values = [float(row[measure]) for row in rows if not math.isnan(row[measure])]
                grouped[measure] = statistics.fmean(values) if values else math.nan
                grouped[f"{measure}_spread"] = statistics.stdev(values) if len(values) > 1 else math.nan
        grouped["failed"] = sum(bool(row.get("reason")) for row in rows)
        return grouped

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns as lists, ready for JSON."""
        return {column: [row[column] for row in self._rows] for column in self.columns}

    def to_frame(self) -> Any:
        """A ``pandas.DataFrame`` of every column. Raises ``ArgumentError`` without pandas."""
        return _tables.to_frame(self._rows)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write every column; mappings as JSON."""
        with open(fspath(path), "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(
                {
                    column: json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value
                    for column, value in row.items()
                }
                for row in self._rows
            )

    def to_text(self, style: str = "plain") -> str:
        """The columns with headings as a table of one of tabulate's formats: ``"pipe"`` is Markdown."""
        rows = [{column: self._cell(row, column) for column in row} for row in self._rows]
        shown = {column: name for column, name in self.headings.items() if column in self.columns}
        for column in self.optional:
            if not any(row.get(column) not in (None, "", 0) for row in rows):
                shown.pop(column, None)
        return _tables.text_table(rows, shown, decimals=self.decimals, style=style)

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} rows>\n{self}"

    def _cell(self, row: Row, column: str) -> Any:
        """A value for printing: None for NaN, text with its spread if there is one."""
        value, spread = row[column], row.get(f"{column}_spread", math.nan)
        if column not in self.measures or math.isnan(value):
            return value if column not in self.measures else None
        if math.isnan(spread):
            return float(value)
        decimals = self.decimals.get(column, 4)
        return f"{value:.{decimals}f} ± {spread:.{decimals}f}"
