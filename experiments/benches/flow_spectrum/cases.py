"""Comparison of a student's spectrum with its teacher's, on each case of ``experiments.benches.quality``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from koopflow import FlowTeacher, KoopmanDistiller
from koopflow.analysis import flow_spectrum

from ..quality import CASES, Case
from .agreement import compared
from .models import kept

SEED = 0


def trained(case: Case) -> FlowTeacher:
    return case.teacher(case.data(SEED)[0], SEED)


def measure_cases(
    names: Sequence[str], folder: Path, steps: int | None, n: int
) -> dict[str, list[dict[str, float]]]:
    """A row for each case. Teachers have their default options."""
    rows = {}
    for case in CASES:
        if not any(part in case.name for part in names):
            continue
        plain = re.sub(r"\W+", "-", case.name.lower())
        teacher = kept(folder, f"case-{plain}-teacher", partial(trained, case))
        student = kept(
            folder,
            f"case-{plain}-student-{steps or 'default'}",
            partial(KoopmanDistiller(seed=SEED, steps=steps).fit, teacher, progress=False),
            KoopmanDistiller,
        )
        row = compared(flow_spectrum(teacher, n=n), flow_spectrum(student, n=n))
        wanted = ("affine_points", "rates", "left", "left_by_other", "found", "cosine", "amplitude")
        rows[case.name] = [{name: row[name] for name in wanted if name in row}]
    return rows
