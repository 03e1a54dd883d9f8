"""``koopflow train-teacher`` and ``koopflow distill``: data to a teacher, a teacher to a one-step student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .. import plotting
from .._arrays import to_numpy
from ..exceptions import DivergenceError
from ..progress import ProgressEvent
from ..students import KoopmanDistiller
from ..teachers import FlowTeacher
from .inputs import DATA, conditioning_of, conditions, load, load_teacher, source_of
from .options import Keywords, Option, Settings, Stopped, command
from .results import RESULTS, can_be_drawn, drawn, output_folder, progress, refuse_existing, say, write

# Keywords of fit that a command fills in itself.
FILLED = (
    *("source", "data", "y", "teacher", "noise", "condition", "initial"),
    *("progress", "callback", "checkpoint", "resume"),
)
OUTPUT = Option("output", "Folder for the results.")
RESUME = Option("resume", "Whether to go on where the run in the output folder was cut off.", bool, False)


@command(
    run=(OUTPUT,),
    data=DATA,
    teacher=(Keywords(FlowTeacher, skip=("event_shape",)),),
    fit=(Keywords(FlowTeacher.fit, skip=(*FILLED, "steps", "batch_size")),),
    alone=(RESUME, *RESULTS),
)
def train_teacher(settings: Settings) -> int:
    """Trains a flow-matching teacher; writes teacher.safetensors, train-teacher.toml (the settings, to repeat
    the run), and pictures of samples and of the training into the output folder."""
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


@command(
    run=(OUTPUT, Option("teacher", "File of the teacher.")),
    data=DATA,
    student=(Keywords(KoopmanDistiller),),
    fit=(Keywords(KoopmanDistiller.fit, skip=FILLED),),
    alone=(RESUME, *RESULTS),
)
def distill(settings: Settings) -> int:
    """Distils a teacher into a one-step student; writes student.safetensors, distill.toml (the settings, to
    repeat the run), and pictures of samples and of the training into the output folder."""
    student = KoopmanDistiller(**settings.table("student"))
    teacher = load_teacher(settings["teacher"], student.device)
    of_fit: dict[str, Any] = {}
    held_out_labels = None
    if settings["data.source"] is not None:
        # A conditional teacher needs the condition of each of its data.
        data = load(settings, labels=bool(conditioning_of(teacher)))
        of_fit = {"data": data.train, "condition": data.train_labels}
        held_out_labels = data.held_out_labels
    run = Run(settings, student)
    if run.begins():
        run.fit(teacher, **of_fit)
        run.end(held_out_labels)
    return 0


class Run:
    """One training of a teacher or a student, and its files in the output folder."""

    def __init__(self, settings: Settings, model: FlowTeacher | KoopmanDistiller) -> None:
        self.settings, self.model = settings, model
        self.kind = "teacher" if isinstance(model, FlowTeacher) else "student"
        kind = self.kind
        # The checkpoint is there until training is completed.
        names = [f"{kind}.checkpoint.safetensors", f"{kind}.safetensors", f"{settings.command}.toml"]
        names += [f"{kind}-samples.png", f"{kind}-training.png"]
        folder = output_folder(settings, names)
        self.checkpoint, *self.results = (folder / name for name in names)
        self.file, self.toml, self.samples, self.curves = self.results

    def begins(self) -> bool:
        """Whether ``--resume`` has anything to do. Raises ``UsageError`` for results that nobody gave up."""
        there = self.checkpoint.exists()
        if not self.settings["resume"]:
            hint = ", --resume goes on" if there else ""
            refuse_existing(self.settings, [self.checkpoint, *self.results], hint)
        elif self.file.exists() and not there:
            say(f"{self.file} is finished: nothing to resume (--overwrite begins anew)")
            return False
        return True

    def fit(self, *source: Any, **keywords: Any) -> None:
        """Fit the model and save it, after a divergence as it was at its best before."""
        resumes, written = self.settings["resume"], False
        stale = _number(self.checkpoint)

        def first(_: ProgressEvent) -> None:
            # Not earlier: a run that never begins, for a wrong option say, leaves everything as it was.
            nonlocal written
            if not written:
                # That of an earlier run, where the fit has not replaced it yet.
                if not resumes and stale is not None and _number(self.checkpoint) == stale:
                    self.checkpoint.unlink()
                write(self.toml, self.settings.to_toml())
                written = True

        keywords |= {**self.settings.table("fit"), "checkpoint": self.checkpoint, "callback": first}
        if resumes and stale is not None:
            keywords["resume"] = self.checkpoint
        try:
            self.model.fit(*source, **keywords, progress=progress(quiet=self.settings["quiet"]))
        except DivergenceError as error:
            if not self.model.__sklearn_is_fitted__():
                raise
            self.model.save(self.file)
            raise DivergenceError(f"{error}; the best {self.kind} before that is {self.file}") from error
        self.model.save(self.file)

    def end(self, held_out: Any | None) -> None:
        """Say how training ended, and draw; ``held_out`` are conditions of data that it has not seen.

        Raises ``Stopped`` after Ctrl-C.
        """
        model, asked, on = self.model, self.settings.table(self.kind), self.checkpoint.exists()
        history = model.history_
        config = history["config"] if isinstance(model, FlowTeacher) else model.config_
        chosen = {key: value for key, value in config.items() if asked.get(key) is None}
        write(self.toml, self.settings.to_toml(chosen))
        stopped, steps = history.get("stopped"), history.get("steps")
        if stopped == "interrupted":
            best = f"interrupted after {steps} steps: the best {self.kind} so far is {self.file}"
            raise Stopped(best + ("; --resume goes on" if on else ""))
        said = f"{self.kind}: {steps} steps in {history['seconds']:.0f} s"
        if stopped == "budget":
            said += ", the end of --max-seconds" + (f", --resume goes on from {self.checkpoint}" * on)
        else:
            self.checkpoint.unlink(missing_ok=True)
        say(said)
        # None where training ended before the first entry.
        if history.get("loss") or history.get("log"):
            write(self.curves, plotting.loss_history(history))
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
    """What tells a file from one that replaces it."""
    return file.stat().st_ino if file.exists() else None
