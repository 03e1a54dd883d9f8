"""Which conditions samples are made under: labels, vectors of a file, or every class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..students.distiller import KoopmanDistiller
from ..teachers.teacher import FlowTeacher
from .errors import UsageError
from .inputs import array_file

EACH = 8


def conditioning_of(model: FlowTeacher | KoopmanDistiller) -> Any:
    """What a model is conditioned on, as the core says it."""
    if isinstance(model, FlowTeacher):
        return json.loads(model.field.conditioning)
    return model.teacher_.get("conditioning")


def classes_of(conditioning: Any) -> int | None:
    """How many classes a model is conditioned on."""
    found: int | None = _part(conditioning, "labels", "classes")
    return found


def dimension_of(conditioning: Any) -> int | None:
    """The length of the vectors that a model is conditioned on."""
    found: int | None = _part(conditioning, "vector", "dim")
    return found


def every_class(n: int, classes: int) -> NDArray[np.int64]:
    """``n`` labels in order, every class as often as any other to within one."""
    return np.arange(n, dtype=np.int64) * classes // n


def asked_for(
    conditioning: Any, n: int | None, labels: list[int] | None, file: str | None
) -> tuple[int, NDArray[Any] | None]:
    """How many samples, and the condition of each: ``labels`` cycle, a file has a row for each.

    Without either every class comes equally often, in order.
    """
    if n is not None and n < 1:
        raise UsageError(f"-n: expected at least 1, got {n}")
    classes, dimension = classes_of(conditioning), dimension_of(conditioning)
    if labels is not None and classes is None:
        raise UsageError("--label: expected a model with classes, got one without")
    if file is not None and dimension is None and classes is None:
        raise UsageError("--condition: expected a conditional model, got an unconditional one")
    if file is not None:
        rows, _ = array_file(Path(file)) if Path(file).is_file() else (None, None)
        if rows is None:
            raise UsageError(f"--condition: expected an .npy file, got {file!r}, where there is no file")
        n = len(rows) if n is None else n
        return n, np.resize(rows, (n, *rows.shape[1:]))
    if dimension is not None:
        raise UsageError(f"--condition: expected an .npy file of vectors of length {dimension}, got nothing")
    if classes is None:
        return EACH**2 if n is None else n, None
    if labels is None:
        if n is None:
            n = EACH * classes if classes <= 2 * EACH else EACH**2
        return n, every_class(n, classes)
    wrong = [label for label in labels if not isinstance(label, int) or not 0 <= label < classes]
    if wrong:
        raise UsageError(f"--label: expected labels from 0 to {classes - 1}, got {wrong[0]}")
    if n is None:
        n = EACH * len(labels) if len(labels) > 1 else EACH**2
    # Row by row, in the order asked for.
    return n, np.asarray(labels, dtype=np.int64)[every_class(n, len(labels))]


def columns_of(condition: NDArray[Any] | None) -> int | None:
    """The columns that put each label on rows of its own; None where none do."""
    if condition is None or condition.ndim != 1:
        return None
    labels, counts = np.unique(condition, return_counts=True)
    return int(counts[0]) if len(labels) > 1 and len(set(counts.tolist())) == 1 else None


def _part(conditioning: Any, kind: str, name: str) -> Any:
    part = conditioning.get(kind) if isinstance(conditioning, Mapping) else None
    return None if part is None else part[name]
