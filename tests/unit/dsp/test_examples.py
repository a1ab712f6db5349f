"""The examples in the docstrings of the estimators do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import dsp_svc.estimate

_MODULES = [module.name for module in pkgutil.iter_modules(dsp_svc.estimate.__path__)]


@pytest.mark.parametrize("name", _MODULES)
def test_examples_hold(name: str) -> None:
    module = importlib.import_module(f"dsp_svc.estimate.{name}")
    found = doctest.testmod(module, extraglobs={"np": importlib.import_module("numpy")})
    assert found.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(f"dsp_svc.estimate.{name}") for name in _MODULES]
    shown = [test.name for module in modules for test in finder.find(module) if test.examples]
    assert len(shown) > 15
