"""``koopflow spectrum``: what a student's generator is made of."""

from __future__ import annotations

import contextlib
import csv
from dataclasses import asdict
from io import StringIO
from typing import Any

from .. import plotting
from ..exceptions import ShapeError
from ..spectrum import LevelSpectrum
from ..students import KoopmanDistiller
from .inputs import load_student, load_teacher, output_folder, refuse_existing, write_text
from .options import Command, Settings
from .pictures import can_be_drawn, save
from .results import for_results, say, write_json

NAMES = (
    "summary.txt",
    "eigenvalues.csv",
    "eigenvalues.json",
    "eigenvalues.png",
    "modes.png",
    "spectrum.toml",
)


def spectrum() -> Command:
    """The command ``koopflow spectrum``."""
    command = Command(
        "spectrum",
        "Prints which modes a student's samples are made of and, with --teacher, which of them follow the "
        "teacher's flow. With --output also as text, CSV, JSON and pictures.",
        _run,
    )
    command.add("run", "student", str | None, words="File of the student.", positional=True)
    command.add("run", "teacher", str | None, words="File of its teacher.")
    command.add("run", "output", str | None, words="Folder for the results.")
    command.add("spectrum", "rows", int, 12, "Number of modes that the summary lists.")
    command.add("spectrum", "device", str, "cpu", "cpu, cuda, cuda:N or auto.")
    command.add_signature("spectrum", KoopmanDistiller.spectrum, skip=("teacher", "condition"))
    return for_results(command)


def _run(settings: Settings) -> int:
    keywords = settings.table("spectrum")
    rows, device = keywords.pop("rows"), keywords.pop("device")
    student = load_student(settings["student"], device)
    teacher = None if settings["teacher"] is None else load_teacher(settings["teacher"], device)
    folder = None if settings["output"] is None else output_folder(settings["output"])
    if folder is not None:
        refuse_existing([folder / name for name in NAMES], overwrite=settings["overwrite"])
    spectrum = student.spectrum(teacher, **keywords)
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
    text, lines, numbers, values, modes, toml = (folder / name for name in NAMES)
    write_text(text, summary + "\n")
    file = StringIO()
    writer = csv.DictWriter(file, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    write_text(lines, file.getvalue())
    write_json(numbers, facts)
    written = [text, lines, numbers, values]
    if isinstance(spectrum, LevelSpectrum):
        save(plotting.level_eigenvalues(spectrum), values)
    else:
        save(plotting.spectrum(spectrum), values)
        # Modes of colour images have no picture.
        with contextlib.suppress(ShapeError):
            if can_be_drawn(spectrum.event_shape):
                written.append(save(plotting.modes(spectrum), modes))
    written.append(write_text(toml, settings.to_toml()))
    say(f"wrote {', '.join(str(path) for path in written)}")
    return 0


def level_rows(spectrum: LevelSpectrum) -> list[dict[str, Any]]:
    """One row for each eigenvalue of a hierarchy's feature maps, which have no modes."""
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
