"""The table of a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..tables import Row, RowTable

DESIGN = ("problem", "method", "budget", "curved")
"""Columns that identify a row. Rows of the same design differ only in the seed."""

MEASURES = (
    "evaluations",
    "milliseconds",
    "speedup",
    "endpoint_error",
    "own_endpoint_error",
    "path_error",
    "straight_line_path_error",
    "path_over_line",
    "inversion_error",
    "round_trip_error",
    "wasserstein2",
    "w2_over_teacher",
    "teacher_w2_low",
    "teacher_w2_high",
    "w2_floor",
    "sliced_wasserstein",
    "energy",
    "mmd",
    "precision",
    "recall",
    "bits_per_dimension",
    "teacher_bits_per_dimension",
    "density_correlation",
    "fit_seconds",
    "preparation_seconds",
    "steps",
)
"""Columns of numbers, NaN if a method does not have the measure or diverged."""

Table = TypeVar("Table", bound="ComparisonTable")


class ComparisonTable(RowTable):
    """Rows of a comparison, as :func:`experiments.compare.compare` returns them.

    Errors are divided by the data's total standard deviation, and inversion errors by the norm of the noise.
    ``milliseconds`` are for 1,000 samples. ``own_endpoint_error`` and the errors of paths and inversion are
    measured against the teacher that a student was fitted to; for reflow it is the teacher after reflow.

    Attributes
    ----------
    curves : list of dict
        Path errors over :data:`koopflow.metrics.errors.PATH_TIMES` of the methods that have a path.
    settings : dict
        Settings of the call.
    interrupted : bool
        Whether Ctrl-C ended the comparison before the last part.
    """

    design = DESIGN
    measures = MEASURES
    headings: ClassVar[Mapping[str, str]] = {
        "problem": "problem",
        "method": "method",
        "budget": "budget",
        "evaluations": "NFE",
        "milliseconds": "ms / 1000",
        "endpoint_error": "endpoint",
        "path_over_line": "path / line",
        "inversion_error": "inversion",
        "round_trip_error": "round trip",
        "w2_over_teacher": "W2 / teacher's",
        "energy": "energy",
        "precision": "precision",
        "recall": "recall",
        "density_correlation": "log p corr.",
        "fit_seconds": "fit, s",
        "steps": "steps",
        "failed": "diverged",
        "reason": "reason",
    }
    decimals: ClassVar[Mapping[str, int]] = {
        "evaluations": 0,
        "milliseconds": 2,
        "w2_over_teacher": 3,
        "path_over_line": 3,
        "precision": 2,
        "recall": 2,
        "density_correlation": 3,
        "fit_seconds": 1,
        "steps": 0,
    }
    optional = (
        "budget",
        "path_over_line",
        "inversion_error",
        "round_trip_error",
        "density_correlation",
        "steps",
        "failed",
        "reason",
    )

    def __init__(
        self,
        rows: Sequence[Row],
        *,
        curves: Sequence[Mapping[str, Any]] = (),
        settings: Mapping[str, Any] | None = None,
        interrupted: bool = False,
    ) -> None:
        super().__init__(rows)
        self.curves = [dict(curve) for curve in curves]
        self.settings = dict(settings or {})
        self.interrupted = interrupted

    def _of(self: Table, rows: Sequence[Row]) -> Table:
        return type(self)(rows, curves=self.curves, settings=self.settings, interrupted=self.interrupted)

    @property
    def problems(self) -> list[str]:
        """The problems, in their order."""
        return list(dict.fromkeys(row["problem"] for row in self._rows))

    def where(self: Table, **design: Any) -> Table:
        """The rows whose columns have these values."""
        return self._of(
            [row for row in self._rows if all(row[name] == value for name, value in design.items())]
        )

    def without(self: Table, *columns: str) -> Table:
        """The table without some columns."""
        return self._of([{name: row[name] for name in row if name not in columns} for row in self._rows])

    def to_json(self, path: str | PathLike[str]) -> None:
        """Write rows, curves and settings; NaN becomes null."""
        content = {"settings": self.settings, "rows": self._rows, "curves": self.curves}
        Path(path).write_text(json.dumps(_without_nan(content), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | PathLike[str]) -> ComparisonTable:
        """Read what :meth:`to_json` wrote."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = [
            {name: math.nan if value is None and name in MEASURES else value for name, value in row.items()}
            for row in content["rows"]
        ]
        return cls(rows, curves=content["curves"], settings=content["settings"])


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
