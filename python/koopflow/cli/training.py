"""``koopflow train-teacher`` and ``koopflow distill``: data to a teacher, a teacher to a one-step student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .._arrays import to_numpy
from .._checkpointing import check_apart
from ..exceptions import DivergenceError
from ..progress import ProgressEvent
from ..students import KoopmanDistiller
from ..teachers import FlowTeacher
from .inputs import (
    DataOptions,
    conditioning_of,
    conditions,
    load,
    load_teacher,
    output_folder,
    refuse_existing,
    write_text,
)
from .options import Command, Settings, Stopped, UsageError
from .pictures import can_be_drawn, columns_of, draw_samples, draw_training
from .results import for_results, inputs, progress, say

# Keywords of fit that a command fills in itself.
FILLED = ("data", "y", "teacher", "noise", "condition", "progress", "callback", "checkpoint", "resume")


def train_teacher() -> Command:
    """The command ``koopflow train-teacher``."""
    command = Command(
        "train-teacher",
        "Trains a flow-matching teacher; writes teacher.safetensors, train-teacher.toml (the settings, to "
        "repeat the run), and pictures of samples and of the training into the output folder.",
        _train_teacher,
    )
    command.add("run", "output", str | None, words="Folder for the results.")
    command.add_signature("data", DataOptions)
    command.add_signature("teacher", FlowTeacher, skip=("event_shape",))
    command.add_signature("fit", FlowTeacher.fit, skip=(*FILLED, "steps", "batch_size"))
    return _for_training(command)


def _train_teacher(settings: Settings) -> int:
    keywords = settings.table("teacher")
    given = keywords["num_classes"] is not None or keywords["condition_dim"] is not None
    data = load(settings.table("data"), labels=True if given else None)
    teacher = FlowTeacher(data.event_shape, **{**keywords, **({} if given else data.conditioning)})
    run = Run(settings, "teacher")
    if run.finished():
        return 0
    shape = " x ".join(map(str, data.event_shape))
    say(f"{len(data.train)} samples of {shape}, {len(data.held_out)} held out")
    with run.started(teacher) as fit:
        teacher.fit(data.train, condition=data.train_labels, **fit)
    run.end(teacher, teacher.history_["config"], data.held_out_labels)
    return 0


def distill() -> Command:
    """The command ``koopflow distill``."""
    command = Command(
        "distill",
        "Distils a teacher into a one-step student; writes student.safetensors, distill.toml (the settings, "
        "to repeat the run), and pictures of samples and of the training into the output folder.",
        _distill,
    )
    command.add("run", "output", str | None, words="Folder for the results.")
    command.add("run", "teacher", str | None, words="File of the teacher.")
    command.add_signature("data", DataOptions)
    command.add_signature("student", KoopmanDistiller)
    command.add_signature("fit", KoopmanDistiller.fit, skip=FILLED)
    return _for_training(command)


def _distill(settings: Settings) -> int:
    student = KoopmanDistiller(**settings.table("student"))
    teacher = load_teacher(settings["teacher"], student.device)
    fit_data: dict[str, Any] = {}
    held_out_labels = None
    if settings["data.source"] is not None:
        # A conditional teacher needs the condition of each of its data.
        data = load(settings.table("data"), labels=bool(conditioning_of(teacher)))
        if data.event_shape != teacher.event_shape:
            raise UsageError(
                f"--data: expected samples of shape {teacher.event_shape}, as the teacher's, "
                f"got {data.event_shape}"
            )
        fit_data = {"data": data.train, "condition": data.train_labels}
        held_out_labels = data.held_out_labels
    run = Run(settings, "student")
    if run.finished():
        return 0
    with run.started(student) as fit:
        student.fit(teacher, **fit_data, **fit)
    run.end(student, student.config_, held_out_labels)
    return 0


def _for_training(command: Command) -> Command:
    words = "Whether to go on from where the run in the output folder was cut off, with its settings."
    command.add("", "resume", bool, default=False, words=words)
    return for_results(command)


class Run:
    """One training and its files in the output folder; ``kind`` is teacher or student."""

    def __init__(self, settings: Settings, kind: str) -> None:
        folder = output_folder(settings["output"])
        self.of, self.kind = settings, kind
        self.model = folder / f"{kind}.safetensors"
        # The state of training, there until it is completed.
        self.checkpoint = folder / f"{kind}.checkpoint.safetensors"
        self.settings = folder / f"{settings.command}.toml"
        self.samples, self.curves = folder / f"{kind}-samples.png", folder / f"{kind}-training.png"
        written = [self.checkpoint, self.model, self.settings, self.samples, self.curves]
        places = {f"{path.name} of --output": str(path) for path in written}
        check_apart(**inputs(settings), **{"--output": str(folder)}, **places)

    def finished(self) -> bool:
        """Whether ``--resume`` has nothing to do. Raises ``UsageError`` for results that nobody gave up."""
        if not self.of["resume"]:
            hint = ", --resume goes on" if self.checkpoint.exists() else ""
            there = [self.checkpoint, self.model, self.settings, self.samples, self.curves]
            refuse_existing(there, overwrite=self.of["overwrite"], hint=hint)
            return False
        if self.model.exists() and not self.checkpoint.exists():
            say(f"{self.model} is finished: nothing to resume (--overwrite begins anew)")
            return True
        return False

    @contextmanager
    def started(self, model: FlowTeacher | KoopmanDistiller) -> Iterator[dict[str, Any]]:
        """The keywords of fit. After a divergence, which fit raises, the best model before it is saved."""
        written, stale = False, self.checkpoint.stat().st_ino if self.checkpoint.exists() else None

        def first(_: ProgressEvent) -> None:
            # Not earlier: a run that never begins, for a wrong option say, leaves everything as it was.
            nonlocal written
            if not written:
                # That of an earlier run, where the fit has not replaced it yet.
                if not self.of["resume"] and stale is not None and self.checkpoint.stat().st_ino == stale:
                    self.checkpoint.unlink()
                write_text(self.settings, self.of.to_toml())
                written = True

        keywords = {**self.of.table("fit"), "checkpoint": self.checkpoint, "callback": first}
        if self.of["resume"] and self.checkpoint.exists():
            keywords["resume"] = self.checkpoint
        try:
            yield {**keywords, "progress": progress(quiet=self.of["quiet"])}
        except DivergenceError as error:
            if not model.__sklearn_is_fitted__():
                raise
            model.save(self.model)
            raise DivergenceError(f"{error}; the best {self.kind} before that is {self.model}") from error

    def end(
        self, model: FlowTeacher | KoopmanDistiller, config: Mapping[str, Any], held_out: Any | None
    ) -> None:
        """Save, say how training ended, and draw; ``held_out`` are conditions of data that it has not seen.

        Raises ``Stopped`` after Ctrl-C.
        """
        model.save(self.model)
        asked, history, on = self.of.table(self.kind), model.history_, self.checkpoint.exists()
        resolved = {key: value for key, value in config.items() if asked.get(key) is None}
        write_text(self.settings, self.of.to_toml(resolved))
        stopped, steps = history.get("stopped"), history.get("steps")
        if stopped == "interrupted":
            best = f"interrupted after {steps} steps: the best {self.kind} so far is {self.model}"
            raise Stopped(best + ("; --resume goes on" if on else ""))
        said = f"{self.kind}: {steps} steps in {history['seconds']:.0f} s"
        if stopped == "budget":
            on_from = f", --resume goes on from {self.checkpoint}" if on else ""
            say(f"{said}, the end of --max-seconds{on_from}")
        else:
            self.checkpoint.unlink(missing_ok=True)
            say(said)
        draw_training(history, self.curves)
        self._draw_samples(model, held_out)
        written = [self.model, self.settings, self.samples, self.curves]
        say(f"wrote {', '.join(str(path) for path in written if path.exists())}")

    def _draw_samples(self, model: FlowTeacher | KoopmanDistiller, held_out: Any | None) -> None:
        shape = model.event_shape_
        of_vectors = conditioning_of(model).dim is not None
        if not can_be_drawn(shape) or (of_vectors and held_out is None):
            return
        if of_vectors:
            condition = held_out[: 1000 if shape == (2,) else 64]  # type: ignore[index]
            n = len(condition)
        else:
            n, condition = conditions(model, 1000 if shape == (2,) else None)
        samples = to_numpy(model.sample(n, condition=condition))
        draw_samples(samples, self.samples, columns=columns_of(condition))
