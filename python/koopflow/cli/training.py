"""``koopflow train-teacher`` and ``koopflow distill``: training of teachers and of one-step students."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .. import plotting
from .._arrays import to_numpy
from ..distributed import world
from ..exceptions import DivergenceError
from ..progress import ProgressEvent
from ..students import KoopmanDistiller, SegmentedDistiller
from ..teachers import FlowTeacher
from .inputs import DATA, Model, conditioning_of, conditions, load, load_teacher, snapshots_of, source_of
from .options import Keywords, Option, Settings, Stopped, UsageError, command
from .results import RESULTS, can_be_drawn, drawn, keep, output_folder, progress, refuse_existing, say, write

# Keywords of fit that a command fills in itself.
FILLED = (
    *("source", "data", "y", "teacher", "noise", "condition", "initial"),
    *("progress", "callback", "checkpoint", "resume", "distributed"),
)
OUTPUT = Option("output", "Folder for the results.")
RESUME = Option("resume", "Whether to continue the interrupted run in the output folder.", bool, False)
POPULATIONS = (
    Option("snapshots", "Files of the snapshots of a population, .npy or .npz.", list[str] | None),
    Option("times", "Rising times of the snapshots, which are the teacher's clock.", list[float] | None),
    Option("interpolant", "Curve through the rows of a chain: linear or spline.", str, "linear"),
    Option("growth", "Size of the whole population at each time.", list[float] | None),
    Option("relaxation", "Cost of growth relative to motion, for --coupling unbalanced.", float, 1.0),
)
# Options of a teacher that follow from the snapshots.
DECIDED = ("source", "source_noise", "horizon", "num_classes", "condition_dim")
SEGMENTS = (
    Option(
        "segments", "Number of students in sequence, or times such as [0, 0.3, 1].", int | list[float] | None
    ),
    Option(
        "predecessors", "Share of a segment's paths that start at outputs of earlier students.", float, 0.5
    ),
)


@command(
    run=(OUTPUT,),
    data=DATA,
    populations=POPULATIONS,
    teacher=(Keywords(FlowTeacher, skip=("event_shape",)),),
    fit=(Keywords(FlowTeacher.fit, skip=(*FILLED, "steps", "batch_size")),),
    alone=(RESUME, *RESULTS),
)
def train_teacher(settings: Settings) -> int:
    """Trains a flow-matching teacher on --data, or on --snapshots of a population at --times. Writes
    teacher.safetensors, train-teacher.toml (the settings, to repeat the run), and pictures of samples and of
    the training into the output folder."""
    if settings["snapshots"] is not None:
        return _train_on_snapshots(settings)
    for name in settings.table("populations", given=True):
        raise UsageError(f"--{name}: expected nothing without --snapshots, got {settings[name]!r}")
    keywords = settings.table("teacher")
    given = keywords["num_classes"] is not None or keywords["condition_dim"] is not None
    data = load(settings, labels=given or settings["data.labels"])
    shape = data.train.shape[1:]
    keywords["source"] = source_of(keywords["source"], keywords["device"])
    teacher = FlowTeacher(shape, **{**keywords, **({} if given else data.conditioning)})
    run = Run(settings, teacher)
    if run.begins():
        sizes = " x ".join(map(str, shape))
        say(f"{len(data.train)} samples of {sizes}, {len(data.held_out)} held out")
        run.fit(data.train, condition=data.train_labels)
        run.end(data.held_out_labels)
    return 0


def _train_on_snapshots(settings: Settings) -> int:
    """``train-teacher --snapshots``."""
    for name in ("data.source", "data.labels"):
        if settings[name]:
            flag = name.removeprefix("data.").replace("source", "data")
            raise UsageError(f"--{flag}: expected nothing with --snapshots, got {settings[name]!r}")
    given = settings.table("teacher", given=True) | settings.table("fit", given=True)
    for name in (*DECIDED, "weights"):
        if name in given:
            raise UsageError(f"--{name}: expected nothing with --snapshots, got {given[name]!r}")
    if settings["times"] is None:
        raise UsageError("--times: expected a time for each of --snapshots, got nothing")
    told = settings.table("populations")
    sets, times = snapshots_of(told.pop("snapshots")), told.pop("times")
    shape = sets[0].shape[1:] if sets and sets[0].ndim > 1 else (1,)
    keywords = {name: n for name, n in settings.table("teacher").items() if name not in DECIDED}
    run = Run(settings, FlowTeacher(shape, **keywords))
    if run.begins():
        rows = ", ".join(str(len(rows)) for rows in sets)
        say(f"snapshots of {rows} rows of {' x '.join(map(str, shape))}")

        def trained(*, weights: None, **files: Any) -> FlowTeacher:
            return FlowTeacher.snapshots(sets, times, **told, **keywords, **files)

        run.make(trained)
        run.end(None)
    return 0


@command(
    run=(OUTPUT, Option("teacher", "File of the teacher.")),
    data=DATA,
    segments=SEGMENTS,
    student=(Keywords(KoopmanDistiller),),
    fit=(Keywords(KoopmanDistiller.fit, skip=FILLED),),
    alone=(RESUME, *RESULTS),
)
def distill(settings: Settings) -> int:
    """Distils a teacher into a one-step student, or with --segments into one student for each segment of its
    time. Writes student.safetensors, distill.toml (the settings, to repeat the run), and pictures of samples
    and of the training into the output folder."""
    segmented = settings.table("segments")
    if segmented["segments"] is None and settings.table("segments", given=True):
        raise UsageError("--predecessors: expected nothing without --segments")
    student = KoopmanDistiller(**settings.table("student"))
    teacher = load_teacher(settings["teacher"], world().place(student.device))
    of_fit: dict[str, Any] = {}
    held_out_labels = None
    if settings["data.source"] is not None:
        # A conditional teacher needs the condition of each row of data.
        data = load(settings, labels=bool(conditioning_of(teacher)))
        of_fit = {"data": data.train, "condition": data.train_labels}
        held_out_labels = data.held_out_labels
    if segmented["segments"] is None:
        run = Run(settings, student)
        if run.begins():
            run.fit(teacher, **of_fit)
            run.end(held_out_labels)
        return 0
    if settings["resume"]:
        raise UsageError("--resume: expected nothing with --segments, which are trained in one run")
    for name in settings.table("fit", given=True):
        raise UsageError(f"--{name}: expected nothing with --segments, got {settings[name]!r}")
    if world().size > 1:
        raise UsageError("--segments: expected one process, got several ranks")
    several = SegmentedDistiller(**segmented, student=student)
    run = Run(settings, several)
    if run.begins():
        condition = of_fit.get("condition")
        run.make(
            lambda progress, callback, **_: several.fit(
                teacher, condition=condition, progress=progress, callback=callback
            )
        )
        run.end(held_out_labels)
    return 0


class Run:
    """One training of a teacher or a student, and its files in the output folder."""

    def __init__(self, settings: Settings, model: Model) -> None:
        self.settings, self.model = settings, model
        self.kind = "teacher" if isinstance(model, FlowTeacher) else "student"
        kind = self.kind
        # The checkpoint exists until training is completed.
        names = [f"{kind}.checkpoint.safetensors", f"{kind}.safetensors", f"{settings.command}.toml"]
        names += [f"{kind}-samples.png", f"{kind}-training.png"]
        folder = output_folder(settings, names)
        self.checkpoint, *self.results = (folder / name for name in names)
        self.file, self.toml, self.samples, self.curves = self.results

    def begins(self) -> bool:
        """Whether there is anything to train. Raises ``UsageError`` for existing results without
        ``--overwrite`` or ``--resume``."""
        there = self.checkpoint.exists()
        if not self.settings["resume"]:
            hint = ", --resume continues" if there else ""
            refuse_existing(self.settings, [self.checkpoint, *self.results], hint)
        elif self.file.exists() and not there:
            say(f"{self.file} is finished: nothing to resume (--overwrite starts again)")
            return False
        return True

    def fit(self, *source: Any, **keywords: Any) -> None:
        """Fit the model and save it. After a divergence its best state so far is saved."""
        self.make(partial(self.model.fit, *source, **keywords))

    def make(self, train: Callable[..., Any]) -> None:
        """Save the model that ``train`` returns. After a divergence its best state so far is saved.

        ``train`` is called with the options of fitting, the files and the listeners.
        """
        resumes, written = self.settings["resume"], False
        stale = _number(self.checkpoint)

        def first(_: ProgressEvent) -> None:
            # At the first event, so that a run that fails earlier, for example by a wrong option, changes no
            # file.
            nonlocal written
            if not written:
                # A checkpoint of an earlier run is removed, unless the fit has replaced it already.
                if not resumes and stale is not None and _number(self.checkpoint) == stale:
                    self.checkpoint.unlink()
                write(self.toml, self.settings.to_toml())
                written = True

        keywords = {**self.settings.table("fit"), "checkpoint": self.checkpoint, "callback": first}
        if resumes and stale is not None:
            keywords["resume"] = self.checkpoint
        try:
            self.model = train(**keywords, progress=progress(quiet=self.settings["quiet"]))
        except DivergenceError as error:
            if not self.model.__sklearn_is_fitted__():
                raise
            keep(self.model, self.file)
            raise DivergenceError(f"{error}; the best {self.kind} before that is {self.file}") from error
        keep(self.model, self.file)

    def end(self, held_out: Any | None) -> None:
        """Report the end of training, and draw. ``held_out`` are conditions of held-out data.

        Raises ``Stopped`` after Ctrl-C.
        """
        model, asked, on = self.model, self.settings.table(self.kind), self.checkpoint.exists()
        if not world().leads:
            return
        if isinstance(model, SegmentedDistiller):
            self._end_of_segments(model, held_out)
            return
        history = model.history_
        config = history["config"] if isinstance(model, FlowTeacher) else model.config_
        chosen = {key: value for key, value in config.items() if asked.get(key) is None}
        write(self.toml, self.settings.to_toml(chosen))
        stopped, steps = history.get("stopped"), history.get("steps")
        if stopped == "interrupted":
            best = f"interrupted after {steps} steps: the best {self.kind} so far is {self.file}"
            raise Stopped(best + ("; --resume continues" if on else ""))
        said = f"{self.kind}: {steps} steps in {history['seconds']:.0f} s"
        if stopped == "budget":
            said += ", the end of --max-seconds" + (f", --resume continues from {self.checkpoint}" * on)
        else:
            self.checkpoint.unlink(missing_ok=True)
        say(said)
        # There is no curve if training ended before the first entry.
        if history.get("loss") or history.get("log"):
            write(self.curves, plotting.loss_history(history))
        self._draw_samples(held_out)
        say(f"wrote {', '.join(str(path) for path in self.results if path.exists())}")

    def _end_of_segments(self, model: SegmentedDistiller, held_out: Any | None) -> None:
        asked = self.settings.table(self.kind)
        chosen = model.students_[0].config_.items()
        write(
            self.toml, self.settings.to_toml({key: value for key, value in chosen if asked.get(key) is None})
        )
        histories = [one.history_ for one in model.students_]
        steps = ", ".join(str(history["steps"]) for history in histories)
        seconds = sum(history["seconds"] for history in histories)
        say(f"{len(histories)} students: {steps} steps in {seconds:.0f} s")
        # Files of an earlier run with a single student.
        self.checkpoint.unlink(missing_ok=True)
        self.curves.unlink(missing_ok=True)
        self._draw_samples(held_out)
        say(f"wrote {', '.join(str(path) for path in self.results if path.exists())}")

    def _draw_samples(self, held_out: Any | None) -> None:
        shape = self.model.event_shape_
        of_vectors = conditioning_of(self.model).dim is not None
        if not can_be_drawn(shape) or (of_vectors and held_out is None):
            return
        if of_vectors:
            condition = held_out[: 1000 if shape == (2,) else 64]  # type: ignore[index]
            n = len(condition)
        else:
            n, condition = conditions(self.model, 1000 if shape == (2,) else None)
        samples = to_numpy(self.model.sample(n, condition=condition))
        write(self.samples, drawn(samples, condition))


def _number(file: Path) -> int | None:
    """The number of a file in its file system, which changes when it is replaced."""
    return file.stat().st_ino if file.exists() else None
