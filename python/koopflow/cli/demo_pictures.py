"""The pictures of ``koopflow demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core, plotting
from ..students.distiller import KoopmanDistiller
from ..teachers.teacher import FlowTeacher

Ends = dict[str, NDArray[Any]]


def draw_plane(
    folder: Path,
    name: str,
    held_out: NDArray[Any],
    teacher: FlowTeacher,
    student: KoopmanDistiller,
    ends: Ends,
    seed: int,
) -> list[Path]:
    """Samples, paths, spectrum and training of a two-dimensional case."""
    count = min(4_000, len(held_out), len(ends["student, 1 step"]))
    sets = {
        "data": held_out[:count],
        "teacher, dopri5": ends["teacher, dopri5"][:count],
        "student, one step": ends["student, 1 step"][:count],
    }
    times = np.linspace(0.0, 1.0, 33).tolist()
    noise = _core.normal((24, 2), seed)
    paths = plotting.paths(
        student.sample_path(noise, times=times),
        teacher.trajectory(noise, times=times),
        ax=plotting.new_figure((6.6, 4.4)).add_subplot(),
        background=held_out[:1500],
        title="student's paths over the teacher's, same noise",
    )
    return [
        _write(plotting.side_by_side(sets)[0].figure, folder / f"{name}-samples.png"),
        _write(paths.figure, folder / f"{name}-paths.png"),
        *_draw_student(folder, name, student),
    ]


def draw_digits(
    folder: Path,
    name: str,
    held_out: NDArray[Any],
    teacher: FlowTeacher,
    student: KoopmanDistiller,
    ends: Ends,
    seed: int,
) -> list[Path]:
    """Digits from the same noise, their paths, spectrum and training."""
    figure = plotting.new_figure((10.4, 3.7))
    panels = {
        "held-out data": held_out,
        "teacher, dopri5": ends["teacher, dopri5"],
        "student, one step, from the same noise": ends["student, 1 step"],
    }
    for ax, (title, images) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        plotting.image_grid(images[:64], ax=ax, columns=8, title=title)

    times = np.linspace(0.0, 1.0, 11).tolist()
    noise = _core.normal((5, *teacher.event_shape), seed)
    exact, ours = teacher.trajectory(noise, times=times), student.sample_path(noise, times=times)
    # [T, B, 64] twice becomes, for each digit, a row of the teacher's path over one of the student's.
    rows = np.stack([exact, ours]).transpose(2, 0, 1, 3).reshape(-1, exact.shape[-1])
    paths = plotting.image_grid(
        rows,
        columns=len(times),
        limits=(-1.5, 1.5),
        title="noise to digit: teacher's path above, student's below",
    )
    return [
        _write(figure, folder / f"{name}-samples.png"),
        _write(paths.figure, folder / f"{name}-paths.png"),
        *_draw_student(folder, name, student),
    ]


def _draw_student(folder: Path, name: str, student: KoopmanDistiller) -> list[Path]:
    spectrum = plotting.spectrum(student.spectrum(), title=f"{name}: spectrum of the student's generator")
    training = plotting.loss_history(student.history_, title=f"{name}: distillation")
    return [
        _write(spectrum.figure, folder / f"{name}-spectrum.png"),
        _write(training.figure, folder / f"{name}-training.png"),
    ]


def _write(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    return path
