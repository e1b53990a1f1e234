"""The scripts that write pages."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
from support.processes import ROOT


@pytest.fixture
def page_writer(monkeypatch):
    """Import a script of docs/ by its name."""
    monkeypatch.syspath_prepend(ROOT / "docs")

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load
