"""``koopflow compare``: what to use on a teacher of your own."""

from __future__ import annotations

from ..compare import compare as compare_methods
from .inputs import DataOptions, conditioning_of, load, load_teacher
from .options import Command, Settings, Stopped
from .results import for_results, output_file, progress, say, write_json


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
    keywords = settings.table("compare")
    teacher = load_teacher(settings["teacher"], keywords["device"] or "cpu")
    output = None if settings["output"] is None else output_file(settings, [".json"])
    data = load(settings.table("data"), labels=bool(conditioning_of(teacher)))
    keywords |= {"condition": data.held_out_labels, "progress": progress(quiet=settings["quiet"])}
    table = compare_methods(teacher, data.held_out, **keywords)
    say(table)
    if output is not None:
        say(f"wrote {write_json(output, table.to_dict())}")
    if table.interrupted:
        raise Stopped("interrupted: the table has the methods that were finished")
    return 0
