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
from .inputs import load_student, load_teacher
from .options import Keywords, Option, Settings, command
from .results import DEVICE, RESULTS, can_be_drawn, output_folder, refuse_existing, say, write

FILES = (
    "summary.txt",
    "eigenvalues.csv",
    "eigenvalues.json",
    "eigenvalues.png",
    "modes.png",
    "spectrum.toml",
)


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
    """Prints which modes a student's samples are made of and, with --teacher, which of them follow the
    teacher's flow. With --output also as text, CSV, JSON and pictures."""
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
