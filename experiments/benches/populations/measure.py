"""Errors at a held-out snapshot, and at all snapshots."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import ours, rivals
from .problems import HELD, PROBLEMS, Problem, without
from .scores import floor, wasserstein1


def held_out(
    name: str, seed: int, steps: int | None, student_steps: int | None, epochs: int, folder: Path
) -> dict[str, float]:
    """W1 of each method's estimate of the middle snapshot, after training on the others."""
    problem = PROBLEMS[name](seed, folder)
    seen, wanted, at = without(problem, HELD), problem.snapshots[HELD], problem.times[HELD]
    starts = problem.snapshots[0]
    row = {"floor": floor(wanted, seed)}
    for label, given in ours.TEACHERS.items():
        teacher = ours.teach(seen, seed, steps, **given)
        row[f"teacher, {label}"] = wasserstein1(_at(teacher, starts, at), wanted)
        if label == "lines":
            student = ours.distil(teacher, seed, student_steps)
            row["student, lines"] = wasserstein1(_at(student, starts, at), wanted)
    if seen.sizes is not None:
        teacher = ours.teach(seen, seed, steps, growing=True)
        states, masses = ours.weighed(teacher, teacher, starts, at)
        row["teacher, growth"] = wasserstein1(states, wanted, masses)
        student = ours.distil(teacher, seed, student_steps)
        states, masses = ours.weighed(teacher, student, starts, at)
        row["student, growth"] = wasserstein1(states, wanted, masses)
    row["McCann's midpoint"] = wasserstein1(rivals.midpoint(seen, at, seed), wanted)
    found = rivals.torchcfm(seen, starts, [at], seed, steps or 3000)
    row["torchcfm's OT-CFM"] = wasserstein1(found[-1], wanted)
    try:
        row["MIOFlow"] = wasserstein1(rivals.mioflow(seen, starts, [at], seed, epochs, folder)[-1], wanted)
    except (rivals.Unavailable, ImportError) as error:
        print(f"MIOFlow: {error}", flush=True)
    return row


def met(name: str, seed: int, steps: int | None, student_steps: int | None, folder: Path) -> dict[str, float]:
    """Mean W1 over all snapshots but the first, of teachers trained on all of them and of their students."""
    problem = PROBLEMS[name](seed, folder)
    row = {"floor": float(np.mean([floor(rows, seed) for rows in problem.snapshots[1:]]))}
    for label, growing in (("without growth", False), ("with growth", True)):
        if growing and problem.sizes is None:
            continue
        teacher = ours.teach(problem, seed, steps, growing=growing)
        student = ours.distil(teacher, seed, student_steps)
        for kind, model in (("teacher", teacher), ("student", student)):
            row[f"{kind}, {label}"] = float(np.mean(_gaps(problem, teacher, model, growing=growing)))
        if growing:
            starts, end = problem.snapshots[0], problem.times[-1]
            total = ours.weighed(teacher, teacher, starts, end)[1].mean()
            row["size at the end, over the true one"] = float(
                total * len(starts) / len(problem.snapshots[-1])
            )
    return row


def _gaps(problem: Problem, teacher: ours.FlowTeacher, model: object, *, growing: bool) -> list[float]:
    starts = problem.snapshots[0]
    gaps = []
    for rows, at in zip(problem.snapshots[1:], problem.times[1:], strict=True):
        if growing:
            states, masses = ours.weighed(teacher, model, starts, at)
            gaps.append(wasserstein1(states, rows, masses))
        else:
            gaps.append(wasserstein1(_at(model, starts, at), rows))
    return gaps


def _at(model: object, starts: ours.Real, at: float) -> ours.Real:
    """States at one time, from the first snapshot."""
    start = model.clock.start  # type: ignore[attr-defined]
    return ours.followed(model, starts, [start, at])[-1]
