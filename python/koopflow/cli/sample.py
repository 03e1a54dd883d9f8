"""``koopflow sample``: a student's samples, or a teacher's, as a picture or an array file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arrays import to_numpy
from ..exceptions import CheckpointError
from ..students.distiller import KoopmanDistiller
from ..teachers.teacher import FlowTeacher
from .command import DEVICE, Command, Options, run_table
from .conditions import asked_for, columns_of, conditioning_of
from .errors import UsageError
from .files import input_file, make, refuse_existing
from .options import Key, keys_of, table
from .pictures import SUFFIXES, can_be_drawn, draw_samples
from .settings import Settings
from .training import progress

ARRAYS = (".npy", ".npz", ".safetensors")
_OWN = (
    Key("n", int | None, None, "How many samples: 64, or eight of each class, by default."),
    Key(
        "label", list | int | None, None, "Only this class, or with [0, 3] these, a row each: all by default."
    ),
    Key("condition", str | None, None, "An .npy file with the condition of each sample."),
    Key("modes", list | int | str | None, None, "Let only these modes move: 3, [0, 1, 4] or :20."),
    Key("steps", int | None, None, "Encodings of a student (1); steps of a teacher's fixed-step solver."),
    Key("columns", int | None, None, "Of a grid of images."),
    DEVICE,
)


def command() -> Command:
    """The command."""
    of_teachers = keys_of(FlowTeacher.sample, leave_out=("x0", "progress"))
    return Command(
        name="sample",
        summary="draw samples from a student or a teacher",
        description=(
            "Draws samples into a picture (.png, .pdf, .svg: images in a grid, points in the plane\n"
            "scattered) or into an array file (.npy, .npz, .safetensors), by the ending of --output."
        ),
        tables=[run_table("student", "output"), table("sample", _OWN, of_teachers)],
        flags={
            "student": ("run", "student"),
            "-n, --count": ("sample", "n"),
            "--output": ("run", "output"),
            "--label": ("sample", "label"),
            "--condition": ("sample", "condition"),
            "--modes": ("sample", "modes"),
            "--steps": ("sample", "steps"),
            "--solver": ("sample", "solver"),
            "--columns": ("sample", "columns"),
            "--seed": ("sample", "seed"),
            "--device": ("sample", "device"),
        },
        run=run,
    )


def run(settings: Settings, options: Options) -> int:
    """Load, sample, write."""
    asked = settings["sample"]
    model = load_model(input_file(settings["run"]["student"], "student", "a student's file"), settings)
    path = output_file(settings["run"]["output"], event_shape_of(model), options)
    labels = asked["label"]
    n, condition = asked_for(
        conditioning_of(model),
        asked["n"],
        [labels] if isinstance(labels, int) else labels,
        asked["condition"],
    )
    keywords = keywords_for(model, settings, options)
    try:
        samples = to_numpy(model.sample(n, condition=condition, **keywords))
    except IndexError as error:
        raise UsageError(f"--modes: {error}") from error
    if path.suffix in SUFFIXES:
        draw_samples(samples, path, columns=asked["columns"] or columns_of(condition))
    else:
        write_arrays(path, samples, condition)
    print(f"wrote {n} samples to {path}")
    return 0


def load_model(path: Path, settings: Settings) -> KoopmanDistiller | FlowTeacher:
    """The student, or else the teacher, of a file."""
    device = settings["sample"]["device"]
    try:
        return KoopmanDistiller.load(path, device=device)
    except CheckpointError as error:
        try:
            return FlowTeacher.load(path, device=device)
        except CheckpointError:
            raise error from None


def keywords_for(
    model: KoopmanDistiller | FlowTeacher, settings: Settings, options: Options
) -> dict[str, Any]:
    """What the model's own ``sample`` takes of the settings; the rest must not have been set."""
    given = settings.given("sample")
    function = type(model).sample
    names = {key.name for key in keys_of(function, leave_out=("x0", "n", "condition", "progress"))}
    for name in given:
        if name not in names | {key.name for key in _OWN} or (name == "modes" and "modes" not in names):
            kind = "student" if isinstance(model, KoopmanDistiller) else "teacher"
            raise UsageError(f"sample.{name}: not for a {kind}")
    keywords = {name: value for name, value in given.items() if name in names and value is not None}
    if "modes" in keywords:
        keywords["modes"] = parsed_modes(keywords["modes"])
    return {**keywords, "progress": progress(quiet=options.quiet)}


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


def event_shape_of(model: KoopmanDistiller | FlowTeacher) -> tuple[int, ...]:
    """The shape of one sample."""
    return model.event_shape if isinstance(model, FlowTeacher) else model.event_shape_


def output_file(given: str | None, event_shape: tuple[int, ...], options: Options) -> Path:
    """The file of ``--output``, whose ending says what it is to be."""
    expected = f"a file that ends in {', '.join((*SUFFIXES, *ARRAYS))}"
    if given is None:
        raise UsageError(f"--output: expected {expected}, got nothing")
    path = Path(given)
    if path.suffix not in (*SUFFIXES, *ARRAYS):
        raise UsageError(f"--output: expected {expected}, got {given!r}")
    if path.suffix in SUFFIXES and not can_be_drawn(event_shape):
        raise UsageError(
            f"--output: expected {', '.join(ARRAYS)} for samples of shape {event_shape}, which are neither "
            f"images nor in the plane, got {given!r}"
        )
    refuse_existing([path], overwrite=options.overwrite)
    make(path.parent)
    return path


def write_arrays(path: Path, samples: NDArray[Any], condition: NDArray[Any] | None) -> None:
    """``samples``, and ``condition`` beside it where the file can hold two."""
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
