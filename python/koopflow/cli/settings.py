"""What a run was asked for: defaults, then a TOML file, then the command line; and back into a file."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from .errors import UsageError
from .options import NONE, Key, Table, parse_value, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What a run found out. Files carry it for a person to read; it is not read back.
RECORD = "resolved"


class Settings:
    """The values of every table of a command.

    Parameters
    ----------
    command : str
        Its name, which the files that it writes carry.
    tables : sequence of Table
        Its own; a key of the command line without a table is looked for in this order.
    elsewhere : sequence of str
        Names of other commands' tables, which one file for all of them may have.
    """

    def __init__(self, command: str, tables: Sequence[Table], *, elsewhere: Iterable[str] = ()) -> None:
        self.command = command
        self.tables = {table.name: table for table in tables}
        self._elsewhere = set(elsewhere) - set(self.tables)
        self._given: dict[str, dict[str, Any]] = {name: {} for name in self.tables}

    def __getitem__(self, table: str) -> dict[str, Any]:
        """All values of a table, defaults included."""
        defaults = {key.name: key.default for key in self.tables[table].keys.values()}
        return {**defaults, **self._given[table]}

    def given(self, table: str) -> dict[str, Any]:
        """Only what a file or the command line set."""
        return dict(self._given[table])

    def put(self, table: str, name: str, value: Any) -> None:
        """Set what follows from other settings."""
        self._given[table][name] = value

    def read(self, path: Path) -> None:
        """Take a file's values."""
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"--config: cannot read {path}: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"--config: {path} is not TOML: {error}") from error
        command = content.pop("command", self.command)
        if command != self.command:
            raise UsageError(
                f"--config: expected a file of koopflow {self.command}, got {path} of {command!r}"
            )
        content.pop(RECORD, None)
        for name, values in content.items():
            if name in self._elsewhere:
                continue
            if name not in self.tables:
                raise unknown(f"{path}: no such table", name, [*self.tables, *self._elsewhere])
            if not isinstance(values, dict):
                raise UsageError(f"{path}: {name}: expected a table, got {values!r}")
            self._take(name, values, f"{path}: ")

    def assign(self, text: str) -> None:
        """Take one ``key=value`` or ``table.key=value`` of the command line."""
        name, equals, value = text.partition("=")
        parts = [part.strip() for part in name.split(".")]
        if not equals or not all(parts):
            raise UsageError(f"--set: expected key=value, got {text!r}")
        if parts[0] in self.tables and len(parts) > 1:
            table, *parts = parts
        else:
            holders = [table.name for table in self.tables.values() if parts[0] in table.keys]
            if not holders:
                known = {key for table in self.tables.values() for key in table.keys}
                raise unknown("--set: no such key", name.strip(), known)
            table = holders[0]
        nested: Any = parse_value(value.strip())
        for part in reversed(parts[1:]):
            nested = {part: nested}
        self._take(table, {parts[0]: nested}, "--set ")

    def flag(self, table: str, key: Key, text: str, flag: str) -> None:
        """Take the text of a flag."""
        self._given[table][key.name] = key.parsed(text, flag)

    def _take(self, table: str, values: Mapping[str, Any], where: str) -> None:
        for name, value in values.items():
            if name in self.tables[table].elsewhere:
                continue
            label = f"{where}{table}.{name}"
            key = self.tables[table].find(name, f"{where}{table}")
            before = self._given[table].get(name)
            if isinstance(before, dict) and isinstance(value, dict):
                value = {**before, **value}
            self._given[table][name] = key.checked(value, label)

    def to_toml(self, record: Mapping[str, Any] | None = None) -> str:
        """Everything that was set or defaulted; what is left to koopflow is named in a comment.

        Parameters
        ----------
        record : mapping, optional
            What the run chose where it was left open, for a person to read.
        """
        from koopflow import __version__

        lines = [
            f"# koopflow {__version__}. To repeat this run: koopflow {self.command} --config <this file>",
            tomli_w.dumps({"command": self.command}),
        ]
        for name, table in self.tables.items():
            values, open_keys = {}, []
            for key, value in self[name].items():
                if value is not None:
                    values[key] = value
                elif table.keys[key].default is not None:
                    values[key] = NONE
                else:
                    open_keys.append(key)
            if values or open_keys:
                # A trailing comment would belong to a nested table, hence the place above.
                note = f"# not set: {', '.join(open_keys)}\n" if open_keys else ""
                lines.append(note + tomli_w.dumps({name: values}))
        if record:
            lines.append(
                "# What koopflow chose where it was free to; not read back.\n"
                + tomli_w.dumps({RECORD: record})
            )
        return "\n".join(lines)


def collect(settings: Settings, options: Namespace, flags: Mapping[str, tuple[str, Key, str]]) -> Settings:
    """Settings with the file, ``--set`` and the flags of parsed arguments taken in, in this order.

    Parameters
    ----------
    settings : Settings
        With defaults only.
    options : Namespace
        ``config``, ``set`` and every destination of ``flags`` that was given.
    flags : mapping
        From destination to table, key and the flag's name.
    """
    if options.config is not None:
        settings.read(options.config)
    for text in options.set:
        settings.assign(text)
    for destination, (table, key, flag) in flags.items():
        if hasattr(options, destination):
            settings.flag(table, key, getattr(options, destination), flag)
    return settings
