"""``koopflow evaluate``: a student against its teacher, and both against held-out data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..students import KoopmanDistiller
from .inputs import DataOptions, conditioning_of, load, load_student, load_teacher
from .options import Command, Settings, UsageError, plain
from .results import for_results, output_file, say, write_json


def evaluate() -> Command:
    """The command ``koopflow evaluate``."""
    command = Command(
        "evaluate",
        "Prints how far a student is from its teacher and both are from data, and writes the same as JSON. "
        "Of --data, only what training held out is used: give the same data options.",
        _run,
    )
    command.add("run", "student", str | None, words="File of the student.")
    command.add("run", "teacher", str | None, words="File of its teacher.")
    command.add("run", "output", str | None, words="File for the report; evaluation.json with the student.")
    command.add("evaluate", "device", str, "cpu", "cpu, cuda, cuda:N or auto.")
    command.add_signature("evaluate", KoopmanDistiller.evaluate, skip=("teacher", "data", "condition"))
    command.add_signature("data", DataOptions)
    return for_results(command)


def _run(settings: Settings) -> int:
    keywords = settings.table("evaluate")
    device = keywords.pop("device")
    student = load_student(settings["student"], device, "--student")
    teacher = load_teacher(settings["teacher"], device)
    if student.event_shape_ != teacher.event_shape:
        raise UsageError(
            f"--student: expected samples of shape {teacher.event_shape}, as the teacher's, "
            f"got {student.event_shape_}"
        )
    beside = Path(settings["student"]).with_name("evaluation.json")
    output = output_file(settings, [".json"], default=beside)
    data = load(settings.table("data"), labels=bool(conditioning_of(teacher)))
    condition = data.held_out_labels
    if condition is not None:
        condition = np.resize(condition, (keywords["n"], *condition.shape[1:]))
    report = student.evaluate(teacher, data.held_out, condition=condition, **keywords)
    say(report)
    tables = {name: plain(settings.table(name)) for name in settings.tables}
    write_json(output, {"evaluation": report.to_dict(), "held_out": len(data.held_out), "settings": tables})
    say(f"wrote {output}")
    return 0
