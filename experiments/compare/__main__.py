"""``koopflow compare``: koopflow's students beside what a user would pick in their place."""

from __future__ import annotations

from koopflow.cli.command import Command, Options, run_table
from koopflow.cli.errors import Stopped
from koopflow.cli.files import output_folder, refuse_existing, write_text
from koopflow.cli.options import Key, keys_of, table
from koopflow.cli.settings import Settings
from koopflow.cli.training import progress, without_warnings

from . import claims, compare, write
from .report import CSV, JSON, MARKDOWN

# Two minutes on two cores: whether it runs, and the order of the numbers.
QUICK = {
    "problems": ["moons/ot", "checkerboard/independent"],
    "seconds": 2.0,
    "steps": None,
    "seeds": [0],
    "trajectories": 4096,
    "teacher_steps": 1500,
    "n": 500,
}
SETTINGS = "compare.toml"


def command() -> Command:
    """The command."""
    options = keys_of(compare, leave_out=("output", "resume", "progress"))
    return Command(
        name="compare",
        summary="measure students beside solvers, reflow and other one-step methods",
        description=(
            "Trains a teacher for every problem and seed, fits every method to it, and writes tables (CSV,\n"
            "JSON, Markdown), pictures, and which of koopflow's claims hold. --quick takes two minutes."
        ),
        tables=[
            run_table("output"),
            table("compare", [Key("quick", bool, False, "Two small problems, one seed.")], options),
        ],
        flags={
            "problems": ("compare", "problems"),
            "--output": ("run", "output"),
            "--methods": ("compare", "methods"),
            "--seconds": ("compare", "seconds"),
            "--steps": ("compare", "steps"),
            "--seeds": ("compare", "seeds"),
            "--device": ("compare", "device"),
            "--quick": ("compare", "quick"),
        },
        run=run,
        resumes=True,
    )


def run(settings: Settings, options: Options) -> int:
    """Compare, print, write."""
    folder = output_folder(settings["run"]["output"])
    if not options.resume:
        refuse_existing(
            [folder / CSV, folder / JSON, folder / MARKDOWN, folder / "parts"],
            overwrite=options.overwrite,
            hint=", --resume goes on with it",
        )
    keywords = settings["compare"]
    if keywords.pop("quick"):
        keywords |= {name: value for name, value in QUICK.items() if name not in settings.given("compare")}
    write_text(folder / SETTINGS, settings.to_toml())
    with without_warnings():
        table = compare(
            **keywords, output=folder, resume=options.resume, progress=progress(quiet=options.quiet)
        )
    if not len(table):
        raise Stopped("stopped before the first part was finished: nothing to write")
    for file in write(table, folder):
        print(f"wrote {file}")
    for claim in claims(table):
        print(claim)
    if table.interrupted:
        raise Stopped(f"stopped early; --resume goes on with the parts in {folder}")
    return 0
