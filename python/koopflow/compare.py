"""A comparison of koopflow's students, few-step solvers and baselines on a given teacher."""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from . import _core, baselines, metrics
from ._arrays import Array, as_batch, as_condition, as_integer, as_seed, checked_count, method_of, to_numpy
from ._tables import text_table, to_frame
from .exceptions import ArgumentError, DivergenceError, ShapeError
from .metrics.errors import PATH_TIMES, path_of, recovery
from .options import Training
from .progress import ProgressEvent, ProgressFunction, ProgressMeter
from .students.distiller import KoopmanDistiller
from .students.evaluation import timed
from .students.segmented import SegmentedDistiller
from .teachers.flow import Flow, checked_teacher

Row: TypeAlias = dict[str, Any]

# Far from usual seeds of training, so that the noise of the comparison is new to all methods.
EVALUATION_SEED = 900_000_000
# An exact assignment of this many samples takes about half a second.
EXACT_SAMPLES = 1_000
# Number of resamples for the intervals of the teacher's distances.
RESAMPLES = 40
TIMED_RUNS = 3
FEWEST_TRAJECTORIES = 256
TEACHER = "teacher (dopri5)"
# Results after less than this fraction of a student's default number of steps say little about a method.
ENOUGH = 0.25
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
    def made(*, steps: int | None, **budget: Any) -> KoopmanDistiller:
        # Training that is limited by time has no known number of steps to spread held-out evaluations over.
        training = Training(evaluate_every=500) if steps is None else None
        return KoopmanDistiller(**options, **budget, steps=steps or 10**9, training=training)

    return made


def _segments(count: int) -> Callable[..., Any]:
    """A function that makes ``count`` segments, which share the budget of one student."""

    def made(*, steps: int | None, max_seconds: float | None, **options: Any) -> SegmentedDistiller:
        each = {
            "steps": None if steps is None else max(1, steps // count),
            "max_seconds": None if max_seconds is None else max_seconds / count,
        }
        return SegmentedDistiller(count, student=_koopflow()(**options, **each))

    return made


METHODS: dict[str, Callable[..., Any]] = {
    "Euler, 4 steps": lambda **_: baselines.OdeSolver(solver="euler", steps=4),
    "Euler, 20 steps": lambda **_: baselines.OdeSolver(solver="euler", steps=20),
    "AB2, 4 steps": lambda **_: baselines.OdeSolver(solver="ab2", steps=4),
    "AB3, 8 steps": lambda **_: baselines.OdeSolver(solver="ab3", steps=8),
    "Heun, 10 steps": lambda **_: baselines.OdeSolver(solver="heun", steps=10),
    "koopflow": _koopflow(),
    "koopflow, endpoint": _koopflow(fidelity="endpoint"),
    "koopflow, 2 segments": _segments(2),
    "koopflow, 4 segments": _segments(4),
    "koopflow, hierarchy": _koopflow(basis="hierarchy"),
    "koopflow, U-Net": _koopflow(basis="unet"),
    "plain network": baselines.PlainNetwork,
    "KDM": baselines.KDM,
    "mean velocity": baselines.MeanVelocity,
}
"""Functions that make an estimator for a given budget: few-step solvers of the teacher, and its students."""

IMAGES_ONLY = ("koopflow, hierarchy", "koopflow, U-Net")
BY_NAME_ONLY = ("koopflow, endpoint", "koopflow, 4 segments")


@dataclass(frozen=True, repr=False)
class Comparison:
    """The table that :func:`koopflow.compare` returns; ``str`` gives it as text, with advice.

    Attributes
    ----------
    rows : list of dict
        One row for each method, the teacher's first. A value that a method does not have is None.

        - ``method``: its name;
        - ``evaluations``: number of network evaluations of a batch;
        - ``milliseconds``: time of 1,000 samples, the best of three runs;
        - ``speedup``: ratio of the teacher's time to the method's;
        - ``energy``, ``wasserstein2``: distances of the samples from the data;
        - ``endpoint_error``, ``path_error``: RMS distances from the teacher's samples and paths of the same
          noise, divided by the data's total standard deviation;
        - ``inversion_error``: RMS error of the recovered noise, divided by the norm of the noise;
        - ``fit_seconds``, ``steps``: time and steps of training;
        - ``reason``: why there are no results, or why they say little.
    limits : dict of str to float
        Upper ends of the 95% intervals of the teacher's ``energy`` and ``wasserstein2``. A method below both
        counts as being as good as the teacher. W2 alone would favour blurred samples in many dimensions.
    seconds, steps : float or None, int or None
        Training budget of each student, as a time or a number of steps.
    trajectories, n, seed : int
        Number of training trajectories, number of samples measured, random seed.
    interrupted : bool
        Whether Ctrl-C ended the comparison before the last method.
    """

    rows: list[Row]
    limits: dict[str, float]
    seconds: float | None
    trajectories: int
    n: int
    seed: int
    interrupted: bool = False
    steps: int | None = None

    @property
    def advice(self) -> str:
        """The recommendation: the fastest method that is as good as the teacher, if there is one."""
        measured = [row for row in self.rows[1:] if row["energy"] is not None]
        good = [row for row in measured if row["speedup"] > 1.0]
        good = [row for row in good if all(row[name] <= limit for name, limit in self.limits.items())]
        inverse = [row for row in good if row["inversion_error"] is not None]
        if not measured:
            return "No method but the teacher has been measured."
        if good:
            best = max(good, key=lambda row: row["speedup"])
            advice = (
                f"Use {best['method']}, at {best['speedup']:.3g} times the teacher's speed: its samples are "
                f"as close to the data as the teacher's, as far as {self.n} samples can tell."
            )
        else:
            best = min(measured, key=lambda row: row["energy"])
            advice = (
                f"Keep the teacher, or train for longer than {self._training}: nothing faster is as close "
                f"to the data. {best['method']} comes closest, at {best['speedup']:.3g} times the speed."
            )
        if inverse and best["inversion_error"] is None:
            row = min(inverse, key=lambda row: row["inversion_error"])
            advice += f" To recover noise from data, use {row['method']}, at {row['speedup']:.3g} times."
        if early := [row["method"] for row in measured if row["reason"] and row not in good]:
            advice += f" Too few steps to judge {', '.join(early)}: train for longer."
        return advice

    @property
    def _training(self) -> str:
        return f"{self.steps} steps" if self.seconds is None else f"{self.seconds:g} s"

    def to_dict(self) -> dict[str, Any]:
        """All fields and the advice as plain values, for JSON."""
        return {**asdict(self), "advice": self.advice}

    def to_frame(self) -> Any:
        """The rows as a ``pandas.DataFrame`` indexed by method. Raises ``ArgumentError`` without pandas."""
        return to_frame(self.rows, index="method")

    def __str__(self) -> str:
        shown = {c: name for c, name in COLUMNS.items() if any(row[c] is not None for row in self.rows)}
        cut = "Interrupted: not all methods were measured.\n" * self.interrupted
        return (
            f"{self.n} samples of fresh noise, seed {self.seed}; students trained for {self._training} on "
            f"{self.trajectories} trajectories\n{text_table(self.rows, shown, decimals=DECIMALS)}\n{cut}"
            f"{self.advice}"
        )

    __repr__ = __str__


def compare(
    teacher: Flow,
    data: Array,
    *,
    methods: Sequence[str] | Mapping[str, Any] | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    trajectories: int | None = None,
    condition: Array | None = None,
    n: int = 1000,
    seed: int = 0,
    device: str | None = None,
    progress: bool | ProgressFunction = True,
) -> Comparison:
    """Compare koopflow's students, few-step solvers and other students on one teacher, with equal training.

    The teacher's trajectories are solved once for all students. Each student is then trained for ``seconds``
    or ``steps``, and all methods are measured on the same noise and held-out data. The segments of one method
    share its budget, which includes solving their own trajectories. A method that diverges gets a row with
    the reason. A method trained for less than a quarter of koopflow's default number of steps is marked in
    its row and in the advice. After Ctrl-C the finished rows are returned, with a warning.

    Parameters
    ----------
    teacher : FlowTeacher
        Fitted or attached teacher.
    data : array, ``[N, *event]``
        Held-out data: at least 8 samples, preferably twice ``n``.
    methods : sequence of str, or mapping of str to estimator, optional
        Names of methods: ``"Euler, 4 steps"``, ``"Euler, 20 steps"``, ``"AB2, 4 steps"``, ``"AB3, 8 steps"``,
        ``"Heun, 10 steps"``, ``"koopflow"``, ``"koopflow, endpoint"``, ``"koopflow, 2 segments"``,
        ``"koopflow, 4 segments"``, ``"plain network"``, ``"KDM"``, ``"mean velocity"``, and for images also
        ``"koopflow, hierarchy"`` and ``"koopflow, U-Net"``. None takes all but ``"koopflow, endpoint"`` and
        ``"koopflow, 4 segments"``. A mapping of names to estimators with ``fit(teacher)`` and
        ``sample(x0=...)`` is accepted too. They are trained with their own options, and fitted ones are
        measured as they are.
    seconds : float, optional
        Training time of each student in seconds; 60 by default, unless ``steps`` is given.
    steps : int, optional
        Number of training steps of each student, in place of a time. Errors and distances of a seed are then
        the same in every run on one machine; with a time they vary a little.
    trajectories : int, optional
        Number of trajectories. None takes a student's default, but no more than can be solved in ``seconds``
        or used in ``steps``.
    condition : array, optional
        Labels ``[P]`` or vectors ``[P, dim]`` for training and measuring, for a conditional teacher.
    n : int, default 1000
        Number of noise samples to measure.
    seed : int, default 0
        Random seed of the students and of the noise.
    device : str, optional
        Device of the students; by default the teacher's.
    progress : bool or callable, default True
        Progress bar, or a function that is called after each method: see :mod:`koopflow.progress`.

    Raises
    ------
    TypeError
        If ``teacher`` is not a teacher.
    ShapeError
        If the data do not have the shape of the teacher's samples.
    ArgumentError
        If a method is unknown or an option is outside its range.
    TeacherError
        If the velocity fails.

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
    n, seed = as_integer(n, "n", least=2), as_seed(seed)
    shape, held_out = checked_teacher(teacher).event_shape_, to_numpy(as_batch(data, "data"))
    if held_out.shape[1:] != shape or len(held_out) < 8:
        raise ShapeError(f"data: expected at least 8 samples of shape {shape}, got an array {held_out.shape}")
    if steps is not None and seconds is not None:
        raise ArgumentError(f"steps: expected None with seconds={seconds!r}, got {steps!r}")
    steps = None if steps is None else checked_count(steps, "steps")
    seconds = 60.0 if steps is None and seconds is None else seconds
    if seconds is not None and not 0.0 < seconds < float("inf"):
        raise ArgumentError(f"seconds: expected a finite number above 0, got {seconds!r}")
    models = _models(methods, images=len(shape) == 3)
    pool = as_condition(condition)
    asked = None if pool is None else pool[np.random.default_rng(seed).integers(0, len(pool), n)]
    reference = _Reference(teacher, n, held_out, asked, seed)
    defaults = json.loads(_core.student_defaults(int(np.prod(shape))))
    if trajectories is None:
        used = (steps or 0) * defaults["batch_size"]
        solved = used if seconds is None else 1e6 * seconds / reference.own["milliseconds"]
        trajectories = min(defaults["trajectories"], max(FEWEST_TRAJECTORIES, int(solved)))
    device = teacher.field.device if device is None else device
    shared: dict[str, Any] = {"trajectories": trajectories, "seed": seed, "device": device}
    budget = {"max_seconds": seconds, "steps": steps}
    rows, interrupted, started = [reference.own], False, time.perf_counter()
    with ProgressMeter(progress=progress) as meter, tempfile.TemporaryDirectory() as folder:
        fit: dict[str, Any] = {"condition": pool, "trajectory_file": Path(folder) / "all", "progress": False}
        try:
            for step, (name, make) in enumerate(models.items(), 1):
                known = make in METHODS.values()
                model = make(**shared, **budget, **_unet_of(teacher, name)) if known else make
                given = fit if known else {}
                learns = known and not isinstance(model, baselines.OdeSolver)
                if learns and isinstance(model, SegmentedDistiller):
                    # Each segment solves its own trajectories.
                    given = {key: value for key, value in fit.items() if key != "trajectory_file"}
                elif learns and not fit["trajectory_file"].exists():
                    # Trajectories are solved before the first student, so that they count for no student.
                    _fitted(KoopmanDistiller(steps=1, **shared), teacher, fit)
                row = _row(name, model, reference, given)
                if learns and row["steps"] and row["steps"] < ENOUGH * defaults["steps"]:
                    row["reason"] = f"few steps: {defaults['steps']} are the default"
                rows.append(row)
                passed = time.perf_counter() - started
                meter(ProgressEvent(stage="compare", step=step, total=len(models), seconds=passed, values={}))
        except KeyboardInterrupt:
            interrupted = True
            text = f"interrupted after {len(rows) - 1} of {len(models)} methods; the table so far is returned"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
    return Comparison(rows, reference.limits(), seconds, trajectories, n, seed, interrupted, steps)


def _models(methods: Sequence[str] | Mapping[str, Any] | None, *, images: bool) -> dict[str, Any]:
    """The methods to compare by name: functions of METHODS, or estimators."""
    if isinstance(methods, Mapping):
        for name, model in methods.items():
            for method in ("fit", "sample"):
                method_of(f"methods[{name!r}]", model, method)
        return dict(methods)
    if methods is None:
        left_out = (*BY_NAME_ONLY, *(() if images else IMAGES_ONLY))
        return {name: make for name, make in METHODS.items() if name not in left_out}
    names = [methods] if isinstance(methods, str) else list(methods)
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ArgumentError(f"methods: expected names among {list(METHODS)}, got {unknown}")
    return {name: METHODS[name] for name in names}


def _unet_of(teacher: Flow, name: str) -> dict[str, Any]:
    """The U-Net of a native teacher as options of an image student; a hierarchy starts from its weights."""
    network = getattr(teacher, "network", "mlp") if teacher.field.kind == "network" else "mlp"
    if name not in IMAGES_ONLY or network == "mlp":
        return {}
    return {"unet": None if network == "unet" else network, "warm_start": name == "koopflow, hierarchy"}


class _Reference:
    """The teacher's paths of fixed noise, computed once, against which the other methods are measured."""

    def __init__(self, teacher: Flow, n: int, held_out: Any, condition: Array | None, seed: int) -> None:
        self.teacher, self.held_out, self.condition, self.seed = teacher, held_out, condition, seed
        drawn = (EVALUATION_SEED + seed) % 2**64
        self.noise = teacher.field.source.draw(n, drawn, condition=condition)
        shares = [0.0, *PATH_TIMES, 1.0]
        self.path = to_numpy(path_of("teacher", teacher, self.noise, shares, condition))
        self.ends, self.scale = self.path[-1], _core.total_std(held_out)
        if self.scale == 0.0:
            raise ArgumentError("data: expected samples that are not all equal, got equal ones")
        self.exact = min(n, len(held_out), EXACT_SAMPLES)
        self.own = self.measured(TEACHER, teacher)

    def measured(self, name: str, model: Any) -> Row:
        """The row of a fitted model, or of the teacher itself."""
        given, before = {"condition": self.condition}, getattr(model, "evaluations", None)
        # The first run is a warm-up.
        runs = [timed(lambda: model.sample(x0=self.noise, **given)) for _ in range(1 + TIMED_RUNS)]
        samples = runs[-1][0]
        row: Row = {**dict.fromkeys(COLUMNS), "method": name}
        if before is not None:
            row["evaluations"] = (model.evaluations - before) // len(runs)
        row["milliseconds"] = 1e6 * min(seconds for _, seconds in runs[1:]) / len(samples)
        row["speedup"] = (row if name == TEACHER else self.own)["milliseconds"] / row["milliseconds"]
        row["energy"] = metrics.energy_distance(samples, self.held_out)
        row["wasserstein2"] = metrics.wasserstein2(samples[: self.exact], self.held_out[: self.exact])
        row["endpoint_error"] = _core.endpoint_error(samples, self.ends, self.scale).value
        if getattr(model, "has_path", hasattr(model, "sample_path")):
            path = to_numpy(path_of(name, model, self.noise, PATH_TIMES, self.condition))
            row["path_error"] = _core.path_error(path, self.path[1:-1], self.scale).value
        if getattr(model, "has_inverse", hasattr(model, "invert")):
            recovered = to_numpy(model.invert(self.ends, **given))
            row["inversion_error"] = recovery(recovered, self.noise, self.teacher).value
        return row

    def limits(self) -> dict[str, float]:
        """The upper ends of the 95% intervals of the teacher's distances."""

        def limit(name: str, distance: Any, ends: Any, data: Any) -> float:
            estimate = metrics.measured(distance, ends, data, resamples=RESAMPLES, seed=self.seed)
            return float(self.own[name] + estimate.high - estimate.value)

        ends, data = self.ends[: self.exact], self.held_out[: 2 * self.exact]
        return {
            "energy": limit("energy", metrics.energy_distance, self.ends, self.held_out),
            "wasserstein2": limit("wasserstein2", metrics.wasserstein2, ends, data),
        }


def _fitted(model: Any, teacher: Flow, options: Mapping[str, Any]) -> dict[str, Any]:
    """The history of a model, which is fitted first if necessary.

    Raises KeyboardInterrupt if Ctrl-C ended the fit early.
    """
    fitted = getattr(model, "__sklearn_is_fitted__", lambda: False)()
    if not fitted:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="interrupted after", category=RuntimeWarning)
            model.fit(teacher, **options)
    history: dict[str, Any] = getattr(model, "history_", None) or {}
    if not fitted and history.get("stopped") == "interrupted":
        raise KeyboardInterrupt
    return history


def _row(name: str, model: Any, reference: _Reference, options: Mapping[str, Any]) -> Row:
    """Fit one method and measure it."""
    try:
        history, row = _fitted(model, reference.teacher, options), reference.measured(name, model)
    except DivergenceError as error:
        return {**dict.fromkeys(COLUMNS), "method": name, "reason": " ".join(str(error).split())}
    return (
        {**row, "fit_seconds": history["seconds"], "steps": history["steps"]} if history.get("steps") else row
    )
