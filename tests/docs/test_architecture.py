"""Tests of docs/architecture.md and of what it states of a step."""

from __future__ import annotations

import json
import re

from support import ROOT, run_tool

PAGE = ROOT / "docs/architecture.md"


def test_tables_are_up_to_date(page_writer):
    """If they are not: python docs/write_architecture.py."""
    assert page_writer("write_architecture").page() == PAGE.read_text(encoding="utf-8")


def test_a_step_moves_between_files_as_seldom_as_the_page_says():
    done = run_tool("tools/benchmarks/follow_step.py", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, row in found.items():
        stated = re.search(rf"^{re.escape(name)} +(\d+) +(\d+) +(\d+)$", PAGE.read_text(), re.M)
        assert int(stated[2]) == row["moves"], "docs/architecture.md states other moves"
    assert found["AutoWeightedLoss"]["moves"] < 22
    assert found["loss_aggregator: CAGrad"]["moves"] < 30


def test_all_files_that_the_page_names_exist():
    for path in re.findall(
        r"`((?:integration|losses|gradients|tools)/[\w/]+\.py)`", PAGE.read_text()
    ):
        base = ROOT if path.startswith("tools/") else ROOT / "paddleseg_autoloss"
        assert (base / path).is_file(), path
