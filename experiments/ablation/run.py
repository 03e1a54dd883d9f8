"""Fits and measures a grid of students of one teacher, with varying terms, observables and generators."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any, TypeAlias

import numpy as np

from koopflow import _core
from koopflow._arrays import Array, as_batch, as_condition, checked_count, to_numpy
from koopflow.exceptions import ArgumentError, DivergenceError
from koopflow.options import Objective
from koopflow.progress import ProgressFunction, ProgressMeter
from koopflow.students.distiller import KoopmanDistiller
from koopflow.students.evaluation import distances
from koopflow.teachers.flow import Flow

from ..tables import Row
from .table import COLUMNS, DESIGN, MEASURES, AblationTable

Terms: TypeAlias = Mapping[str, float] | Sequence[str] | str

PAPER_TERMS = ("consistency", "target", "phase")
"""The terms that the paper's ablation turns on and off (Turan et al., arXiv 2506.22304)."""

EVALUATION_SEED = 900_000_000
"""Seed of the noise that every run is measured on, far from usual seeds of training."""

# Settings determine the results as much as the design does, so every row of a file contains them.
_FILE_COLUMNS = (*COLUMNS, "settings")
# Teachers and data are identified by the teacher's W2, whose last digits differ between machines.
_FINGERPRINT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class _Run:
    """One student to fit: the design of a row, and its seed."""

    name: str
    weights: tuple[tuple[str, float], ...]
    observables: int
    generator: str
    seed: int

    @property
    def design(self) -> Row:
        return {
            "name": self.name,
            "weights": dict(self.weights),
            "observables": self.observables,
            "generator": self.generator,
            "seed": self.seed,
        }

    @property
    def key(self) -> tuple[Any, ...]:
        """The values that identify a finished run: all but its name."""
        return self.weights, self.observables, self.generator, self.seed


def ablate(
    teacher: Flow,
    data: Array,
    *,
    terms: Mapping[str, Terms] | Sequence[Terms] | None = None,
    observables: int | Sequence[int | None] | None = None,
    generators: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = (0,),
    options: Mapping[str, Any] | None = None,
    fit_options: Mapping[str, Any] | None = None,
    condition: Array | None = None,
    n: int = 1000,
    evaluation_seed: int = EVALUATION_SEED,
    csv: str | PathLike[str] | None = None,
    resume: bool = True,
    progress: bool | ProgressFunction = True,
) -> AblationTable:
    """Fit a student for every combination of terms, observables, generator and seed, and measure each.

    The default is the design of the paper's ablation of terms: every combination of at least one of
    ``consistency``, ``target`` and ``phase``, with weight 1 each and all other terms off. The paper's
    ablation of the embedding dimension is a second call with ``observables=[16, 32, 64, 128]``. The paper has
    one lift (``options={"architecture": {"lifts": 1}}``). With two, the one for decoding backwards is trained
    by the ``inverse`` and ``round_trip`` terms alone, and without them the inversion error has no meaning.

    Parameters
    ----------
    teacher : FlowTeacher
        Fitted or attached teacher of every run.
    data : array, ``[N, *event]``
        Held-out data, at least 4 samples, for the scale of the errors and for W2.
    terms : mapping or sequence, optional
        Variants of the loss. A variant is a dictionary of weights, or the names of terms with weight 1; other
        terms have weight 0. The names are those of the ``weights`` of :class:`koopflow.Objective`. A mapping
        names the variants: ``{"all": {"target": 1, "phase": 0.1}, ...}``. The variants of a sequence are
        named after their terms: ``["target", ("target", "phase"), {"phase": 0.1}]``.
    observables : int or sequence of int, optional
        Numbers of learnt observables; None is the default for the dimension.
    generators : str or sequence of str, optional
        Generators, ``"spectral"`` or ``"dense"``; None is the distiller's default.
    seeds : int or sequence of int, default (0,)
        Random seeds, with one run for each.
    options : mapping, optional
        Further arguments of every :class:`koopflow.KoopmanDistiller`: ``{"steps": 2000}``.
    fit_options : mapping, optional
        Further arguments of every :meth:`koopflow.KoopmanDistiller.fit`.
    condition : array, optional
        Labels ``[P]`` or vectors ``[P, dim]`` that training and evaluation draw from, for a conditional
        teacher.
    n : int, default 1000
        Number of noise samples of each evaluation.
    evaluation_seed : int, default 900000000
        Random seed of that noise, the same for every run.
    csv : path, optional
        File to which every finished run is appended, so that a crash loses at most one run.
    resume : bool, default True
        Whether finished runs, including diverged ones, are taken from the file at ``csv``. False overwrites
        the file.
    progress : bool or callable, default True
        Progress bar over the runs, or a function that is called with an event of the stage ``"ablation"``
        after each run: see :mod:`koopflow.progress`.

    Returns
    -------
    AblationTable
        A row for each run, in the order of the grid. A run that diverges has NaN for every measure and the
        reason in ``reason``. After Ctrl-C the finished runs are returned, with a warning.

    Raises
    ------
    TypeError
        If the teacher is not a FlowTeacher, or the distiller does not have an option.
    ArgumentError
        If the grid is empty or out of range, a term is unknown, or the file at ``csv`` has other columns or
        belongs to another teacher or other data.
    TeacherError
        If the teacher's velocity fails or is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from experiments.ablation import ablate
    >>> from koopflow import FlowTeacher
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], np.eye(2))
    >>> table = ablate(
    ...     teacher,
    ...     teacher.sample(400, seed=1),
    ...     terms=["endpoint", ("endpoint", "phase")],
    ...     observables=[4, 8],
    ...     seeds=[0, 1],
    ...     options={"width": 8, "depth": 1, "steps": 5, "trajectories": 64},
    ...     n=100,
    ...     progress=False,
    ... )
    >>> len(table), table[0]["weights"], table[-1]["name"], table[-1]["observables"]
    (8, {'endpoint': 1.0}, 'endpoint + phase', 8)
    >>> summary = table.summary()
    >>> len(summary), summary[0]["runs"], bool(summary[0]["endpoint_error"] > 0)
    (4, 2, True)
    """
    if not isinstance(teacher, Flow):
        raise TypeError(f"teacher: expected a FlowTeacher, got {type(teacher).__name__}")
    options, fit_options = dict(options or {}), dict(fit_options or {})
    n, data = checked_count(n), to_numpy(as_batch(data))
    runs = _grid(teacher, terms=terms, observables=observables, generators=generators, seeds=seeds)
    students = [_student(run, dict(options)) for run in runs]
    pool = as_condition(condition)
    if pool is not None:
        fit_options["condition"] = pool
    asked = None if pool is None else _drawn(pool, n, evaluation_seed)
    settings = json.dumps(
        {
            "options": options,
            "fit_options": sorted(fit_options),
            "n": n,
            "evaluation_seed": evaluation_seed,
        },
        sort_keys=True,
        default=str,
    )

    finished: dict[tuple[Any, ...], Row] = {}
    if csv is not None:
        finished = _opened(fspath(csv), settings, resume=resume)
        _check_teacher(finished.values(), teacher, data, n=n, seed=evaluation_seed, condition=asked)
    rows: list[Row] = []
    interrupted = False
    with ProgressMeter(progress=progress) as meter:
        try:
            for run, student in zip(runs, students, strict=True):
                row = finished.get(run.key)
                if row is None:
                    row = _measured(
                        run, student, teacher, data, fit_options, n=n, seed=evaluation_seed, condition=asked
                    )
                    if csv is not None:
                        _append(fspath(csv), row, settings)
                    finished[run.key] = row
                rows.append({**row, "name": run.name})
                meter(
                    {
                        "stage": "ablation",
                        "step": len(rows),
                        "total": len(runs),
                        "seconds": row["seconds"],
                        "values": {measure: row[measure] for measure in ("endpoint_error", "path_error")},
                    }
                )
        except KeyboardInterrupt:
            interrupted = True
            warnings.warn(
                f"interrupted after {len(rows)} of {len(runs)} runs; the table so far is returned",
                RuntimeWarning,
                stacklevel=2,
            )
    return AblationTable(rows, interrupted=interrupted)


# --- the grid -------------------------------------------------------------------------------------


def _grid(
    teacher: Flow,
    *,
    terms: Mapping[str, Terms] | Sequence[Terms] | None,
    observables: int | Sequence[int | None] | None,
    generators: str | Sequence[str] | None,
    seeds: int | Sequence[int],
) -> list[_Run]:
    defaults = json.loads(_core.student_defaults(int(np.prod(teacher.event_shape))))
    variants = _variants(terms, sorted(defaults["weights"]))
    counts = [defaults["observables"] if k is None else int(k) for k in _listed(observables)]
    kinds = [defaults["generator"] if kind is None else kind for kind in _listed(generators)]
    numbers = [int(seed) for seed in _listed(seeds)]
    axes: dict[str, Sequence[object]] = {
        "terms": variants,
        "observables": counts,
        "generators": kinds,
        "seeds": numbers,
    }
    for name, values in axes.items():
        if not values:
            raise ArgumentError(f"{name}: expected at least one, got none")
    return [
        _Run(name, weights, count, kind, seed)
        for (name, weights), count, kind, seed in itertools.product(variants, counts, kinds, numbers)
    ]


def _listed(values: Any) -> list[Any]:
    return [values] if values is None or isinstance(values, str | int | np.integer) else list(values)


def _variants(
    terms: Mapping[str, Terms] | Sequence[Terms] | None, known: list[str]
) -> list[tuple[str, tuple[tuple[str, float], ...]]]:
    """The variants of the loss as (name, sorted weights that are on)."""
    if terms is None:
        sizes = range(1, len(PAPER_TERMS) + 1)
        terms = [chosen for size in sizes for chosen in itertools.combinations(PAPER_TERMS, size)]
    if isinstance(terms, Mapping):
        named: Iterable[tuple[str | None, Terms]] = terms.items()
    else:
        named = [(None, variant) for variant in ([terms] if isinstance(terms, str) else terms)]
    variants = []
    for name, variant in named:
        weights = _weights(variant)
        unknown = sorted(set(weights) - set(known))
        if unknown:
            raise ArgumentError(f"terms: expected names among {known}, got {unknown}")
        on = tuple(sorted((term, weight) for term, weight in weights.items() if weight != 0.0))
        if not on:
            raise ArgumentError(f"terms: expected at least one weight that is not 0, got {variant!r}")
        variants.append((name or _name(weights), on))
    return variants


def _weights(variant: Terms) -> dict[str, float]:
    if isinstance(variant, Mapping):
        return {term: float(weight) for term, weight in variant.items()}
    return dict.fromkeys([variant] if isinstance(variant, str) else variant, 1.0)


def _name(weights: Mapping[str, float]) -> str:
    on = {term: weight for term, weight in weights.items() if weight != 0.0}
    return " + ".join(term if weight == 1.0 else f"{weight:g} {term}" for term, weight in on.items())


def _student(run: _Run, options: dict[str, Any]) -> KoopmanDistiller:
    """The student of a run, whose options are checked before the first run begins."""
    axes = {"observables": "observables", "generator": "generators", "seed": "seeds"}
    for option, axis in axes.items():
        if option in options:
            raise ArgumentError(f"options: expected no {option!r}, which the ablation sets: use {axis}=")
    objective = Objective.of("objective", options.pop("objective", None))
    if objective.weights is not None:
        raise ArgumentError("options: expected no weights, which the ablation sets: use terms=")
    weights = dict.fromkeys(json.loads(_core.student_defaults(2))["weights"], 0.0) | dict(run.weights)
    return KoopmanDistiller(
        objective=objective.replaced(weights=weights),
        observables=run.observables,
        generator=run.generator,
        seed=run.seed,
        **options,
    )


# --- one run --------------------------------------------------------------------------------------


def _measured(
    run: _Run,
    student: KoopmanDistiller,
    teacher: Flow,
    data: Array,
    fit_options: dict[str, Any],
    *,
    n: int,
    seed: int,
    condition: Array | None,
) -> Row:
    """The row of a run. Raises KeyboardInterrupt if Ctrl-C interrupted it, since it has no result then."""
    try:
        with warnings.catch_warnings():
            # Its message says that the best student is kept, which does not apply here.
            warnings.filterwarnings("ignore", message="interrupted after", category=RuntimeWarning)
            student.fit(teacher, progress=False, **fit_options)
        if student.history_["stopped"] == "interrupted":
            raise KeyboardInterrupt
        report = student.evaluate(teacher, data, n=n, seed=seed, condition=condition)
    except DivergenceError as error:
        return {**run.design, **dict.fromkeys(MEASURES, math.nan), "reason": " ".join(str(error).split())}
    history = student.history_
    return {
        **run.design,
        "endpoint_error": report.endpoint_error,
        "path_error": report.path_error,
        "straight_line_path_error": report.straight_line_path_error,
        "inversion_error": report.inversion_error,
        "round_trip_error": report.round_trip_error,
        "wasserstein2": report.student.wasserstein2,
        "teacher_wasserstein2": report.teacher.wasserstein2,
        "seconds": history["seconds"],
        "steps": history["steps"],
        "teacher_evaluations": history["teacher_evaluations"],
        "reason": "",
    }


def _drawn(pool: Array, n: int, seed: int) -> Array:
    """Conditions of an evaluation, drawn from the pool."""
    return pool[np.random.default_rng(seed).integers(0, len(pool), n)]


# --- the file -------------------------------------------------------------------------------------


def _opened(path: str, settings: str, *, resume: bool) -> dict[tuple[Any, ...], Row]:
    """Prepare the file for appending, and return its finished runs with the same settings."""
    if not resume or not os.path.exists(path) or os.path.getsize(path) == 0:
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(_FILE_COLUMNS)
        return {}
    _drop_broken_line(path)
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _FILE_COLUMNS:
            raise ArgumentError(
                f"csv: expected the columns of an ablation in {path}, got {reader.fieldnames}; "
                "resume=False overwrites the file"
            )
        try:
            rows = [_parsed(line) for line in reader if line["settings"] == settings]
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"csv: {path} holds a line that is not an ablation's: {error}") from error
    return {_key(row): row for row in rows}


def _drop_broken_line(path: str) -> None:
    """Remove an incomplete last line, left by a process that was killed while writing."""
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _append(path: str, row: Row, settings: str) -> None:
    with open(path, "a", newline="", encoding="utf-8") as file:
        cells = {**row, "weights": json.dumps(row["weights"], sort_keys=True), "settings": settings}
        csv.writer(file).writerow([cells[column] for column in _FILE_COLUMNS])
        file.flush()
        os.fsync(file.fileno())


def _parsed(line: dict[str, str]) -> Row:
    row: Row = {column: line[column] for column in (*DESIGN, "reason")}
    row["weights"] = json.loads(line["weights"])
    row["observables"], row["seed"] = int(line["observables"]), int(line["seed"])
    for measure in MEASURES:
        value = float(line[measure])
        whole = measure in ("steps", "teacher_evaluations") and not math.isnan(value)
        row[measure] = int(value) if whole else value
    return {column: row[column] for column in COLUMNS}


def _key(row: Row) -> tuple[Any, ...]:
    weights = tuple(sorted(row["weights"].items()))
    return _Run(row["name"], weights, row["observables"], row["generator"], row["seed"]).key


def _check_teacher(
    finished: Iterable[Row], teacher: Flow, data: Array, *, n: int, seed: int, condition: Array | None
) -> None:
    """Raise ArgumentError for rows of another teacher or other data, whose W2 differs."""
    known = [row["teacher_wasserstein2"] for row in finished if not row["reason"]]
    if not known:
        return
    samples = to_numpy(teacher.sample(x0=_core.normal((n, *teacher.event_shape), seed), condition=condition))
    now = distances(samples, data).wasserstein2
    if not all(math.isclose(now, then, rel_tol=_FINGERPRINT_TOLERANCE) for then in known):
        raise ArgumentError(
            f"csv: expected runs of this teacher and data, whose W2 is {now:.6g}, got runs with "
            f"{known[0]:.6g}; resume=False overwrites the file"
        )
