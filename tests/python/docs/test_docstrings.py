"""Every example in a docstring runs and answers what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import koopflow

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(koopflow.__path__, "koopflow.")
    if not module.name.endswith(("._core", ".__main__"))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", ["teachers.teacher", "teachers.attaching", "students.distiller", "datasets"])
def test_what_people_use_has_examples(name):
    assert doctest.testmod(importlib.import_module(f"koopflow.{name}")).attempted > 0
