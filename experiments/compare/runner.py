"""Runs every method on every problem and seed. Each problem and seed is one part of the table."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from koopflow import _core
from koopflow._arrays import checked_count
from koopflow.exceptions import ArgumentError, DivergenceError
from koopflow.progress import ProgressFunction, ProgressMeter
from koopflow.students.distiller import KoopmanDistiller
from koopflow.teachers.reflow import reflow

from ..tables import Row
from .intervals import teacher_interval
from .measure import Reference, measured
from .methods import METHODS, TEACHER, Budget, Method, methods_for
from .problems import Problem, problem
from .table import MEASURES, ComparisonTable

PROBLEMS = ("moons/ot", "eight_gaussians/independent", "checkerboard/vp", "swiss_roll/ot")
"""Default problems: every two-dimensional set and every kind of teacher."""


@dataclass(frozen=True)
class Settings:
    """All settings, other than problem and seed, that determine the values of a part."""

    methods: tuple[str, ...] | None
    seconds: float | None
    steps: int | None
    trajectories: int | None
    teacher_steps: int | None
    n: int
    device: str

    def budgets(self, method: Method) -> list[Budget | None]:
        """The budgets with which a method is trained."""
        if not method.trains:
            return [None]
        budgets: list[Budget | None] = []
        if self.seconds is not None:
            budgets.append(Budget(seconds=self.seconds))
        if self.steps is not None and method.by_steps:
            budgets.append(Budget(steps=self.steps))
        return budgets


def compare(
    problems: str | Sequence[str] = PROBLEMS,
    *,
    methods: Sequence[str] | None = None,
    seconds: float | None = 6.0,
    steps: int | None = 800,
    seeds: int | Sequence[int] = (0, 1, 2),
    trajectories: int | None = 16_384,
    teacher_steps: int | None = None,
    n: int = 1000,
    device: str = "cpu",
    output: str | PathLike[str] | None = None,
    resume: bool = True,
    progress: bool | ProgressFunction = True,
) -> ComparisonTable:
    """Compare koopflow's students with alternative methods.

    For every problem and seed a teacher is trained, its trajectories are solved once for all methods, and
    each method is fitted to it and measured on the same noise and held-out data.

    Parameters
    ----------
    problems : str or sequence of str, optional
        Names ``set/teacher``. Sets are ``moons``, ``eight_gaussians``, ``checkerboard``, ``swiss_roll``,
        ``digits``, ``digits16`` (images of 16x16) and ``files:<path>`` for anything that
        :func:`koopflow.datasets.images` reads, such as MNIST. Teachers are ``ot`` and, with curved paths,
        ``independent`` and ``vp``.
    methods : sequence of str, optional
        Names in :data:`experiments.compare.METHODS`. None takes all that apply to the problem: reflow only
        for curved paths and U-Nets only for images. ``"koopflow, endpoint"`` and ``"koopflow, 4 segments"``
        are compared only by name.
    seconds : float, optional, default 6.0
        Training time of each student, without the shared trajectories. Segments share it, including their own
        trajectories. None omits this comparison.
    steps : int, optional, default 800
        Number of training steps of each distilled one-step student, in a second comparison. None omits it.
    seeds : int or sequence of int, default (0, 1, 2)
        Random seeds of data, teacher, student and evaluation noise.
    trajectories : int, optional, default 16384
        Number of the teacher's trajectories for training; None is each student's default.
    teacher_steps : int, optional
        Number of training steps of teachers, including the one after reflow; None is their default.
    n : int, default 1000
        Number of noise samples of an evaluation.
    device : str, default "cpu"
        Device of teachers and students.
    output : path, optional
        Folder to which each finished problem and seed is written.
    resume : bool, default True
        Whether parts of an earlier call with the same settings are taken from ``output``.
    progress : bool or callable, default True
        Progress bar over the fits, or a function that is called with an event of the stage ``"compare"``
        after each fit: see :mod:`koopflow.progress`.

    Returns
    -------
    ComparisonTable
        A row for each problem, seed, method, budget and number of sampling steps. A method that diverges has
        NaN for every measure and the reason in ``reason``. After Ctrl-C the finished parts are returned, with
        a warning.

    Raises
    ------
    ArgumentError
        If there is no such problem or method, or ``output`` holds parts with other settings.
    """
    chosen = [problem(name) for name in ([problems] if isinstance(problems, str) else problems)]
    numbers = [seeds] if isinstance(seeds, int) else [int(seed) for seed in seeds]
    if not chosen or not numbers:
        raise ArgumentError("problems, seeds: expected at least one of each")
    settings = Settings(
        _known(methods), seconds, steps, trajectories, teacher_steps, checked_count(n), device
    )
    folder = None if output is None else Path(output)
    rows: list[Row] = []
    curves: list[dict[str, Any]] = []
    interrupted = False
    pairs = [(each, seed) for each in chosen for seed in numbers]
    with ProgressMeter(progress=progress) as meter:
        for done, (each, seed) in enumerate(pairs):
            file = None if folder is None else folder / "parts" / f"{each.file_name}-{seed}.json"
            part = _stored(file, settings) if resume and file is not None else None
            try:
                with warnings.catch_warnings():
                    # Ignore the warning of an interrupted fit; that of the whole comparison follows below.
                    warnings.filterwarnings("ignore", message="interrupted after", category=RuntimeWarning)
                    part = part or _part(each, seed, settings, _Report(meter, done, len(pairs)))
            except KeyboardInterrupt:
                interrupted = True
                warnings.warn(
                    f"interrupted after {done} of {len(pairs)} parts; the table so far is returned",
                    RuntimeWarning,
                    stacklevel=2,
                )
                break
            if file is not None:
                _store(file, part)
            rows += part["rows"]
            curves += part["curves"]
    return ComparisonTable(rows, curves=curves, settings=asdict(settings), interrupted=interrupted)


def _known(methods: Sequence[str] | None) -> tuple[str, ...] | None:
    if methods is None:
        return None
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise ArgumentError(f"methods: expected names among {sorted(METHODS)}, got {unknown}")
    # The teacher is always measured, since everything is compared with it.
    return tuple(dict.fromkeys([TEACHER, *methods]))


@dataclass
class _Report:
    """Reports the progress within a part of the comparison."""

    meter: ProgressMeter
    done: int
    total: int

    def __call__(self, share: float, seconds: float) -> None:
        self.meter(
            {
                "stage": "compare",
                "step": round(100 * (self.done + share)),
                "total": 100 * self.total,
                "seconds": seconds,
                "values": {},
            }
        )

    def note(self, text: str) -> None:
        """Report a finished part on its own line."""
        step, total = round(100 * (self.done + 1)), 100 * self.total
        self.meter(
            {"stage": "compare", "step": step, "total": total, "seconds": 0.0, "values": {}, "note": text}
        )


def _part(each: Problem, seed: int, settings: Settings, report: _Report) -> dict[str, Any]:
    """All rows of one problem and seed."""
    started = time.perf_counter()
    data, held_out = each.data(seed)
    options = {} if settings.teacher_steps is None else {"steps": settings.teacher_steps}
    teacher = each.teacher(data, seed, device=settings.device, **options).fit(data, progress=False)
    _check_whole(teacher.history_)
    reference = Reference.of(teacher, held_out, settings.n, seed)
    interval = teacher_interval(reference, seed)
    straight: tuple[Any, Reference, float] | None = None
    rows: list[Row] = []
    curves: list[dict[str, Any]] = []
    if settings.methods is None:
        methods = methods_for(each, images=held_out.ndim == 4)
    else:
        methods = [METHODS[name] for name in settings.methods]
    with tempfile.TemporaryDirectory() as folder:
        for index, method in enumerate(methods):
            against, prepared, files = reference, 0.0, Path(folder) / "original.safetensors"
            if method.straightened:
                if straight is None:
                    before = time.perf_counter()
                    flow = reflow(teacher, pairs=settings.trajectories, seed=seed, progress=False, **options)
                    _check_whole(flow.history_)
                    straight = flow, reference.of_teacher(flow), time.perf_counter() - before
                _, against, prepared = straight
                files = Path(folder) / "reflowed.safetensors"
            for budget in settings.budgets(method):
                for row, curve in _fitted(method, budget, seed, settings, against, reference, data, files):
                    design = {"problem": each.name, "seed": seed, "curved": each.curved, **row}
                    rows.append({**_complete(design), **interval, "preparation_seconds": prepared})
                    curves += [{"problem": each.name, "seed": seed, **curve}] if curve else []
            report((index + 1) / len(methods), time.perf_counter() - started)
    report.note(f"{each.name}, seed {seed}: {time.perf_counter() - started:.0f} s")
    teachers = next(row for row in rows if row["method"] == TEACHER)
    for row in rows:
        row["w2_over_teacher"] = row["wasserstein2"] / teachers["wasserstein2"]
        row["speedup"] = teachers["milliseconds"] / row["milliseconds"]
    return {"settings": asdict(settings), "rows": rows, "curves": curves}


def _fitted(
    method: Method,
    budget: Budget | None,
    seed: int,
    settings: Settings,
    reference: Reference,
    original: Reference,
    data: Any,
    files: Path,
) -> Iterator[tuple[Row, dict[str, Any] | None]]:
    """The rows of one method under one budget: one for each number of sampling steps."""
    options: dict[str, Any] = {"seed": seed, "device": settings.device}
    given: dict[str, Any] = {"progress": False}
    if budget is not None:
        options |= budget.options()
    if method.distils:
        options |= {} if settings.trajectories is None else {"trajectories": settings.trajectories}
        given |= {} if method.segments > 1 else {"trajectory_file": files}
    elif method.trains:
        given["data"] = data
    name = {"method": method.name, "budget": "" if budget is None else budget.name}
    try:
        student = method.make(**options)
        if "trajectory_file" in given and not files.exists():
            _solve(student, reference, files, settings)
        spent = {}
        if method.trains:
            started = time.perf_counter()
            student.fit(reference.teacher, **given)
            _check_whole(student.history_)
            spent = {"fit_seconds": time.perf_counter() - started, "steps": student.history_["steps"]}
        else:
            student.fit(reference.teacher)
        for count in method.steps:
            steps = None if method.steps == (1,) else count
            numbers, curve = measured(student, reference, original, steps=steps)
            label = method.name if count == 1 else f"{method.name}, {count} steps"
            yield {**name, "method": label, **spent, **numbers}, {**name, **curve} if curve else None
    except DivergenceError as error:
        yield {**name, "reason": " ".join(str(error).split())}, None


def _solve(student: Any, reference: Reference, files: Path, settings: Settings) -> None:
    """Write the trajectories that all students share, so that no student's time includes them."""
    counts: dict[str, Any] = {} if settings.trajectories is None else {"trajectories": settings.trajectories}
    one_step = KoopmanDistiller(steps=1, seed=student.seed, device=settings.device, **counts)
    one_step.fit(reference.teacher, trajectory_file=files, progress=False)
    _check_whole(one_step.history_)


def _check_whole(history: Mapping[str, Any]) -> None:
    """Raise KeyboardInterrupt if Ctrl-C ended a fit early, since an incomplete part is not a result."""
    if history["stopped"] == "interrupted":
        raise KeyboardInterrupt


def _complete(row: Row) -> Row:
    """A row with every column, NaN if it was not measured."""
    return {
        **{name: row.get(name) for name in ("problem", "method", "budget", "seed", "curved")},
        **{name: float(row.get(name, math.nan)) for name in MEASURES},
        "reason": row.get("reason", ""),
    }


# --- parts ----------------------------------------------------------------------------------------


def _stored(file: Path, settings: Settings) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        part: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        before = part["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArgumentError(f"output: {file} is not a part of a comparison: {error}") from error
    if before != json.loads(json.dumps(asdict(settings))):
        raise ArgumentError(f"output: {file} was made with other settings; resume=False replaces it")
    return part


def _store(file: Path, part: dict[str, Any]) -> None:
    """Write a part atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _core._write_atomically(os.fspath(file), (json.dumps(part, indent=1) + "\n").encode())
