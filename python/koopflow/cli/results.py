"""What commands give: files, pictures among them, lines for a person, and progress for one or for a log."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from io import BytesIO
from os import fspath
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from .. import _core, plotting
from .._checkpointing import OTHER, check_apart, kind_of
from ..distributed import world
from ..plotting._canvas import image_size, is_image
from ..progress import LABELS, ProgressEvent, ProgressFunction, format_values, somebody_is_looking
from .options import Option, Settings, UsageError

SECONDS_BETWEEN_LINES = 10.0
PICTURES = (".png", ".pdf", ".svg")
# What a command may read, none of which is a place for results.
READ = (
    "student",
    "teacher",
    "model",
    "paths",
    "states",
    "condition",
    "features",
    "feature_weights",
    "data.source",
    "trajectory_file",
)
# Options of every command that writes results.
RESULTS = (
    Option("overwrite", "Whether to replace results that are there.", bool, False),
    Option("quiet", "Whether to print no progress.", bool, False),
)
DEVICE = Option("device", "cpu, cuda, cuda:N or auto.", str, "cpu")


def output_folder(settings: Settings, files: Iterable[str] = ()) -> Path:
    """The folder of ``--output``, made; none of its ``files`` to come is one that the command reads."""
    if settings["output"] is None:
        raise UsageError("--output: expected a folder, got nothing")
    folder = Path(settings["output"])
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output: expected a folder, got the file {folder}")
    _keep_apart(settings, _made(folder), files)
    return folder


def output_file(settings: Settings, endings: Sequence[str], *, default: Path | None = None) -> Path:
    """The file of ``--output``: one that ends so, can be written, and is not there already."""
    given = settings["output"]
    path = Path(given or default or "")
    if path.suffix not in endings:
        got = "nothing" if given is None else repr(given)
        raise UsageError(f"--output: expected a file that ends in {', '.join(endings)}, got {got}")
    refuse_existing(settings, [path])
    _keep_apart(settings, path)
    if path.suffix == ".safetensors" and (found := kind_of(str(path))) not in (None, OTHER):
        raise UsageError(f"--output: expected a new file or one of samples, got {str(path)!r} of {found}")
    _made(path.parent)
    return path


def _made(folder: Path) -> Path:
    """A folder, made if need be, that can be written: proved before anything long begins."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UsageError(f"--output: cannot write to {folder}: {error.strerror or error}") from error


def refuse_existing(settings: Settings, paths: Iterable[Path], hint: str = "") -> None:
    """Raises ``UsageError`` for a result that is there already, unless it may be replaced."""
    there = [path for path in paths if path.exists()]
    if there and not settings["overwrite"]:
        raise UsageError(f"--output: {there[0]} is there already: --overwrite replaces it{hint}")


def _keep_apart(settings: Settings, output: Path, files: Iterable[str] = ()) -> None:
    """Refuse an output, and files in it, in the place of anything that the command reads."""
    read = {f"--{name.removesuffix('.source')}": settings.values.get(name) for name in READ}
    written = {f"{name} of --output": str(output / name) for name in files}
    check_apart(**read, **{"--output": str(output)}, **written)


def write(path: Path, content: Any) -> Path:
    """Write bytes, text, a dictionary as JSON, or the figure of axes: whole or not at all, and on rank 0."""
    if not world().leads:
        return path
    if isinstance(content, dict):
        content = json.dumps(content, indent=2) + "\n"
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")
    if not isinstance(content, bytes):
        picture = BytesIO()
        content.figure.savefig(picture, format=path.suffix[1:])
        content = picture.getvalue()
    _core._write_atomically(fspath(path), content)
    return path


def can_be_drawn(event_shape: tuple[int, ...]) -> bool:
    """Whether there is a picture of samples of this shape."""
    colour = len(event_shape) == 3 and event_shape[0] == 3 and min(event_shape[1:]) >= 4
    return event_shape == (2,) or is_image(event_shape) or colour


def drawn(samples: NDArray[Any], condition: NDArray[Any] | None, columns: int | None = None) -> Any:
    """Axes with samples ``[N, *event]`` that :func:`can_be_drawn`: a scatter, or a grid with a row of its own
    for each label where all have equally many samples."""
    if samples.shape[1:] == (2,):
        return plotting.samples(samples)
    if columns is None and condition is not None and condition.ndim == 1:
        counts = np.unique(condition, return_counts=True)[1]
        columns = int(counts[0]) if len(counts) > 1 and (counts == counts[0]).all() else None
    height, width = image_size(samples.shape[1:])
    columns = columns or -(-len(samples) // max(1, int(len(samples) ** 0.5)))
    rows = -(-len(samples) // columns)
    # A whole number of dots for each pixel, and not less than one.
    dots = max(1, round(56 / max(height, width)))
    size = ((columns * (width + 1) + 1) * dots, (rows * (height + 1) + 1) * dots)
    figure = plotting.new_figure((size[0] / 140 + 0.2, size[1] / 140 + 0.2))
    return plotting.image_grid(samples, ax=figure.add_subplot(), columns=columns)


def keep(model: Any, path: Path) -> None:
    """Save a fitted model, by rank 0 alone."""
    if world().leads:
        model.save(path)


def say(text: object) -> None:
    """Print a line, on rank 0. That nobody reads on, as in ``koopflow ... | head``, is no reason to end."""
    if world().leads:
        with contextlib.suppress(BrokenPipeError):
            print(text, flush=True)


def progress(*, quiet: bool = False) -> bool | ProgressFunction:
    """A bar for a person, lines for a log."""
    if quiet or sys.stderr is None:
        return False
    return True if somebody_is_looking(sys.stderr) else Lines(sys.stderr)


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
