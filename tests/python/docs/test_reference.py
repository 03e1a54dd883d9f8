"""Every public name has an entry in the reference, and each entry and picture is there. Needs no mkdocs."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import koopflow

DOCS = Path(__file__).parents[3] / "docs"
ENTRY = re.compile(r"^::: (koopflow[\w.]*)$", re.MULTILINE)
MODULES = [name for name in koopflow.__all__ if isinstance(getattr(koopflow, name), ModuleType)]


def entries() -> list[str]:
    return [
        name for page in sorted((DOCS / "reference").glob("*.md")) for name in ENTRY.findall(page.read_text())
    ]


def found(path: str) -> object:
    """What an entry names; ``koopflow.compare`` is the function, which hides the module of its name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def public(module: ModuleType) -> list[str]:
    """``__all__``, or what a module without one defines."""
    own = (name for name, thing in vars(module).items() if inspect.getmodule(thing) is module)
    return [
        name for name in getattr(module, "__all__", own) if not name.startswith("_") or name == "__version__"
    ]


@pytest.mark.parametrize("name", ["koopflow", *(f"koopflow.{module}" for module in MODULES)])
def test_the_reference_has_every_public_name(name):
    shown = entries()
    things = [found(path) for path in shown]
    missing = [
        each
        for each in public(importlib.import_module(name))
        if f"{name}.{each}" not in shown
        and not isinstance(found(f"{name}.{each}"), ModuleType)
        and not any(found(f"{name}.{each}") is thing for thing in things)
    ]
    assert not missing


def test_entries_are_there_and_each_is_one():
    shown = entries()
    assert len(shown) == len(set(shown))
    for path in shown:
        found(path)


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_a_page_in_the_overview(module):
    assert f"[`{module}`]({module}.md)" in (DOCS / "reference" / "index.md").read_text()


def test_every_picture_is_shown_somewhere():
    pages = "".join(page.read_text() for page in [*DOCS.glob("*.md"), DOCS.parent / "README.md"])
    assert not [picture.name for picture in (DOCS / "pictures").iterdir() if picture.name not in pages]
