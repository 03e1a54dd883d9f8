"""Output of commands: files, pictures, lines on the terminal, and progress."""

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
# Options that name inputs. Results must not be written over them.
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
    Option("overwrite", "Whether to replace existing results.", bool, False),
    Option("quiet", "Whether to suppress progress.", bool, False),
)
DEVICE = Option("device", "Device: cpu, cuda, cuda:N or auto.", str, "cpu")


def output_folder(settings: Settings, files: Iterable[str] = ()) -> Path:
    """The folder of ``--output``, which is made if needed. Raises an error if any of its future ``files`` is
    an input of the command."""
    if settings["output"] is None:
        raise UsageError("--output: expected a folder, got nothing")
    folder = Path(settings["output"])
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output: expected a folder, got the file {folder}")
    _keep_apart(settings, _made(folder), files)
    return folder


def output_file(settings: Settings, endings: Sequence[str], *, default: Path | None = None) -> Path:
    """The file of ``--output``, after checks: it has a valid ending, can be written and does not exist."""
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
    """A folder, which is made if needed. Writing to it is tested before a long computation begins."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UsageError(f"--output: cannot write to {folder}: {error.strerror or error}") from error


def refuse_existing(settings: Settings, paths: Iterable[Path], hint: str = "") -> None:
    """Raise ``UsageError`` for a result that already exists, unless it may be replaced."""
    there = [path for path in paths if path.exists()]
    if there and not settings["overwrite"]:
        raise UsageError(f"--output: {there[0]} already exists: --overwrite replaces it{hint}")


def _keep_apart(settings: Settings, output: Path, files: Iterable[str] = ()) -> None:
    """Raise ``ArgumentError`` if the output, or a file in it, is an input of the command."""
    read = {f"--{name.removesuffix('.source')}": settings.values.get(name) for name in READ}
    written = {f"{name} of --output": str(output / name) for name in files}
    check_apart(**read, **{"--output": str(output)}, **written)


def write(path: Path, content: Any) -> Path:
    """Write bytes, text, a dictionary as JSON, or the figure of axes, atomically and on rank 0 only."""
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
    """Whether samples of this shape can be drawn."""
    colour = len(event_shape) == 3 and event_shape[0] == 3 and min(event_shape[1:]) >= 4
    return event_shape == (2,) or is_image(event_shape) or colour


def drawn(samples: NDArray[Any], condition: NDArray[Any] | None, columns: int | None = None) -> Any:
    """Axes with samples ``[N, *event]`` that :func:`can_be_drawn`: a scatter plot, or a grid of images. The
    grid has one row per label if all labels have equally many samples."""
    if samples.shape[1:] == (2,):
        return plotting.samples(samples)
    if columns is None and condition is not None and condition.ndim == 1:
        counts = np.unique(condition, return_counts=True)[1]
        columns = int(counts[0]) if len(counts) > 1 and (counts == counts[0]).all() else None
    height, width = image_size(samples.shape[1:])
    columns = columns or -(-len(samples) // max(1, int(len(samples) ** 0.5)))
    rows = -(-len(samples) // columns)
    # Each pixel gets a whole number of dots, at least one.
    dots = max(1, round(56 / max(height, width)))
    size = ((columns * (width + 1) + 1) * dots, (rows * (height + 1) + 1) * dots)
    figure = plotting.new_figure((size[0] / 140 + 0.2, size[1] / 140 + 0.2))
    return plotting.image_grid(samples, ax=figure.add_subplot(), columns=columns)


def keep(model: Any, path: Path) -> None:
    """Save a fitted model, on rank 0 only."""
    if world().leads:
        model.save(path)


def say(text: object) -> None:
    """Print a line, on rank 0 only. A reader that is gone, as in ``koopflow ... | head``, is no error."""
    if world().leads:
        with contextlib.suppress(BrokenPipeError):
            print(text, flush=True)


def progress(*, quiet: bool = False) -> bool | ProgressFunction:
    """A bar on a terminal, lines otherwise."""
    if quiet or sys.stderr is None:
        return False
    return True if somebody_is_looking(sys.stderr) else Lines(sys.stderr)


class Lines:
    """Progress as plain lines: the first and last event of each stage, notes, and a line every ten seconds.

    Examples
    --------
    >>> lines = Lines(sys.stdout)
    >>> lines({"stage": "teacher", "step": 20, "total": 20, "seconds": 3.0, "values": {"loss": 0.5}})
    training the teacher: 20/20, 3 s, loss 0.5
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._stage, self._printed = stream, "", 0.0

    def __call__(self, event: ProgressEvent) -> None:
        """Print one event, unless the last line is too recent."""
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
        # Training goes on if the log was closed.
        with contextlib.suppress(OSError, ValueError):
            print(line, file=self._stream, flush=True)
