"""The table of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from ..tables import Row, RowTable

DESIGN = ("name", "weights", "observables", "generator")
"""Columns that identify the student of a row. Rows of the same design differ only in the seed."""

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
"""Columns of numbers, NaN if the run diverged."""

COLUMNS = (*DESIGN, "seed", *MEASURES, "reason")
"""Columns of a table of single runs, in order."""


class AblationTable(RowTable):
    """Rows of an ablation, as :func:`experiments.ablation.ablate` returns them.

    Errors are those of :class:`koopflow.EvaluationReport`.

    Parameters
    ----------
    rows : sequence of dict
        Single runs with the keys in ``COLUMNS``. ``weights`` holds the weights that are not 0, and ``reason``
        says why a run has no results.
    interrupted : bool, default False
        Whether Ctrl-C ended the ablation before the last run.

    Examples
    --------
    >>> row = {"name": "target", "observables": 8, "generator": "dense", "seed": 0, "endpoint_error": 0.25}
    >>> table = AblationTable([row, {**row, "seed": 1, "endpoint_error": 0.75}])
    >>> print(table)
    terms      observables  generator      seed    endpoint
    target               8  dense             0      0.2500
    target               8  dense             1      0.7500
    >>> print(table.summary())
    terms      observables  generator      runs  endpoint
    target               8  dense             2  0.5000 ± 0.3536
    """

    design = DESIGN
    measures = MEASURES
    headings: ClassVar[Mapping[str, str]] = {
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
    decimals: ClassVar[Mapping[str, int]] = {"seconds": 1, "steps": 0, "teacher_evaluations": 0}
    optional = ("failed", "reason")

    def __init__(self, rows: Sequence[Row], *, interrupted: bool = False) -> None:
        super().__init__(rows)
        self.interrupted = interrupted
