"""``koopflow spectrum``: what a student's generator is made of."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import plotting
from ..exceptions import ShapeError
from ..spectrum.levels import LevelSpectrum
from ..spectrum.spectrum import Spectrum
from ..students.distiller import KoopmanDistiller
from ..teachers.teacher import FlowTeacher
from .command import DEVICE, Command, Options, run_table
from .files import input_file, output_folder, refuse_existing, write_text
from .options import Key, keys_of, table
from .pictures import can_be_drawn, save
from .settings import Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = (
    "summary.txt",
    "eigenvalues.csv",
    "eigenvalues.json",
    "eigenvalues.png",
    "modes.png",
    "spectrum.toml",
)
_OWN = (Key("rows", int, 12, "How many modes the summary lists."), DEVICE)


def command() -> Command:
    """The command."""
    options = keys_of(KoopmanDistiller.spectrum, leave_out=("teacher", "condition"))
    return Command(
        name="spectrum",
        summary="take a student's generator apart",
        description=(
            "Prints which modes a student's samples are made of and, with --teacher, which of them follow\n"
            "the teacher's flow. With --output also as text, CSV, JSON and pictures."
        ),
        tables=[run_table("student", "teacher", "output"), table("spectrum", _OWN, options)],
        flags={
            "student": ("run", "student"),
            "--teacher": ("run", "teacher"),
            "--output": ("run", "output"),
            "--sort": ("spectrum", "sort"),
            "--count": ("spectrum", "count"),
            "--rows": ("spectrum", "rows"),
            "--seed": ("spectrum", "seed"),
            "--device": ("spectrum", "device"),
        },
        run=run,
    )


def run(settings: Settings, options: Options) -> int:
    """Load, decompose, print, write."""
    paths, keywords = settings["run"], settings["spectrum"]
    rows, device = keywords.pop("rows"), keywords.pop("device")
    student = KoopmanDistiller.load(
        input_file(paths["student"], "student", "a student's file"), device=device
    )
    teacher = None
    if paths["teacher"] is not None:
        teacher_file = input_file(paths["teacher"], "--teacher", "a teacher's file")
        teacher = FlowTeacher.load(teacher_file, device=device)
    folder = None
    if paths["output"] is not None:
        folder = output_folder(paths["output"])
        refuse_existing([folder / name for name in NAMES], overwrite=options.overwrite)
    spectrum = student.spectrum(teacher, **keywords)
    print(spectrum.summary() if isinstance(spectrum, LevelSpectrum) else spectrum.summary(rows=rows))
    if folder is not None:
        written = (
            write_levels(spectrum, folder)
            if isinstance(spectrum, LevelSpectrum)
            else write(spectrum, folder, rows)
        )
        written.append(write_text(folder / "spectrum.toml", settings.to_toml()))
        print(f"wrote {', '.join(str(path) for path in written)}")
    return 0


def write_levels(spectrum: LevelSpectrum, folder: Path) -> list[Path]:
    """The same of a hierarchy, whose feature maps have eigenvalues and no modes."""
    rows = [
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
    return [
        write_text(folder / "summary.txt", spectrum.summary() + "\n"),
        write_text(folder / "eigenvalues.csv", _as_csv(rows)),
        write_text(folder / "eigenvalues.json", json.dumps({"eigenvalues": rows}, indent=2) + "\n"),
        save(plotting.level_eigenvalues(spectrum), folder / "eigenvalues.png"),
    ]


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(spectrum: Spectrum, folder: Path, rows: int) -> list[Path]:
    """The summary, the eigenvalues as CSV and JSON, and pictures."""
    modes = modes_of(spectrum)
    facts = {
        "verdict": spectrum.verdict,
        "condition_number": spectrum.condition_number,
        "stability": asdict(spectrum.stability()),
        "modes": modes,
    }
    written = [
        write_text(folder / "summary.txt", spectrum.summary(rows=rows) + "\n"),
        write_text(folder / "eigenvalues.csv", _as_csv(modes)),
        write_text(folder / "eigenvalues.json", json.dumps(facts, indent=2) + "\n"),
    ]
    pictures: dict[str, Callable[[Spectrum], Axes]] = {"eigenvalues.png": plotting.spectrum}
    if can_be_drawn(spectrum.event_shape):
        pictures["modes.png"] = plotting.modes
    for name, draw in pictures.items():
        try:
            axes = draw(spectrum)
        except ShapeError:
            # Colour images have modes, but not every picture is one of them.
            continue
        written.append(save(axes, folder / name))
    return written


def modes_of(spectrum: Spectrum) -> list[dict[str, Any]]:
    """One row a mode; what was not measured is None."""
    residuals, spurious = spectrum.residuals, spectrum.spurious
    return [
        {
            "mode": int(spectrum.indices[place]),
            "growth": float(value.real),
            "frequency": float(value.imag),
            "energy": float(spectrum.energy[place]),
            "residual": None if residuals is None else float(residuals[place]),
            "spurious": None if spurious is None else bool(spurious[place]),
            "condition_number": float(spectrum.condition_numbers[place]),
        }
        for place, value in enumerate(spectrum.eigenvalues)
    ]
