"""``koopflow evaluate`` and ``koopflow compare``: models beside their teacher and held-out data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..compare import compare as compare_methods
from ..students import KoopmanDistiller
from .inputs import DATA, conditioning_of, load, load_student, load_teacher
from .options import Keywords, Option, Settings, Stopped, UsageError, command, plain
from .results import DEVICE, RESULTS, output_file, progress, say, write


@command(
    run=(
        Option("student", "File of the student."),
        Option("teacher", "File of its teacher."),
        Option("output", "File for the report; evaluation.json with the student."),
    ),
    evaluate=(DEVICE, Keywords(KoopmanDistiller.evaluate, skip=("teacher", "data", "condition"))),
    data=DATA,
    alone=RESULTS,
)
def evaluate(settings: Settings) -> int:
    """Prints how far a student is from its teacher and both are from data, and writes the same as JSON. Of
    --data, only what training held out is used: give the same data options."""
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
    data = load(settings, labels=bool(conditioning_of(teacher)))
    condition = data.held_out_labels
    if condition is not None:
        condition = np.resize(condition, (keywords["n"], *condition.shape[1:]))
    report = student.evaluate(teacher, data.held_out, condition=condition, **keywords)
    say(report)
    tables = {name: plain(settings.table(name)) for name in settings.tables}
    write(output, {"evaluation": report.to_dict(), "held_out": len(data.held_out), "settings": tables})
    say(f"wrote {output}")
    return 0


@command(
    run=(Option("teacher", "File of the teacher."), Option("output", "File for the table, .json.")),
    compare=(
        Option(
            "methods",
            "Name of a method, or ['KDM', 'Euler, 4 steps']: by default all that suit the samples.",
            list[str] | str | None,
        ),
        Keywords(compare_methods, skip=("teacher", "data", "condition", "progress")),
    ),
    data=DATA,
    alone=RESULTS,
)
def compare(settings: Settings) -> int:
    """Trains koopflow's students and other one-step students of a teacher for equally long, measures them and
    few-step solvers on held-out data, and says which to use. --output writes the same as JSON."""
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
