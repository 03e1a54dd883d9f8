"""An extension of griffe that prepares docstrings for the reference.

Docstrings refer to each other by Sphinx's roles, which become links if the reference has the name. Examples
outside an Examples section become code blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):`(~?[\w.]+)`")
# The head of a parameter, whose type is shown as code.
TYPE = re.compile(r"^(?:\*{0,2}\w+(?:, \*{0,2}\w+)* : |[a-z]+, ``).*$", re.MULTILINE)
EXAMPLE = re.compile(r"(?:^>>> .*\n?)(?:^\S.*\n?)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for thing in everything(pkg):
            if thing.docstring is not None:
                thing.docstring.value = readable(thing.docstring.value, thing)


def everything(thing: griffe.Object) -> Iterator[griffe.Object]:
    yield thing
    for member in thing.members.values():
        if isinstance(member, griffe.Object):
            yield from everything(member)


def readable(text: str, thing: griffe.Object) -> str:
    text = ROLE.sub(lambda found: link(found[1], thing), text)
    text = TYPE.sub(lambda found: found[0].replace("``", ""), text)
    prose, heading, rest = text.partition("\nExamples\n---")
    prose = EXAMPLE.sub(lambda found: f"\n```pycon\n{found[0].rstrip()}\n```\n", prose)
    return prose + heading + rest


def link(name: str, thing: griffe.Object) -> str:
    """A link if the reference has the name. With ``~`` before a path only its last part is shown."""
    label = name.rpartition(".")[2] if name.startswith("~") else name
    path = full_name(name.removeprefix("~"), thing)
    return f'<autoref identifier="{path}" optional><code>{label}</code></autoref>'


def full_name(name: str, thing: griffe.Object) -> str:
    """The full path of ``name`` in a docstring: a member of the class or of the modules that contain it."""
    if name.startswith("koopflow."):
        return name
    scope: griffe.Object | None = thing
    while scope is not None:
        if name.split(".")[0] in scope.members:
            return f"{scope.path}.{name}"
        scope = scope.parent
    return name
