"""Options of commands: flags, whose types jsonargparse checks, and the same keys in a TOML file."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import docstring_parser
import tomli_w
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from .. import __version__
from ..options import Options, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Tables of a file. One file may be used for all commands: each reads its own tables.
TABLES = (
    *("run", "data", "populations", "teacher", "segments", "student", "fit"),
    *(
        "sample",
        "invert",
        "spectrum",
        "flow_spectrum",
        "tilt",
        "forecaster",
        "forecast",
        "evaluate",
        "compare",
    ),
)
# The table of options that exist only on the command line.
ALONE = "alone"
# Keys of [run] that name files. A command ignores those of other commands.
PATHS = ("output", "teacher", "student", "model", "against", "paths", "save", "states")
# Keys of [data] that have a short flag, without the table's name.
SHORT = {"source": "data", **{key: key for key in ("size", "channels", "labels", "held_out")}}
# Options with a flag of one letter.
LETTERS = {"n": "-n", "output": "-o"}
# Types of options whose flag takes any number of values, and the type of each value.
SEVERAL = {list[str] | None: str, list[float] | None: float}
# TOML has no null, so this text stands for None.
NONE = "none"
# Table of the values that koopflow chose. It is written for information, and ignored on reading.
RECORD = "resolved"

# Files and flags may give values only: no name in them is imported.
set_parsing_settings(
    subclasses_disabled=[Options], import_path_denylist=["*"], import_path_allowlist=["koopflow"]
)


class UsageError(Exception):
    """A wrong flag, key, file or value. The message is one line that names it."""


class Stopped(Exception):
    """Ctrl-C ended a command whose result was kept. The message says where it is."""


@dataclass(frozen=True)
class Settings:
    """The values of a command's options, by their full names. ``tables`` has the full name of each key."""

    command: str
    tables: Mapping[str, Mapping[str, str]]
    values: Namespace
    defaults: Namespace

    def __getitem__(self, full: str) -> Any:
        return self.values[full]

    def table(self, name: str, *, given: bool = False) -> dict[str, Any]:
        """The values of a table. With ``given``, only those that differ from their defaults."""
        values = {key: (self[full], self.defaults[full]) for key, full in self.tables[name].items()}
        # A file has lists where Python has tuples.
        return {key: n for key, (n, usual) in values.items() if not given or plain(n) != plain(usual)}

    def to_toml(self, record: Mapping[str, Any] | None = None) -> str:
        """The text of a file that repeats this run. ``record`` has the values that koopflow chose."""
        text = f"# koopflow {__version__}. To repeat this run: koopflow {self.command} --config <this file>\n"
        text += tomli_w.dumps({"command": self.command})
        for name in self.tables:
            unset = [key for key, value in self.table(name).items() if value is None]
            note = f"# not set: {', '.join(unset)}\n" if unset else ""
            text += f"\n{note}{tomli_w.dumps({name: plain(self.table(name))})}"
        if record:
            text += f"\n# Chosen by koopflow; ignored on reading.\n{tomli_w.dumps({RECORD: plain(record)})}"
        return text


class Option(NamedTuple):
    """One option, with its help text. By default its value is a text that may be omitted."""

    name: str
    words: str
    kind: Any = str | None
    default: Any = None


class Keywords(NamedTuple):
    """The keywords of a function or class as options, with help from its docstring."""

    of: Any
    skip: Collection[str] = ()

    def options(self) -> Iterator[Option]:
        """One option for each keyword."""
        words = {
            name.strip(): re.sub(r":\w+:`~?([^`]*)`|``", r"\1", " ".join((entry.description or "").split()))
            for entry in docstring_parser.parse(inspect.getdoc(self.of) or "").params
            for name in entry.arg_name.split(",")
        }
        called = inspect.getattr_static(self.of, "__init__") if isinstance(self.of, type) else self.of
        hints = typing.get_type_hints(called)
        for name, parameter in inspect.signature(called).parameters.items():
            if name in ("self", *self.skip):
                continue
            union = typing.get_origin(hints[name]) in (types.UnionType, typing.Union)
            kinds = typing.get_args(hints[name]) if union else (hints[name],)
            # Python also accepts functions, and mappings for option dataclasses. Neither is possible here.
            kind = reduce(or_, [kind for kind in kinds if typing.get_origin(kind) not in (Callable, Mapping)])
            default = None if parameter.default is parameter.empty else parameter.default
            yield Option(name, words.get(name, ""), kind | None if default is None else kind, default)


Runner: TypeAlias = Callable[[Settings], int]


def command(
    positional: str = "", **tables: Sequence[Option | Keywords]
) -> Callable[[Runner], partial[Command]]:
    """Decorator that makes a command from the function that runs it, with the options of each table."""
    return lambda run: partial(Command, run, tables, positional)


class Command:
    """One command: its options, their parser, and the function that runs it with the settings."""

    def __init__(
        self, run: Runner, tables: Mapping[str, Sequence[Option | Keywords]], positional: str = ""
    ) -> None:
        self.run, self.name = run, run.__name__.replace("_", "-")
        # The full name of each option, by table and key; then those whose flag may be the key alone.
        self.tables: dict[str, dict[str, str]] = {}
        self._short: dict[str, str] = {}
        self._switches: set[str] = set()
        # Flags with two values, as in --observe MASK VALUES.
        self._pairs: set[str] = set()
        # Flags with any number of values, as in --snapshots FIRST SECOND THIRD, and the type of each value.
        self._lists: dict[str, Any] = {}
        # Names of options that are grouped in dataclasses, and former names of some.
        self._nested: list[str] = []
        self._renamed: dict[str, str] = {}
        self._parser = ArgumentParser(
            prog=f"koopflow {self.name}",
            usage=f"koopflow {self.name} {positional.upper()}{' ' * bool(positional)}[options]",
            description=run.__doc__,
            exit_on_error=False,
            allow_abbrev=False,
        )
        # Both are removed before parsing. They are added here for the help.
        words = "TOML file of settings, such as one that a run has written. Flags override it."
        self._parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help=words)
        words = "Any option by its name in the file, as in --set training.ema_decay=0.99."
        self._parser.add_argument("--set", metavar="KEY=VALUE", default=argparse.SUPPRESS, help=words)
        for table, entries in tables.items():
            title = "only on the command line" if table == ALONE else f"table [{table}] of a file"
            group, keys = self._parser.add_argument_group(title), self.tables.setdefault(table, {})
            for entry in entries:
                for option in [entry] if isinstance(entry, Option) else entry.options():
                    if option.name not in keys:
                        keys[option.name] = self._add(group, table, option, option.name == positional)

    def _add(self, group: Any, table: str, option: Option, positional: bool) -> str:  # noqa: FBT001
        """Add one option; returns its full name."""
        full, short, words = option.name, option.name, option.words.replace("%", "%%")
        if table == "data":
            full, short = f"data.{option.name}", SHORT.get(option.name, "")
            words += f" Short form: --{short}." if short else ""
        elif full in LETTERS:
            words += f" Short form: {LETTERS[full]}."
        if short:
            self._short[short] = full
        if option.kind is bool:
            self._switches.add(full)
        if option.kind in SEVERAL:
            self._lists[full] = SEVERAL[option.kind]
        for kind in typing.get_args(option.kind):
            if kind == tuple[str, str]:
                self._pairs.add(full)
            if isinstance(kind, type) and issubclass(kind, Options):
                self._nested += [f"{full}.{key}" for key in kind.names()]
                self._renamed |= {old: f"{full}.{new}" for old, new in kind.renamed.items()}
        more: dict[str, Any] = {"nargs": "?"} if positional else {}
        more |= {"type": option.kind, "default": option.default, "help": words}
        group.add_argument(full if positional else f"--{full}", **more)
        return full

    def parse(self, arguments: Sequence[str]) -> Settings:
        """The settings: defaults, overridden by the file of ``--config``, overridden by flags.

        With ``--resume`` and without ``--config``, the file of the run in the output folder is read. Raises
        ``UsageError`` for wrong arguments.
        """
        defaults = self._parser.get_defaults()
        config, flags = self._split(arguments)
        if config is not None:
            self._read(Path(config))
        try:
            values = self._parser.instantiate(self._parser.parse_args(flags))
        except argparse.ArgumentError as error:
            raise UsageError(_one_line(str(error), self._nested)) from error
        for full in (full for keys in self.tables.values() for full in keys.values()):
            value = values[full]
            if full.endswith("seed") and value is not None and not 0 <= value < 2**62:
                raise UsageError(f"--{full}: expected a non-negative integer, got {value}")
            if isinstance(value, int) and abs(value) >= 2**63:
                raise UsageError(f"--{full}: expected an integer of 64 bits, got {value}")
            if isinstance(value, str) and "\0" in value:
                raise UsageError(f"--{full}: expected text without a null character, got {value!r}")
        if values.get("resume") and values["output"] and config is None:
            before = Path(values["output"]) / f"{self.name}.toml"
            if before.is_file():
                return self.parse(["--config", str(before), *arguments])
        tables = {name: keys for name, keys in self.tables.items() if name != ALONE}
        return Settings(self.name, tables, values, defaults)

    def _split(self, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
        """The file of ``--config``, and everything else as flags under their full names."""
        config, flags, rest = None, [], list(arguments)
        while rest:
            name, equals, value = rest.pop(0).partition("=")
            if name in ("--config", "--set"):
                if not equals and not rest:
                    raise UsageError(f"{name}: expected a value, got nothing")
                value = value if equals else rest.pop(0)
                if name == "--config":
                    config = value
                    continue
                key, equals, value = (part.strip() for part in value.partition("="))
                if not equals or not key:
                    raise UsageError(f"--set: expected key=value, got {key!r}")
                name = f"--{key}"
            name = next((f"--{full}" for full, letter in LETTERS.items() if name == letter), name)
            if name.startswith("--") and name != "--help":
                full = self._full(name[2:].replace("-", "_"), name)
                if not equals and full in self._switches:
                    equals, value = "=", rest.pop(0) if rest[:1] in (["true"], ["false"]) else "true"
                if not equals and full in self._pairs and len(rest) > 1:
                    equals, value = "=", json.dumps([rest.pop(0), rest.pop(0)])
                if not equals and full in self._lists and rest[:1] and not rest[0].startswith("["):
                    equals, value = "=", _several(rest, self._lists[full])
                name = f"--{full}"
            flags.append(f"{name}={_null(value)}" if equals else _null(name))
        return config, flags

    def _read(self, path: Path) -> None:
        """Take the values of a file as defaults."""
        try:
            # The encoding removes the byte-order mark that some editors write.
            content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise UsageError(f"--config: cannot read {path}: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"--config: {path} is not TOML: {error}") from error
        command = content.pop("command", self.name)
        if command != self.name:
            raise UsageError(f"--config: expected a file of koopflow {self.name}, got {path} of {command!r}")
        content.pop(RECORD, None)
        found: dict[str, Any] = {}
        for table, values in content.items():
            if table not in TABLES:
                raise UsageError(f"{path}: no table {table!r}{nearest(table, TABLES)}")
            if not isinstance(values, dict):
                raise UsageError(f"{path}: {table}: expected a table, got {values!r}")
            for key, value in values.items() if table in self.tables else ():
                if table != "run" or key in self.tables["run"] or key not in PATHS:
                    found[self._full(f"{table}.{key}", f"{path}: {table}")] = _none(value)
        try:
            # jsonargparse reads dots in full names as nested tables.
            self._parser.parse_object(Namespace(found).as_dict())  # type: ignore[no-untyped-call]
        except argparse.ArgumentError as error:
            said = _one_line(str(error), self._nested).removeprefix("--")
            raise UsageError(f"{path}: {said}") from error
        self._parser.set_defaults(found)

    def _full(self, name: str, where: str) -> str:
        """The full name of an option. Raises ``UsageError`` with the nearest known name."""
        keys, (head, dot, rest) = self._short, name.partition(".")
        if dot and head in self.tables:
            keys = self.tables[head]
            head, dot, rest = rest.partition(".")
        if head in keys:
            return keys[head] + dot + rest
        known = [*self._nested, *(full for keys in self.tables.values() for full in keys.values())]
        moved = next((full for full in known if full.endswith(f".{head}")), self._renamed.get(head))
        hint = f": it is {moved!r}" if moved else nearest(head, [*keys, *known])
        raise UsageError(f"{where}: no option {head!r}{hint} (koopflow {self.name} --help lists all)")


def plain(value: Any) -> Any:
    """A value in the types of TOML and JSON. Keys whose value is None are left out."""
    if isinstance(value, Options):
        value = value.given()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if item is not None}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _one_line(message: str, nested: Collection[str]) -> str:
    r"""The message of jsonargparse about a wrong value, in one line.

    Examples
    --------
    >>> _one_line("Parser key \"steps\":\n  Expected a <class 'int'>. Got value: wide", [])
    '--steps: expected int, got wide'
    """
    key = ".".join(re.findall(r'Parser key "([^"]+)"', message))
    unknown = re.search(
        r"(?<=Option ')\w+(?=' is not accepted)|(?<=unrecognized arguments: --)[\w.]+", message
    )
    if unknown is not None:
        return f"--{key}: no option {unknown[0]!r}{nearest(f'{key}.{unknown[0]}', nested)}"
    got = re.search(r"(?:Got|Given) value: (.*)", message)
    if not key or got is None:
        return " ".join(message.split())
    kinds = re.findall(r"Expected an? (?:<class ')?(\w[^'>.\n]*)", message)
    if "import path" in message or "Not a valid subclass" in message or "collections" in kinds:
        kinds = ["a table", *(kind for kind in kinds if "import path" not in kind and kind != "collections")]
    kinds = sorted(dict.fromkeys(NONE if kind == "NoneType" else kind for kind in kinds), key=NONE.__eq__)
    return f"--{key}: expected {' or '.join(kinds)}, got {got[1]}"


def _several(rest: list[str], kind: type) -> str:
    """The values before the next flag as one list. They are removed from ``rest``.

    Examples
    --------
    >>> _several(rest := ["-1.5", "2", "--steps", "3"], float), rest
    ('[-1.5, 2]', ['--steps', '3'])
    """
    values: list[str] = []
    while rest and (not rest[0].startswith("-") or re.match(r"-\.?\d", rest[0])):
        values.append(rest.pop(0))
    return json.dumps(values) if kind is str else f"[{', '.join(values)}]"


def _null(text: str) -> str:
    return "null" if text == NONE else text


def _none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _none(item) for key, item in value.items()}
    return None if value == NONE else value
