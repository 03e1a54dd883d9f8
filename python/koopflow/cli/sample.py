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
from .inputs import conditions, load_either
from .options import Keywords, Option, Settings, UsageError, command
from .results import DEVICE, PICTURES, RESULTS, can_be_drawn, drawn, output_file, progress, say, write

ARRAYS = (".npy", ".npz", ".safetensors")
# Options that are koopflow's command line's own, not those of a model's sample.
OWN = ("n", "label", "condition", "columns", "device")
STEPS = "Encodings of a student's path, 1 by default; steps of a teacher's fixed-step solver."


@command(
    positional="student",
    run=(Option("student", "File of a student or a teacher."), Option("output", "File for the samples.")),
    sample=(
        Option("n", "Number of samples: 64, or eight of each class, by default; -n for short.", int | None),
        Option("label", "One class or several, [0, 3]: all by default.", int | list[int] | None),
        Option("condition", "An .npy file with the condition of each sample."),
        Option("modes", "Modes that move: 3, [0, 1, 4] or :20.", int | list[int] | str | None),
        Option("steps", STEPS, int | None),
        Keywords(KoopmanDistiller.sample, skip=("x0", "progress")),
        Keywords(FlowTeacher.sample, skip=("x0", "progress")),
        Option("columns", "Number of columns of a grid of images.", int | None),
        DEVICE,
    ),
    alone=RESULTS,
)
def sample(settings: Settings) -> int:
    """Draws samples of a student or a teacher into a picture (.png, .pdf, .svg: images in a grid, points of
    the plane scattered) or an array file (.npy, .npz, .safetensors), by the ending of --output."""
    model = load_either(settings["student"], settings["device"])
    path = output_file(settings, [*(PICTURES if can_be_drawn(model.event_shape_) else ()), *ARRAYS])
    n, condition = conditions(model, settings["n"], settings["label"], settings["condition"])
    columns = settings["columns"]
    if columns is not None and columns < 1:
        raise UsageError(f"--columns: expected at least 1, got {columns}")
    known = inspect.signature(type(model).sample).parameters
    given = {key: value for key, value in settings.table("sample", given=True).items() if key not in OWN}
    for key in given:
        if key not in known:
            kind = "student" if isinstance(model, KoopmanDistiller) else "teacher"
            raise UsageError(f"sample.{key}: not for a {kind}")
    if "modes" in given:
        given["modes"] = parsed_modes(given["modes"])
    shown = progress(quiet=settings["quiet"])
    try:
        samples = to_numpy(model.sample(n, condition=condition, **given, progress=shown))
    except IndexError as error:
        raise UsageError(str(error)) from error
    arrays = {"samples": np.ascontiguousarray(samples)}
    if condition is not None:
        arrays["condition"] = np.ascontiguousarray(condition)
    file = BytesIO()
    if path.suffix == ".npy":
        np.save(file, samples)
    elif path.suffix == ".npz":
        np.savez(file, **arrays)  # type: ignore[arg-type]
    elif path.suffix == ".safetensors":
        file.write(save(arrays))
    write(path, drawn(samples, condition, columns) if path.suffix in PICTURES else file.getvalue())
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
