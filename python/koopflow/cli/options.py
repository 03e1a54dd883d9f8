"""What can be set: keys with types, defaults and help, read from the signatures that they are passed to."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Union, get_args, get_origin

from .errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# TOML has no null. Where None is one of the values, this text stands for it.
NONE = "none"
SEEDS = 2**62
_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}


@dataclass(frozen=True)
class Key:
    """One thing that can be set."""

    name: str
    kind: Any
    default: Any = None
    help: str = ""

    def checked(self, value: Any, where: str) -> Any:
        """The value in the key's type; ``where`` is the flag or key that an error names."""
        if value == NONE and accepts(self.kind, None):
            return None
        if not accepts(self.kind, value):
            raise UsageError(f"{where}: expected {spelled(self.kind)}, got {value!r}")
        if self.name.endswith("seed") and isinstance(value, int) and not 0 <= value < SEEDS:
            raise UsageError(f"{where}: expected a non-negative integer below 2**62, got {value}")
        return value

    def parsed(self, text: str, where: str) -> Any:
        """The same for the text of a flag."""
        takes_text = accepts(self.kind, "") and not accepts(self.kind, 0)
        return self.checked(text if takes_text else parse_value(text), where)


@dataclass(frozen=True)
class Table:
    """A table of the TOML file, and what can stand in it; keys ``elsewhere`` are for other commands."""

    name: str
    keys: Mapping[str, Key]
    elsewhere: frozenset[str] = frozenset()

    def find(self, name: str, where: str) -> Key:
        """Raises ``UsageError`` with the nearest key that there is."""
        if name not in self.keys:
            raise unknown(f"{where}: no such key", name, self.keys)
        return self.keys[name]


def table(name: str, *groups: Iterable[Key]) -> Table:
    """A table of all these keys; the first of one name counts."""
    keys: dict[str, Key] = {}
    for group in groups:
        for key in group:
            keys.setdefault(key.name, key)
    return Table(name, keys)


def keys_of(function: Callable[..., Any], *, leave_out: Collection[str] = ()) -> list[Key]:
    """The keywords of a function or class, with its docstring's words on each."""
    notes = documented(inspect.getdoc(function) or "")
    found = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        named = parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if named and parameter.name != "self" and parameter.name not in leave_out:
            default = None if parameter.default is parameter.empty else parameter.default
            found.append(Key(parameter.name, parameter.annotation, default, notes.get(parameter.name, "")))
    return found


def documented(docstring: str) -> dict[str, str]:
    """What the Parameters section of a NumPy-style docstring says of each, on one line.

    Examples
    --------
    >>> documented('''Do.
    ...
    ... Parameters
    ... ----------
    ... width, depth : int, optional
    ...     Of the network.
    ... ''')
    {'width': 'Of the network. (int, optional)', 'depth': 'Of the network. (int, optional)'}
    """
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    if section is None:
        return {}
    notes = {}
    for entry in re.finditer(
        r"^(\S[^\n]*?)(?: : ([^\n]*))?\n((?:[ ]+[^\n]*\n?|\n)*)", section[1], re.MULTILINE
    ):
        names, kind, text = entry.groups()
        words = " ".join(text.split()).replace("``", "")
        words = re.sub(r":\w+:`~?([^`]*)`", r"\1", words)
        for name in names.split(","):
            notes[name.strip().lstrip("*")] = f"{words} ({kind})" if kind else words
    return notes


def accepts(kind: Any, value: Any) -> bool:
    """Whether a value that TOML can say is of an annotated type. Unusual annotations take everything."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(accepts(part, value) for part in inner)
    if kind is None or kind is types.NoneType:
        return value is None
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if kind is str or kind is PathLike or origin is PathLike:
        return isinstance(value, str)
    if kind is dict or origin in (dict, Mapping):
        of = inner[1] if inner else Any
        return isinstance(value, dict) and all(accepts(of, item) for item in value.values())
    if kind is list or origin in (list, tuple, Sequence):
        return isinstance(value, list)
    return True


def spelled(kind: Any) -> str:
    """An annotated type in words.

    Examples
    --------
    >>> spelled(int | None)
    'an integer or none'
    """
    if get_origin(kind) in (Union, types.UnionType):
        words = [spelled(part) for part in get_args(kind)]
        return " or ".join(dict.fromkeys(words))
    if kind is None or kind is types.NoneType:
        return NONE
    if kind is PathLike or get_origin(kind) is PathLike:
        return "text"
    if kind is dict or get_origin(kind) in (dict, Mapping):
        return "a table"
    if kind is list or get_origin(kind) in (list, tuple, Sequence):
        return "a list"
    return _NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def unknown(message: str, name: str, known: Iterable[str]) -> UsageError:
    """An error about a name, with the nearest one that there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return UsageError(
        f"{message} as {name!r}, the nearest is {near[0]!r}" if near else f"{message} as {name!r}"
    )


def parse_value(text: str) -> Any:
    """A TOML value, a number as Python writes it, or text without its quotes.

    Examples
    --------
    >>> parse_value("[1, 2]"), parse_value("1e-3"), parse_value("ot"), parse_value('"ot"')
    ([1, 2], 0.001, 'ot', 'ot')
    """
    try:
        parsed = tomllib.loads(f"value = {text}")
        if list(parsed) == ["value"]:
            return parsed["value"]
    except tomllib.TOMLDecodeError:
        pass
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
