"""Plans and their base config."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.comparison import CONFIGS, write_base
from support.processes import ROOT

from paddleseg_autoloss.comparison.plan import read_plan


@pytest.fixture
def parse(monkeypatch):
    """Make a plan from a command line."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    tool = __import__("compare")
    return lambda *words: read_plan(tool.parse_args([str(word) for word in words]), CONFIGS)


@pytest.fixture
def base(tmp_path, fundus) -> Path:
    return write_base(tmp_path, fundus)
