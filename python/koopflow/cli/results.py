"""How commands report: progress for a person or for a log, and the files of results."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from .._checkpointing import OTHER, check_apart, kind_of
from ..progress import LABELS, ProgressEvent, ProgressFunction, format_values, somebody_is_looking
from .inputs import make, refuse_existing, write_text
from .options import Command, Settings, UsageError

SECONDS_BETWEEN_LINES = 10.0


def for_results(command: Command) -> Command:
    """Add what every command that writes results has."""
    command.add("", "overwrite", bool, default=False, words="Whether to replace results that are there.")
    command.add("", "quiet", bool, default=False, words="Whether to print no progress.")
    return command


def output_file(settings: Settings, endings: Sequence[str], *, default: Path | None = None) -> Path:
    """The file of ``--output``: one that ends so, can be written, and is not there already."""
    given = settings["output"]
    path = Path(given or default or "")
    if path.suffix not in endings:
        got = "nothing" if given is None else repr(given)
        raise UsageError(f"--output: expected a file that ends in {', '.join(endings)}, got {got}")
    refuse_existing([path], overwrite=settings["overwrite"])
    check_apart(**inputs(settings), **{"--output": str(path)})
    if path.suffix == ".safetensors" and (found := kind_of(str(path))) not in (None, OTHER):
        raise UsageError(f"--output: expected a new file or one of samples, got {str(path)!r} of {found}")
    make(path.parent)
    return path


def inputs(settings: Settings) -> dict[str, str | None]:
    """What a command reads, by flag; none of it is a place for results."""
    values = settings.values
    places = {f"--{name}": values.get(name) for name in ("student", "teacher", "condition", "features")}
    return {**places, "--data": values.get("data.source"), "--trajectory_file": values.get("trajectory_file")}


def write_json(path: Path, facts: Any) -> Path:
    """Write plain values as an indented JSON file."""
    return write_text(path, json.dumps(facts, indent=2) + "\n")


def say(text: object) -> None:
    """Print a line. That nobody reads on, as in ``koopflow ... | head``, is no reason to end."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


def progress(*, quiet: bool = False, stream: TextIO | None = None) -> bool | ProgressFunction:
    """A bar for a person, lines for a log."""
    stream = sys.stderr if stream is None else stream
    if quiet or stream is None:
        return False
    return True if somebody_is_looking(stream) else Lines(stream)


class Lines:
    """Progress as plain lines: the first and last of each stage, notes, and one every ten seconds.

    Examples
    --------
    >>> lines = Lines(sys.stdout)
    >>> lines({"stage": "teacher", "step": 20, "total": 20, "seconds": 3.0, "values": {"loss": 0.5}})
    training the teacher: 20/20, 3 s, loss 0.5
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._stage, self._printed = stream, "", 0.0

    def __call__(self, event: ProgressEvent) -> None:
        """Print one event, or leave it out."""
        name = LABELS.get(event["stage"], event["stage"])
        if "note" in event:
            self._print(f"{name}: {event['note']}")
            return
        begins, ends = event["stage"] != self._stage, event["step"] == event["total"]
        if begins or ends or event["seconds"] - self._printed >= SECONDS_BETWEEN_LINES:
            self._stage, self._printed = event["stage"], event["seconds"]
            left = event["seconds"] * (event["total"] / max(1, event["step"]) - 1)
            said = f"{name}: {event['step']}/{event['total']}, {event['seconds']:.0f} s"
            said += "" if begins or ends else f", about {left:.0f} s left"
            values = format_values(event["values"])
            self._print(f"{said}, {values}" if values else said)

    def _print(self, line: str) -> None:
        # A log that has been closed is no reason to lose a training.
        with contextlib.suppress(OSError, ValueError):
            print(line, file=self._stream, flush=True)
