"""``koopflow sample``: a student's samples, or a teacher's, as a picture or an array file."""

from __future__ import annotations

import inspect
from io import BytesIO
from typing import Any

import numpy as np
from safetensors.numpy import save

from .._arrays import to_numpy
from ..students import KoopmanDistiller
from ..teachers import FlowTeacher
from .inputs import conditions, load_either, write_bytes
from .options import Command, Settings, UsageError
from .pictures import SUFFIXES, can_be_drawn, columns_of, draw_samples
from .results import for_results, output_file, progress, say

ARRAYS = (".npy", ".npz", ".safetensors")


def sample() -> Command:
    """The command ``koopflow sample``."""
    command = Command(
        "sample",
        "Draws samples of a student or a teacher into a picture (.png, .pdf, .svg: images in a grid, points "
        "of the plane scattered) or an array file (.npy, .npz, .safetensors), by the ending of --output.",
        _run,
    )
    command.add("run", "student", str | None, words="File of a student or a teacher.", positional=True)
    command.add("run", "output", str | None, words="File for the samples.")
    number = "Number of samples: 64, or eight of each class, by default; -n for short."
    command.add("sample", "n", int | None, words=number)
    command.add(
        "sample", "label", int | list[int] | None, words="One class or several, [0, 3]: all by default."
    )
    command.add("sample", "condition", str | None, words="An .npy file with the condition of each sample.")
    command.add(
        "sample", "modes", int | list[int] | str | None, words="Modes that move: 3, [0, 1, 4] or :20."
    )
    steps = "Encodings of a student's path, 1 by default; steps of a teacher's fixed-step solver."
    command.add("sample", "steps", int | None, words=steps)
    for model in (KoopmanDistiller, FlowTeacher):
        command.add_signature("sample", model.sample, skip=("x0", "progress"))
    command.add("sample", "columns", int | None, words="Number of columns of a grid of images.")
    command.add("sample", "device", str, "cpu", "cpu, cuda, cuda:N or auto.")
    return for_results(command)


def _run(settings: Settings) -> int:
    model = load_either(settings["student"], settings["device"])
    path = output_file(settings, [*(SUFFIXES if can_be_drawn(model.event_shape_) else ()), *ARRAYS])
    n, condition = conditions(model, settings["n"], settings["label"], settings["condition"])
    known = inspect.signature(type(model).sample).parameters
    given = settings.table("sample", given=True)
    for key in ("n", "label", "condition", "columns", "device"):
        given.pop(key, None)
    for key in given:
        if key not in known:
            kind = "student" if isinstance(model, KoopmanDistiller) else "teacher"
            raise UsageError(f"sample.{key}: not for a {kind}")
    if "modes" in given:
        given["modes"] = parsed_modes(given["modes"])
    columns = columns_of(condition) if settings["columns"] is None else settings["columns"]
    if columns is not None and columns < 1:
        raise UsageError(f"--columns: expected at least 1, got {columns}")
    shown = progress(quiet=settings["quiet"])
    try:
        samples = to_numpy(model.sample(n, condition=condition, **given, progress=shown))
    except IndexError as error:
        raise UsageError(str(error)) from error
    arrays = {"samples": samples} if condition is None else {"samples": samples, "condition": condition}
    if path.suffix in SUFFIXES:
        draw_samples(samples, path, columns=columns)
    elif path.suffix == ".safetensors":
        write_bytes(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    else:
        file = BytesIO()
        if path.suffix == ".npy":
            np.save(file, samples)
        else:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        write_bytes(path, file.getvalue())
    say(f"wrote {n} samples to {path}")
    return 0


def parsed_modes(modes: int | str | list[int]) -> Any:
    """Places of modes, as :meth:`KoopmanDistiller.sample` takes them.

    Examples
    --------
    >>> parsed_modes(":20"), parsed_modes("0,2"), parsed_modes(3)
    (slice(None, 20, None), [0, 2], 3)
    """
    if not isinstance(modes, str):
        return modes
    try:
        if ":" in modes:
            places = slice(*(int(part) if part.strip() else None for part in modes.split(":")))
            # A step of zero is a ValueError here.
            places.indices(1)
            return places
        return [int(part) for part in modes.split(",")]
    except (ValueError, TypeError):
        raise UsageError(f"--modes: expected 3, [0, 1, 4] or :20, got {modes!r}") from None
