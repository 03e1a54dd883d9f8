"""Every example in a docstring of the experiments runs, and the benches can be imported."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import experiments

MODULES = sorted(module.name for module in pkgutil.walk_packages(experiments.__path__, "experiments."))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", ["ablation.run", "ablation.table", "compare.claims"])
def test_what_has_examples(name):
    assert doctest.testmod(importlib.import_module(f"experiments.{name}")).attempted > 0
