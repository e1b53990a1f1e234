"""Plans and their base config."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.comparison import CONFIGS, write_base

from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.comparison.plan_reader import read_plan


@pytest.fixture
def parse():
    """Make a plan from a command line."""
    return lambda *words: read_plan(parse_args(["compare", *map(str, words)]), CONFIGS)


@pytest.fixture
def base(tmp_path, fundus) -> Path:
    return write_base(tmp_path, fundus)
