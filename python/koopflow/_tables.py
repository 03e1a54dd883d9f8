"""Tables of results: as text with tabulate, or as data frames with pandas, if that is installed."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from numbers import Number, Real
from typing import Any

from tabulate import tabulate

from .exceptions import ArgumentError


def text_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | Mapping[str, str] | None = None,
    *,
    decimals: int | Mapping[str, int] = 4,
    missing: str = "",
    style: str = "plain",
) -> str:
    """Rows as an aligned text table, with text to the left and numbers to the right.

    ``columns`` are names in order, or a mapping of names to headings; by default the keys of the first row.
    ``decimals`` is the number of decimals of floating-point numbers, for all columns or by name (4 for other
    columns). ``missing`` is printed for None, NaN and keys that a row lacks. ``style`` is a table format of
    tabulate.

    Examples
    --------
    >>> print(text_table([{"name": "a", "error": 0.25}, {"name": "bc", "error": None}], missing="-"))
    name      error
    a        0.2500
    bc            -
    """
    names = columns or (list(rows[0]) if rows else [])
    headings = dict(names) if isinstance(names, Mapping) else {name: name for name in names}

    def cell(name: str, value: Any) -> str:
        if value is None or (isinstance(value, Real) and math.isnan(value)):
            return missing
        if isinstance(value, Real) and not isinstance(value, int):
            places = decimals if isinstance(decimals, int) else decimals.get(name, 4)
            return f"{float(value):.{places}f}"
        return str(value)

    def is_text(name: str) -> bool:
        values = [row.get(name) for row in rows]
        return any(v is not None and (isinstance(v, bool) or not isinstance(v, Number)) for v in values)

    # Cells are text already; tabulate must not parse them as numbers again.
    table: str = tabulate(
        [[cell(name, row.get(name)) for name in headings] for row in rows],
        headers=list(headings.values()),
        tablefmt=style,
        colalign=["left" if is_text(name) else "right" for name in headings] if rows else None,
        disable_numparse=True,
    )
    return table


def to_frame(rows: Sequence[Mapping[str, Any]], *, index: str | None = None) -> Any:
    """Rows as a ``pandas.DataFrame``, indexed by ``index``. Raises ``ArgumentError`` without pandas."""
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise ArgumentError("a data frame needs pandas: pip install pandas") from error
    if not rows:
        return pandas.DataFrame(index=pandas.Index([], name=index))
    frame = pandas.DataFrame(list(rows))
    return frame if index is None else frame.set_index(index)
