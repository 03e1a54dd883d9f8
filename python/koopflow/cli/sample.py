"""``koopflow sample``: a student's samples, or a teacher's, as a picture or an array file."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import to_numpy
from ..students import KoopmanDistiller
from ..teachers import FlowTeacher
from .inputs import conditions, load_either, make, refuse_existing
from .options import Command, Settings, UsageError
from .pictures import SUFFIXES, can_be_drawn, columns_of, draw_samples
from .training import for_results, progress

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
    """Load, sample, write."""
    model = load_either(settings["student"], settings["device"])
    path = _output_file(settings, model.event_shape_)
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
    try:
        samples = to_numpy(
            model.sample(n, condition=condition, **given, progress=progress(quiet=settings["quiet"]))
        )
    except IndexError as error:
        raise UsageError(f"--modes: {error}") from error
    if path.suffix in SUFFIXES:
        draw_samples(samples, path, columns=settings["columns"] or columns_of(condition))
    else:
        _write_arrays(path, samples, condition)
    print(f"wrote {n} samples to {path}")
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
            return slice(*(int(part) if part.strip() else None for part in modes.split(":")))
        return [int(part) for part in modes.split(",")]
    except (ValueError, TypeError):
        raise UsageError(f"--modes: expected 3, [0, 1, 4] or :20, got {modes!r}") from None


def _output_file(settings: Settings, event_shape: tuple[int, ...]) -> Path:
    """The file of ``--output``, whose ending says what it is to be."""
    given, endings = settings["output"], (*SUFFIXES, *ARRAYS)
    path = Path(given or "")
    if path.suffix not in endings:
        got = "nothing" if given is None else repr(given)
        raise UsageError(f"--output: expected a file that ends in {', '.join(endings)}, got {got}")
    if path.suffix in SUFFIXES and not can_be_drawn(event_shape):
        raise UsageError(
            f"--output: expected {', '.join(ARRAYS)} for samples of shape {event_shape}, which are neither "
            f"images nor in the plane, got {given!r}"
        )
    refuse_existing([path], overwrite=settings["overwrite"])
    make(path.parent)
    return path


def _write_arrays(path: Path, samples: NDArray[Any], condition: NDArray[Any] | None) -> None:
    """``samples``, and ``condition`` where the file can hold two arrays."""
    arrays = {"samples": np.ascontiguousarray(samples)}
    if condition is not None:
        arrays["condition"] = np.ascontiguousarray(condition)
    if path.suffix == ".npy":
        np.save(path, samples)
    elif path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        from safetensors.numpy import save_file

        save_file(arrays, path)
