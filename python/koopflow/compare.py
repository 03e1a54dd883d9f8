"""What to use on a teacher of your own: koopflow's students, solvers and baselines side by side."""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

from . import _core, baselines, metrics
from ._arrays import Array, as_batch, as_condition, checked_count, method_of, to_numpy
from ._tables import text_table, to_frame
from .exceptions import ArgumentError, DivergenceError, ShapeError
from .metrics.errors import PATH_TIMES
from .options import Training
from .progress import ProgressEvent, ProgressFunction, ProgressMeter
from .students.distiller import KoopmanDistiller
from .teachers.flow import Flow, checked_teacher

Row: TypeAlias = dict[str, Any]

# Far from the seeds that people train with, so that the noise of the comparison is fresh.
EVALUATION_SEED = 900_000_000
# An exact assignment of this many samples takes about half a second.
EXACT_SAMPLES = 1_000
# Resamples of the intervals of the teacher's distances.
RESAMPLES = 40
TIMED_RUNS = 3
FEWEST_TRAJECTORIES = 256
TEACHER = "teacher (dopri5)"
COLUMNS = {
    "method": "method",
    "evaluations": "NFE",
    "milliseconds": "ms / 1,000",
    "speedup": "speed-up",
    "energy": "energy distance",
    "wasserstein2": "W2",
    "endpoint_error": "endpoint error",
    "path_error": "path error",
    "inversion_error": "inversion error",
    "fit_seconds": "fit, s",
    "steps": "steps",
    "reason": "",
}
DECIMALS = {"milliseconds": 2, "speedup": 1, "fit_seconds": 1}


def _koopflow(**options: Any) -> Callable[..., Any]:
    # The clock ends training, so held-out evaluations cannot be spread over a known number of steps.
    options |= {"steps": 10**9, "training": Training(evaluate_every=500)}
    return lambda **budget: KoopmanDistiller(**options, **budget)


METHODS: dict[str, Callable[..., Any]] = {
    "Euler, 4 steps": lambda **_: baselines.OdeSolver(solver="euler", steps=4),
    "Euler, 20 steps": lambda **_: baselines.OdeSolver(solver="euler", steps=20),
    "Heun, 10 steps": lambda **_: baselines.OdeSolver(solver="heun", steps=10),
    "koopflow": _koopflow(),
    "koopflow, endpoint": _koopflow(fidelity="endpoint"),
    "koopflow, hierarchy": _koopflow(basis="hierarchy"),
    "koopflow, U-Net": _koopflow(basis="unet"),
    "plain network": baselines.PlainNetwork,
    "KDM": baselines.KDM,
    "mean velocity": baselines.MeanVelocity,
}
"""Functions that make an estimator with a budget: few-step solvers of the teacher, and students of it."""

IMAGES_ONLY = ("koopflow, hierarchy", "koopflow, U-Net")


@dataclass(frozen=True, repr=False)
class Comparison:
    """The table that :func:`koopflow.compare` returns; ``str`` prints it with its advice.

    Attributes
    ----------
    rows : list of dict
        One row for each method, the teacher's first: ``method``; ``evaluations`` (network evaluations of a
        batch), ``milliseconds`` (of 1,000 samples, the best of three runs) and ``speedup`` over the teacher;
        ``energy`` and ``wasserstein2``, distances from the data; ``endpoint_error`` and ``path_error``, RMS
        distances from the teacher's answers to the same noise, over the data's total standard deviation;
        ``inversion_error``, that of recovered noise, over the norm of the noise; ``fit_seconds`` and
        ``steps``; ``reason``, why there are no results. What a method lacks is None.
    limits : dict of str to float
        Upper ends of the 95% intervals of the teacher's ``energy`` and ``wasserstein2``; a method within both
        is as good as the teacher. W2 alone would prefer blurred samples in many dimensions.
    seconds : float
        Training time of each student.
    trajectories, n, seed : int
        Number of training trajectories, number of samples measured, random seed.
    interrupted : bool
        Whether Ctrl-C ended the comparison before the last method.
    """

    rows: list[Row]
    limits: dict[str, float]
    seconds: float
    trajectories: int
    n: int
    seed: int
    interrupted: bool = False

    @property
    def advice(self) -> str:
        """What the rows say to use: the fastest method that is as good as the teacher."""
        measured = [row for row in self.rows[1:] if row["energy"] is not None]
        good = [row for row in measured if row["speedup"] > 1.0]
        for name, limit in self.limits.items():
            good = [row for row in good if row[name] <= limit]
        if not measured:
            return "No method but the teacher has been measured."
        if not good:
            row = min(measured, key=lambda row: row["energy"])
            return (
                f"Keep the teacher, or train for longer than {self.seconds:g} s: nothing faster is as close "
                f"to the data. {row['method']} comes closest, at {row['speedup']:.3g} times the speed."
            )
        best = max(good, key=lambda row: row["speedup"])
        advice = (
            f"Use {best['method']}, at {best['speedup']:.3g} times the teacher's speed: its samples are as "
            f"close to the data as the teacher's, as far as {self.n} samples can tell."
        )
        inverse = [row for row in good if row["inversion_error"] is not None]
        if inverse and best["inversion_error"] is None:
            row = min(inverse, key=lambda row: row["inversion_error"])
            advice += f" To recover noise from data, use {row['method']}, at {row['speedup']:.3g} times."
        return advice

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return {**asdict(self), "advice": self.advice}

    def to_frame(self) -> Any:
        """The rows as a ``pandas.DataFrame`` indexed by method. Raises ``ArgumentError`` without pandas."""
        return to_frame(self.rows, index="method")

    def __str__(self) -> str:
        shown = {c: name for c, name in COLUMNS.items() if any(row[c] is not None for row in self.rows)}
        cut = "Interrupted: not all methods were measured.\n" * self.interrupted
        return (
            f"{self.n} samples of fresh noise, seed {self.seed}; students trained for {self.seconds:g} s on "
            f"{self.trajectories} trajectories\n{text_table(self.rows, shown, decimals=DECIMALS)}\n{cut}"
            f"{self.advice}"
        )

    __repr__ = __str__


def compare(
    teacher: Flow,
    data: Array,
    *,
    methods: Sequence[str] | Mapping[str, Any] | None = None,
    seconds: float = 60.0,
    trajectories: int | None = None,
    condition: Array | None = None,
    n: int = 1000,
    seed: int = 0,
    device: str | None = None,
    progress: bool | ProgressFunction = True,
) -> Comparison:
    """Measure koopflow's students, few-step solvers and other students on one teacher, within a time limit.

    The teacher's trajectories are solved once for all students; each student is then trained for ``seconds``,
    and all methods are measured on the same noise and held-out data. A method that diverges has a row that
    says why. Ctrl-C keeps the finished rows, and a warning says so.

    Parameters
    ----------
    teacher : FlowTeacher
        Fitted or attached teacher.
    data : array, ``[N, *event]``
        Held-out data, at least 8 samples; better twice ``n``.
    methods : sequence of str, or mapping of str to estimator, optional
        ``"Euler, 4 steps"``, ``"Euler, 20 steps"``, ``"Heun, 10 steps"``, ``"koopflow"``, ``"koopflow,
        endpoint"``, ``"plain network"``, ``"KDM"``, ``"mean velocity"``; for images also ``"koopflow,
        hierarchy"`` and ``"koopflow, U-Net"``. Or estimators by name, with ``fit(teacher)`` and
        ``sample(x0=...)``, which keep time limits of their own. None takes all but ``"koopflow, endpoint"``.
    seconds : float, default 60
        Training time of each student.
    trajectories : int, optional
        Number of trajectories; None takes a student's default, or as many as are solved in ``seconds``.
    condition : array, optional
        Labels ``[P]`` or vectors ``[P, dim]`` to train and measure with, for a conditional teacher.
    n : int, default 1000
        Number of noise samples to measure.
    seed : int, default 0
        Random seed of students and noise. Training ends by the clock, so results vary a little.
    device : str, optional
        Device of the students; the teacher's by default.
    progress : bool or callable, default True
        A bar, nothing, or a function that is called after each method: see :mod:`koopflow.progress`.

    Raises
    ------
    TypeError, ShapeError, ArgumentError
        When the teacher is not a FlowTeacher, the data do not have its shape, a method is unknown, or an
        option is out of its range.
    TeacherError
        When the teacher's velocity fails, or is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from koopflow import FlowTeacher, compare
    >>> teacher = FlowTeacher.gaussian([1.0, -1.0], np.eye(2))
    >>> data = np.random.default_rng(0).normal([1.0, -1.0], 1.0, (200, 2))
    >>> table = compare(teacher, data, methods=["Euler, 4 steps"], n=100, progress=False)
    >>> table.rows[1]["method"], table.rows[1]["evaluations"]
    ('Euler, 4 steps', 4)
    """
    n, shape, held_out = (
        checked_count(n),
        checked_teacher(teacher).event_shape_,
        to_numpy(as_batch(data, "data")),
    )
    if held_out.shape[1:] != shape or len(held_out) < 8:
        raise ShapeError(f"data: expected at least 8 samples of shape {shape}, got an array {held_out.shape}")
    if not 0.0 < seconds < float("inf"):
        raise ArgumentError(f"seconds: expected a finite number above 0, got {seconds!r}")
    models = _models(methods, images=len(shape) == 3)
    pool = as_condition(condition)
    asked = None if pool is None else pool[np.random.default_rng(seed).integers(0, len(pool), n)]
    reference = _Reference(teacher, n, held_out, asked, seed)
    if trajectories is None:
        default = json.loads(_core.student_defaults(int(np.prod(shape))))["trajectories"]
        solved = 1e6 * seconds / reference.own["milliseconds"]
        trajectories = min(default, max(FEWEST_TRAJECTORIES, int(solved)))
    device = teacher.field.device if device is None else device
    budget: dict[str, Any] = {"trajectories": trajectories, "seed": seed, "device": device}
    rows, interrupted, started = [reference.own], False, time.perf_counter()
    with ProgressMeter(progress=progress) as meter, tempfile.TemporaryDirectory() as folder:
        fit: dict[str, Any] = {"condition": pool, "trajectory_file": Path(folder) / "all", "progress": False}
        try:
            for step, (name, make) in enumerate(models.items(), 1):
                known = make in METHODS.values()
                own = _unet_of(teacher, name) if known else {}
                model = make(**budget, **own, max_seconds=seconds) if known else make
                learns = known and not isinstance(model, baselines.OdeSolver)
                if learns and not fit["trajectory_file"].exists():
                    # Solved before the first student, so that none of them pays for it.
                    _fitted(KoopmanDistiller(steps=1, **budget), teacher, fit)
                rows.append(_row(name, model, reference, fit if known else {}))
                passed = time.perf_counter() - started
                meter(ProgressEvent(stage="compare", step=step, total=len(models), seconds=passed, values={}))
        except KeyboardInterrupt:
            interrupted = True
            text = f"interrupted after {len(rows) - 1} of {len(models)} methods; the table so far is returned"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
    return Comparison(rows, reference.limits(), float(seconds), trajectories, n, seed, interrupted)


def _models(methods: Sequence[str] | Mapping[str, Any] | None, *, images: bool) -> dict[str, Any]:
    """Functions in METHODS, or estimators, by name."""
    if isinstance(methods, Mapping):
        for name, model in methods.items():
            for method in ("fit", "sample"):
                method_of(f"methods[{name!r}]", model, method)
        return dict(methods)
    if methods is None:
        left_out = ("koopflow, endpoint", *(() if images else IMAGES_ONLY))
        return {name: make for name, make in METHODS.items() if name not in left_out}
    names = [methods] if isinstance(methods, str) else list(methods)
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ArgumentError(f"methods: expected names among {list(METHODS)}, got {unknown}")
    return {name: METHODS[name] for name in names}


def _unet_of(teacher: Flow, name: str) -> dict[str, Any]:
    """The U-Net of a native teacher as options of an image student; the hierarchy begins with its weights."""
    network = getattr(teacher, "network", "mlp") if teacher.field.kind == "network" else "mlp"
    if name not in IMAGES_ONLY or network == "mlp":
        return {}
    return {"unet": None if network == "unet" else network, "warm_start": name == "koopflow, hierarchy"}


class _Reference:
    """The teacher's answers to fixed noise, computed once; metrics of errors take them for the teacher."""

    def __init__(self, teacher: Flow, n: int, held_out: Any, condition: Array | None, seed: int) -> None:
        self.teacher, self.held_out, self.condition, self.seed = teacher, held_out, condition, seed
        self.noise = _core.normal((n, *teacher.event_shape_), EVALUATION_SEED + seed)
        times = [0.0, *PATH_TIMES, 1.0]
        path = to_numpy(teacher.trajectory(self.noise, times=times, condition=condition))
        self.answers = SimpleNamespace(sample=lambda **_: path[-1], trajectory=lambda *_, **__: path)
        self.scale = _core.total_std(held_out)
        if self.scale == 0.0:
            raise ArgumentError("data: expected samples that are not all equal")
        self.exact = min(n, len(held_out), EXACT_SAMPLES)
        self.own = self.measured(TEACHER, teacher)

    def measured(self, name: str, model: Any) -> Row:
        """The row of a fitted model, or of the teacher itself."""
        before, times = getattr(model, "evaluations", None), [time.perf_counter()]
        for _ in range(1 + TIMED_RUNS):
            samples = to_numpy(model.sample(x0=self.noise, condition=self.condition))
            times.append(time.perf_counter())
        row: Row = {**dict.fromkeys(COLUMNS), "method": name}
        if before is not None:
            row["evaluations"] = (model.evaluations - before) // (1 + TIMED_RUNS)
        # The first run warms up.
        row["milliseconds"] = 1e6 * float(np.diff(times)[1:].min()) / len(samples)
        row["energy"] = metrics.energy_distance(samples, self.held_out)
        row["wasserstein2"] = metrics.wasserstein2(samples[: self.exact], self.held_out[: self.exact])
        # The interval of an error is not shown: two resamples are the fewest.
        given: dict[str, Any] = {"condition": self.condition, "resamples": 2}
        scaled: dict[str, Any] = {**given, "scale": self.scale}
        row["endpoint_error"] = metrics.endpoint_error(model, self.answers, self.noise, **scaled).value
        if getattr(model, "has_path", hasattr(model, "sample_path")):
            row["path_error"] = metrics.path_error(model, self.answers, self.noise, **scaled).value
        if getattr(model, "has_inverse", hasattr(model, "invert")):
            row["inversion_error"] = metrics.inversion_error(model, self.answers, self.noise, **given).value
        own = row if name == TEACHER else self.own
        return {**row, "speedup": own["milliseconds"] / row["milliseconds"]}

    def limits(self) -> dict[str, float]:
        """The upper ends of the 95% intervals of the teacher's distances."""
        ends, limits = self.answers.sample(), {}
        distances = {
            "energy": (metrics.energy_distance, ends, self.held_out),
            "wasserstein2": (metrics.wasserstein2, ends[: self.exact], self.held_out[: 2 * self.exact]),
        }
        for name, measured in distances.items():
            estimate = metrics.measured(*measured, resamples=RESAMPLES, seed=self.seed)
            limits[name] = float(self.own[name] + estimate.high - estimate.value)
        return limits


def _fitted(model: Any, teacher: Flow, options: Mapping[str, Any]) -> dict[str, Any]:
    """Fits a model and returns its history; raises KeyboardInterrupt if Ctrl-C cut the fit short."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="interrupted after", category=RuntimeWarning)
        model.fit(teacher, **options)
    history: dict[str, Any] = getattr(model, "history_", None) or {}
    if history.get("stopped") == "interrupted":
        raise KeyboardInterrupt
    return history


def _row(name: str, model: Any, reference: _Reference, options: Mapping[str, Any]) -> Row:
    """Fit one method and measure it."""
    started = time.perf_counter()
    try:
        steps = _fitted(model, reference.teacher, options).get("steps")
        spent = {"fit_seconds": time.perf_counter() - started, "steps": steps} if steps else {}
        return {**reference.measured(name, model), **spent}
    except DivergenceError as error:
        return {**dict.fromkeys(COLUMNS), "method": name, "reason": " ".join(str(error).split())}
