"""``koopflow evaluate``: a student against its teacher, and both against held-out data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..students.distiller import KoopmanDistiller
from ..teachers.teacher import FlowTeacher
from .command import DEVICE, Command, Options, run_table
from .conditions import conditioning_of
from .errors import UsageError
from .files import input_file, make, refuse_existing, write_text
from .inputs import FLAGS as FLAGS_OF_DATA
from .inputs import data_table, load
from .options import keys_of, table
from .settings import Settings


def command() -> Command:
    """The command."""
    return Command(
        name="evaluate",
        summary="measure a student against its teacher and held-out data",
        description=(
            "Prints how far a student is from its teacher and both are from data, and writes the same as\n"
            "JSON. Of --data, only what training held out is used: the same share and split_seed are needed."
        ),
        tables=[
            run_table("student", "teacher", "output"),
            table(
                "evaluate",
                [DEVICE],
                keys_of(KoopmanDistiller.evaluate, leave_out=("teacher", "data", "condition")),
            ),
            data_table(),
        ],
        flags={
            "--student": ("run", "student"),
            "--teacher": ("run", "teacher"),
            **FLAGS_OF_DATA,
            "-n, --count": ("evaluate", "n"),
            "--seed": ("evaluate", "seed"),
            "--device": ("evaluate", "device"),
            "--output": ("run", "output"),
        },
        run=run,
    )


def run(settings: Settings, options: Options) -> int:
    """Load, measure, print, write."""
    paths, keywords = settings["run"], settings["evaluate"]
    device = keywords.pop("device")
    student_file = input_file(paths["student"], "--student", "a student's file")
    teacher_file = input_file(paths["teacher"], "--teacher", "a teacher's file")
    student = KoopmanDistiller.load(student_file, device=device)
    teacher = FlowTeacher.load(teacher_file, device=device)
    if student.event_shape_ != teacher.event_shape:
        raise UsageError(
            f"--student: expected samples of shape {teacher.event_shape}, as the teacher's, "
            f"got {student.event_shape_}"
        )
    output = Path(paths["output"] or student_file.parent / "evaluation.json")
    if output.suffix != ".json":
        raise UsageError(f"--output: expected a file that ends in .json, got {str(output)!r}")
    refuse_existing([output], overwrite=options.overwrite)
    make(output.parent)
    settings.put("data", "labels", conditioning_of(teacher) != "none")
    data = load(settings["data"])
    condition = data.held_out_labels
    if condition is not None:
        condition = np.resize(condition, (keywords["n"], *condition.shape[1:]))
    report = student.evaluate(teacher, data.held_out, condition=condition, **keywords)
    print(report)
    facts = {
        "evaluation": report.to_dict(),
        "held_out": len(data.held_out),
        "settings": {name: settings[name] for name in settings.tables},
    }
    write_text(output, json.dumps(facts, indent=2) + "\n")
    print(f"wrote {output}")
    return 0
