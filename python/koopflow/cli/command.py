"""A command: its tables, the flags that stand for their keys, and what runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args

from .errors import USAGE_ERROR
from .options import Key, Table
from .settings import Settings, collect

# Where files are; one table for all commands.
RUN = (
    Key("output", str | None, None, "Where results go."),
    Key("teacher", str | None, None, "A teacher's safetensors file."),
    Key("student", str | None, None, "A student's safetensors file."),
)
DEVICE = Key("device", str, "cpu", "cpu, cuda, cuda:N or auto (default: cpu).")
TABLES = ("run", "data", "teacher", "student", "fit", "sample", "spectrum", "evaluate", "compare")


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


@dataclass(frozen=True)
class Options:
    """What a command was asked for beside its settings."""

    overwrite: bool = False
    resume: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Command:
    """One command with settings.

    Attributes
    ----------
    tables : sequence of Table
        In the order in which ``--set`` looks for a key.
    flags : mapping
        From a flag, or a name without dashes for a positional argument, to table and key; those whose key
        does not exist are left out.
    run : callable
        Called with settings and options; returns the exit code.
    """

    name: str
    summary: str
    description: str
    tables: Sequence[Table]
    flags: Mapping[str, tuple[str, str]]
    run: Callable[[Settings, Options], int]
    resumes: bool = False

    def add_to(self, commands: Any) -> None:
        """Add the command to subparsers."""
        tables = {table.name: table for table in self.tables}
        parser = commands.add_parser(
            self.name,
            help=self.summary,
            description=self.description,
            epilog=self._others(tables),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        destinations = {}
        for flag, (table_name, key_name) in self.flags.items():
            key = tables[table_name].keys.get(key_name)
            if key is None:
                continue
            positional = not flag.startswith("-")
            destination = f"{table_name}.{key_name}"
            destinations[destination] = (
                table_name,
                key,
                flag.split(",")[-1].strip() if "," in flag else flag,
            )
            arguments: dict[str, Any] = {
                "default": argparse.SUPPRESS,
                "help": key.help.replace("%", "%%"),
            }
            if key.kind is bool:
                arguments |= {"action": "store_const", "const": "true"}
            else:
                arguments["metavar"] = flag.upper() if positional else _metavar(key)
            if positional:
                parser.add_argument(destination, nargs="?", **arguments)
            else:
                parser.add_argument(
                    *[part.strip() for part in flag.split(",")], dest=destination, **arguments
                )
        parser.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="a TOML file of settings, such as one that a run has written; flags win over it",
        )
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="set any key, with a value as in TOML: --set fidelity=endpoint --set weights.phase=0.3",
        )
        if self.resumes:
            parser.add_argument(
                "--resume",
                action="store_true",
                help="go on from where the run in the output folder was cut off, with its settings",
            )
        parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
        parser.add_argument("--quiet", action="store_true", help="print no progress")
        parser.set_defaults(run=lambda options: self._start(options, destinations))

    def settings(self) -> Settings:
        """With nothing but defaults."""
        return Settings(self.name, self.tables, elsewhere=TABLES)

    def _start(self, options: argparse.Namespace, flags: Mapping[str, tuple[str, Key, str]]) -> int:
        asked = Options(options.overwrite, getattr(options, "resume", False), options.quiet)
        settings = collect(self.settings(), options, flags)
        if asked.resume and options.config is None:
            # The settings of the run that was cut off, under what the command line says now.
            before = Path(settings["run"]["output"] or "") / f"{self.name}.toml"
            if settings["run"]["output"] and before.is_file():
                options.config = before
                settings = collect(self.settings(), options, flags)
        return self.run(settings, asked)

    def _others(self, tables: Mapping[str, Table]) -> str:
        flagged = set(self.flags.values())
        lines = ["Keys for --set and for the tables of --config, beside those that have flags:"]
        for name, each in tables.items():
            others = [key for key in each.keys if (name, key) not in flagged]
            if others:
                lines.append(f"  [{name}] {', '.join(others)}")
        return "\n".join(lines) if len(lines) > 1 else ""


def run_table(*names: str) -> Table:
    """The table of paths; those that only other commands use may stand in a file for all of them."""
    return Table(
        "run",
        {key.name: key for key in RUN if key.name in names},
        elsewhere=frozenset(key.name for key in RUN if key.name not in names),
    )


def _metavar(key: Key) -> str:
    if key.name in ("teacher", "student", "trajectory_file", "condition"):
        return "FILE"
    return {bool: "", int: "N", float: "NUMBER"}.get(_single(key.kind), "VALUE")


def _single(kind: Any) -> Any:
    """The type beside None, where there is one."""
    kinds = [part for part in get_args(kind) if part is not NoneType] or [kind]
    return kinds[0] if len(kinds) == 1 else None
