"""``koopflow compare``: what to use on a teacher of your own."""

from __future__ import annotations

import json
from pathlib import Path

from ..compare import Comparison
from ..compare import compare as compare_methods
from .inputs import DataOptions, conditioning_of, load, load_teacher, make, refuse_existing, write_text
from .options import Command, Settings, Stopped, UsageError
from .training import for_results, progress


def compare() -> Command:
    """The command ``koopflow compare``."""
    command = Command(
        "compare",
        "Trains koopflow's students and other one-step students of a teacher for equally long, measures them "
        "and few-step solvers on held-out data, and says which to use. --output writes the same as JSON.",
        _run,
    )
    command.add("run", "teacher", str | None, words="File of the teacher.")
    command.add("run", "output", str | None, words="File for the table, .json.")
    words = "Name of a method, or ['KDM', 'Euler, 4 steps']: by default all that suit the samples."
    command.add("compare", "methods", list[str] | str | None, words=words)
    skip = ("teacher", "data", "condition", "progress", "methods")
    command.add_signature("compare", compare_methods, skip=skip)
    command.add_signature("data", DataOptions)
    return for_results(command)


def _run(settings: Settings) -> int:
    """Load, compare, print, write."""
    keywords = settings.table("compare")
    teacher = load_teacher(settings["teacher"], keywords["device"] or "cpu")
    output = None if settings["output"] is None else Path(settings["output"])
    if output is not None:
        if output.suffix != ".json":
            raise UsageError(f"--output: expected a file that ends in .json, got {str(output)!r}")
        refuse_existing([output], overwrite=settings["overwrite"])
        make(output.parent)
    data = load(settings.table("data"), labels=bool(conditioning_of(teacher)))
    table: Comparison = compare_methods(
        teacher,
        data.held_out,
        condition=data.held_out_labels,
        **keywords,
        progress=progress(quiet=settings["quiet"]),
    )
    print(table)
    if output is not None:
        write_text(output, json.dumps(table.to_dict(), indent=2) + "\n")
        print(f"wrote {output}")
    if table.interrupted:
        raise Stopped("interrupted: the table has the methods that were finished")
    return 0
