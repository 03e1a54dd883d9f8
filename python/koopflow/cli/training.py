"""What both training commands share: going on, being cut off, saying how far it is."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .._arrays import to_numpy
from ..progress import LABELS, ProgressEvent, ProgressFunction, format_values, somebody_is_looking
from ..students.distiller import KoopmanDistiller
from ..teachers.teacher import FlowTeacher
from .command import Options
from .conditions import asked_for, columns_of, conditioning_of, dimension_of
from .errors import Stopped
from .files import output_folder, refuse_existing, write_text
from .pictures import can_be_drawn, draw_samples, draw_training
from .settings import Settings

# What fit takes from a command itself.
FROM_COMMAND = ("teacher", "y", "data", "condition", "progress", "callback", "checkpoint", "resume")
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Place:
    """The files of a training in its output folder, ``kind`` being teacher or student."""

    folder: Path
    command: str
    kind: str

    @property
    def model(self) -> Path:
        """What training makes."""
        return self.folder / f"{self.kind}.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The state of training, there until it is completed."""
        return self.folder / f"{self.kind}.checkpoint.safetensors"

    @property
    def settings(self) -> Path:
        """What the run was asked for."""
        return self.folder / f"{self.command}.toml"

    @property
    def samples(self) -> Path:
        """A picture of samples."""
        return self.folder / f"{self.kind}-samples.png"

    @property
    def curves(self) -> Path:
        """A picture of losses and errors."""
        return self.folder / f"{self.kind}-training.png"

    def written(self) -> list[int]:
        """When the model and the state of training were written; nothing for what is not there."""
        return [path.stat().st_mtime_ns for path in (self.model, self.checkpoint) if path.exists()]


@contextmanager
def started(settings: Settings, options: Options, kind: str) -> Iterator[Place | None]:
    """The place of a run, its settings written there; None where ``--resume`` finds it finished.

    Raises
    ------
    UsageError
        Where results are there and nothing says what to do about them.
    """
    place = Place(output_folder(settings["run"]["output"]), settings.command, kind)
    if options.resume and place.model.exists() and not place.checkpoint.exists():
        print(f"{place.model} is finished: nothing to resume (--overwrite begins anew)")
        yield None
        return
    if not options.resume:
        hint = ", --resume goes on" if place.checkpoint.exists() else ""
        there = [place.checkpoint, place.model, place.settings, place.samples, place.curves]
        refuse_existing(there, overwrite=options.overwrite, hint=hint)
        place.checkpoint.unlink(missing_ok=True)
    before = place.settings.read_text(encoding="utf-8") if place.settings.exists() else None
    untouched = place.written()
    write_text(place.settings, settings.to_toml())
    try:
        yield place
    except BaseException:
        # A run that never began, for a wrong option say, leaves everything as it was.
        if place.written() == untouched:
            if before is None:
                place.settings.unlink(missing_ok=True)
            else:
                write_text(place.settings, before)
        raise


def fit_options(
    fit: Callable[..., Any], settings: Settings, options: Options, place: Place
) -> dict[str, Any]:
    """The keywords of a fit: what ``[fit]`` says, progress, and files to go on from and to leave behind."""
    keywords = settings.given("fit")
    keywords["progress"] = progress(quiet=options.quiet)
    if "checkpoint" in inspect.signature(fit).parameters:
        keywords["checkpoint"] = place.checkpoint
        if options.resume and place.checkpoint.exists():
            keywords["resume"] = place.checkpoint
    return keywords


def finish(place: Place, history: Mapping[str, Any]) -> None:
    """Say how training ended; the checkpoint goes where nothing is left to do.

    Raises
    ------
    Stopped
        After Ctrl-C.
    """
    stopped, steps = history.get("stopped"), history.get("steps")
    if stopped == "interrupted":
        on = "; --resume goes on" if place.checkpoint.exists() else ""
        raise Stopped(f"interrupted after {steps} steps: the best {place.kind} so far is {place.model}{on}")
    if stopped == "budget":
        on = f", --resume goes on from {place.checkpoint}" if place.checkpoint.exists() else ""
        print(f"{place.kind}: {steps} steps in {history['seconds']:.0f} s, the end of --max-seconds{on}")
        return
    place.checkpoint.unlink(missing_ok=True)
    print(f"{place.kind}: {steps} steps in {history['seconds']:.0f} s")


def chosen(values: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What koopflow chose for the options that were left open."""
    return {
        name: config[name] for name, value in values.items() if value is None and config.get(name) is not None
    }


def draw(
    place: Place, history: Mapping[str, Any], model: FlowTeacher | KoopmanDistiller, conditions: Any | None
) -> None:
    """Pictures of training and of samples, where there are such pictures, and what has been written.

    ``conditions`` are those of data that the model has not seen; they are used for samples of a model that
    needs vectors.
    """
    shape = model.event_shape if isinstance(model, FlowTeacher) else model.event_shape_
    conditioning = conditioning_of(model)
    draw_training(history, place.curves)
    if can_be_drawn(shape) and (dimension_of(conditioning) is None or conditions is not None):
        n = 1000 if shape == (2,) else None
        if dimension_of(conditioning) is None:
            n, condition = asked_for(conditioning, n, None, None)
        else:
            condition = conditions[: n or 64]  # type: ignore[index]
            n = len(condition)
        samples = to_numpy(model.sample(n, condition=condition))
        draw_samples(samples, place.samples, columns=columns_of(condition))
    written = [place.model, place.settings, place.samples, place.curves]
    print(f"wrote {', '.join(str(path) for path in written if path.exists())}")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Training warns when it is interrupted; a command says so itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="interrupted after", category=RuntimeWarning)
        yield


def progress(*, quiet: bool = False, stream: TextIO | None = None) -> bool | ProgressFunction:
    """A bar for a person, lines for a log."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return False
    return True if somebody_is_looking(stream) else Lines(stream)


class Lines:
    """Progress as plain lines: the first and last of each stage, notes, and one every ten seconds.

    Examples
    --------
    >>> import sys
    >>> lines = Lines(sys.stdout)
    >>> lines({"stage": "teacher", "step": 20, "total": 20, "seconds": 3.0, "values": {"loss": 0.5}})
    training the teacher: 20/20, 3 s, loss 0.5
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._printed = 0.0

    def __call__(self, event: ProgressEvent) -> None:
        """Print one event, or leave it out."""
        name = LABELS.get(event["stage"], event["stage"])
        if "note" in event:
            self._print(f"{name}: {event['note']}")
            return
        begins = event["stage"] != self._stage
        ends = event["step"] == event["total"]
        if begins or ends or event["seconds"] - self._printed >= SECONDS_BETWEEN_LINES:
            self._stage, self._printed = event["stage"], event["seconds"]
            values = format_values(event["values"])
            self._print(
                f"{name}: {event['step']}/{event['total']}, {event['seconds']:.0f} s"
                f"{', ' if values else ''}{values}"
            )

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)
