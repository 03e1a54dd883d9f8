"""``koopflow sample``, ``invert``, ``spectrum``, ``evaluate`` and ``compare``: uses of fitted models."""

from __future__ import annotations

import contextlib
import csv
import inspect
from dataclasses import asdict
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from .. import plotting
from .._arrays import to_numpy
from ..compare import compare as compare_methods
from ..exceptions import ShapeError
from ..spectrum import LevelSpectrum
from ..students import KoopmanDistiller, SegmentedDistiller
from ..teachers import FlowTeacher
from .inputs import (
    DATA,
    array_file,
    conditioning_of,
    conditions,
    input_file,
    load,
    load_either,
    load_student,
    load_teacher,
    load_whole_or_segments,
)
from .options import Keywords, Option, Settings, Stopped, UsageError, command, plain
from .results import (
    DEVICE,
    PICTURES,
    RESULTS,
    can_be_drawn,
    drawn,
    output_file,
    output_folder,
    progress,
    refuse_existing,
    say,
    write,
)

ARRAYS = (".npy", ".npz", ".safetensors")
# Options of the command that are not keywords of a model's ``sample``.
OWN = ("n", "label", "condition", "columns", "device")
STEPS = "Number of encodings of a student's path, 1 by default, or of steps of a teacher's fixed-step solver."
# Names of kinds of models in messages.
NAMES = {
    KoopmanDistiller: "a student",
    SegmentedDistiller: "a student of segments",
    FlowTeacher: "a teacher",
}
# Results of the command spectrum.
TABLES = ("summary.txt", "eigenvalues.csv", "eigenvalues.json")
FILES = (*TABLES, "eigenvalues.png", "modes.png", "spectrum.toml")


@command(
    positional="student",
    run=(Option("student", "File of a student or a teacher."), Option("output", "File for the samples.")),
    sample=(
        Option("n", "Number of samples, by default 64, or eight of each class.", int | None),
        Option("label", "Class to sample, or several, as in [0, 3]; by default all.", int | list[int] | None),
        Option("condition", "File, .npy, with the condition of each sample."),
        Option(
            "modes",
            "Modes that move, or maps of a hierarchy: 3, [0, 1, 4] or :20.",
            int | list[int] | str | None,
        ),
        Option("steps", STEPS, int | None),
        Keywords(KoopmanDistiller.sample, skip=("x0", "progress")),
        Keywords(FlowTeacher.sample, skip=("x0", "progress")),
        Option("columns", "Number of columns of a grid of images.", int | None),
        DEVICE,
    ),
    alone=RESULTS,
)
def sample(settings: Settings) -> int:
    """Draws samples from a student or a teacher. The ending of --output sets the format: a picture (.png,
    .pdf, .svg) with images in a grid or a scatter plot of points in the plane, or an array file (.npy, .npz,
    .safetensors)."""
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
            raise UsageError(f"sample.{key}: not an option for {NAMES[type(model)]}")
    if "modes" in given:
        given["modes"] = parsed_modes(given["modes"])
    shown = progress(quiet=settings["quiet"])
    try:
        samples = to_numpy(model.sample(n, condition=condition, **given, progress=shown))
    except IndexError as error:
        raise UsageError(str(error)) from error
    content = (
        drawn(samples, condition, columns) if path.suffix in PICTURES else in_file(path, samples, condition)
    )
    say(f"wrote {n} samples to {write(path, content)}")
    return 0


def in_file(path: Path, samples: Any, condition: Any | None) -> bytes:
    """The content of an array file with samples and, except in .npy, their conditions."""
    arrays = {"samples": np.ascontiguousarray(samples)}
    if condition is not None:
        arrays["condition"] = np.ascontiguousarray(condition)
    if path.suffix == ".safetensors":
        return save(arrays)
    file = BytesIO()
    if path.suffix == ".npy":
        np.save(file, samples)
    else:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


@command(
    positional="student",
    run=(
        Option("student", "File of a student."),
        Option("states", "File of data to invert, .npy or .npz."),
        Option("output", "File for the result."),
    ),
    invert=(Option("condition", "File, .npy, with the condition of each row of data."), DEVICE),
    alone=RESULTS,
)
def invert(settings: Settings) -> int:
    """Maps data to states of the source, which is noise in most cases, by a student's inverse. Writes an
    array file (.npy, .npz, .safetensors) with a row for each row of --states."""
    model = load_whole_or_segments(settings["student"], settings["device"])
    path = output_file(settings, ARRAYS)
    rows, labels = array_file(input_file(settings["states"], "--states", "an .npy or .npz file"), "--states")
    kind, condition = conditioning_of(model), None
    if settings["condition"] is not None:
        condition = conditions(model, len(rows), file=settings["condition"])[1]
    elif kind:
        condition = labels
    if bool(kind) != (condition is not None):
        raise UsageError("--condition: expected an .npy file with the condition of each state, got nothing")
    found = to_numpy(model.invert(np.asarray(rows, np.float32), condition=condition))
    say(f"wrote {len(found)} states of the source to {write(path, in_file(path, found, condition))}")
    return 0


def parsed_modes(modes: int | str | list[int]) -> Any:
    """Indices of modes, as :meth:`KoopmanDistiller.sample` takes them.

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
            # Raises ValueError for a step of zero.
            places.indices(1)
            return places
        return [int(part) for part in modes.split(",")]
    except (ValueError, TypeError):
        raise UsageError(f"--modes: expected 3, [0, 1, 4] or :20, got {modes!r}") from None


@command(
    positional="student",
    run=(
        Option("student", "File of the student."),
        Option("teacher", "File of its teacher."),
        Option("output", "Folder for the results."),
    ),
    spectrum=(
        Option("rows", "Number of modes that the summary lists.", int, 12),
        DEVICE,
        Keywords(KoopmanDistiller.spectrum, skip=("teacher", "condition")),
    ),
    alone=RESULTS,
)
def spectrum(settings: Settings) -> int:
    """Prints the modes of a student's samples and, with --teacher, which of them follow the teacher's flow.
    With --output the spectrum is also written as text, CSV, JSON and pictures."""
    keywords = settings.table("spectrum")
    rows, device = keywords.pop("rows"), keywords.pop("device")
    student = load_student(settings["student"], device)
    teacher = None if settings["teacher"] is None else load_teacher(settings["teacher"], device)
    folder = None if settings["output"] is None else output_folder(settings, FILES)
    if folder is not None:
        refuse_existing(settings, [folder / name for name in FILES])
    spectrum, modes = student.spectrum(teacher, **keywords), None
    if isinstance(spectrum, LevelSpectrum):
        summary, table = spectrum.summary(), level_rows(spectrum)
        facts: dict[str, Any] = {"eigenvalues": table}
    else:
        summary, table = spectrum.summary(rows=rows), spectrum.records()
        facts = {
            "verdict": spectrum.verdict,
            "condition_number": spectrum.condition_number,
            "stability": asdict(spectrum.stability()),
            "modes": table,
        }
    say(summary)
    if folder is None:
        return 0
    if isinstance(spectrum, LevelSpectrum):
        values = plotting.level_eigenvalues(spectrum)
    else:
        values = plotting.spectrum(spectrum)
        # Modes of colour images have no picture.
        with contextlib.suppress(ShapeError):
            modes = plotting.modes(spectrum) if can_be_drawn(spectrum.event_shape) else None
    lines = StringIO()
    writer = csv.DictWriter(lines, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    contents = (summary + "\n", lines.getvalue(), facts, values, modes, settings.to_toml())
    results = zip(FILES, contents, strict=True)
    written = [write(folder / name, content) for name, content in results if content is not None]
    say(f"wrote {', '.join(map(str, written))}")
    return 0


def level_rows(spectrum: LevelSpectrum) -> list[dict[str, Any]]:
    """One row for each eigenvalue of a hierarchy's feature maps. A hierarchy has no modes."""
    return [
        {
            "map": level.name,
            "growth": float(value.real),
            "frequency": float(value.imag),
            "energy": float(level.energy[place]),
            "residual": None if level.residual is None else float(level.residual[place]),
        }
        for level in spectrum
        for place, value in enumerate(level.eigenvalues)
    ]


@command(
    run=(
        Option("student", "File of the student."),
        Option("teacher", "File of its teacher."),
        Option("output", "File for the report, by default evaluation.json in the student's folder."),
    ),
    evaluate=(DEVICE, Keywords(KoopmanDistiller.evaluate, skip=("teacher", "data", "condition"))),
    data=DATA,
    alone=RESULTS,
)
def evaluate(settings: Settings) -> int:
    """Prints the errors of a student relative to its teacher, and the distances of both from data. Writes the
    same as JSON. Only the held-out share of --data is used: give the same data options as in training."""
    keywords = settings.table("evaluate")
    device = keywords.pop("device")
    student = load_whole_or_segments(settings["student"], device, "--student")
    teacher = load_teacher(settings["teacher"], device)
    if student.event_shape_ != teacher.event_shape:
        raise UsageError(
            f"--student: expected samples of shape {teacher.event_shape}, as the teacher's, "
            f"got {student.event_shape_}"
        )
    beside = Path(settings["student"]).with_name("evaluation.json")
    output = output_file(settings, [".json"], default=beside)
    data = load(settings, labels=bool(conditioning_of(teacher)))
    condition = data.held_out_labels
    if condition is not None:
        condition = np.resize(condition, (keywords["n"], *condition.shape[1:]))
    report = student.evaluate(teacher, data.held_out, condition=condition, **keywords)
    if isinstance(report, dict):
        found = {name: asdict(estimate) for name, estimate in report.items()}
        say(f"{len(student.students_)} students: {keywords['n']} samples, seed {keywords['seed']}")
        for name, estimate in report.items():
            say(
                f"{name.replace('_', ' '):<18}{estimate.value:.4f}  {estimate.low:.4f} to {estimate.high:.4f}"
            )
    else:
        found = report.to_dict()
        say(report)
    tables = {name: plain(settings.table(name)) for name in settings.tables}
    write(output, {"evaluation": found, "held_out": len(data.held_out), "settings": tables})
    say(f"wrote {output}")
    return 0


@command(
    run=(Option("teacher", "File of the teacher."), Option("output", "File for the table, .json.")),
    compare=(
        Option(
            "methods",
            "Name of a method, or a list such as ['KDM', 'Euler, 4 steps']. By default the usual methods for "
            "the shape of the samples.",
            list[str] | str | None,
        ),
        Keywords(compare_methods, skip=("teacher", "data", "condition", "progress")),
    ),
    data=DATA,
    alone=RESULTS,
)
def compare(settings: Settings) -> int:
    """Trains koopflow's students and other one-step students of a teacher for the same time. Measures them
    and few-step solvers on held-out data, and recommends a method. --output writes the same as JSON."""
    keywords = settings.table("compare")
    teacher = load_teacher(settings["teacher"], keywords["device"] or "cpu")
    output = None if settings["output"] is None else output_file(settings, [".json"])
    data = load(settings, labels=bool(conditioning_of(teacher)))
    keywords |= {"condition": data.held_out_labels, "progress": progress(quiet=settings["quiet"])}
    table = compare_methods(teacher, data.held_out, **keywords)
    say(table)
    if output is not None:
        say(f"wrote {write(output, table.to_dict())}")
    if table.interrupted:
        raise Stopped("interrupted: the table has the methods that were finished")
    return 0
