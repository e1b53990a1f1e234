"""The page about the fidelity of cheap weights states what its figures say."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.image import imread
from support import ROOT

PAGE = ROOT / "docs" / "fidelity.md"


@pytest.fixture
def writer(page_writer):
    return page_writer("write_fidelity")


@pytest.fixture
def figures(writer):
    return pd.read_csv(writer.FIGURES)


def test_the_tables_are_those_of_the_figures(writer, figures):
    """If they are not: python docs/write_fidelity.py."""
    text = PAGE.read_text(encoding="utf-8")
    assert writer.page(text, figures) == text


def test_the_table_of_costs_is_that_of_the_figures(writer):
    text = writer.COST_PAGE.read_text(encoding="utf-8")
    assert writer.costs_table(pd.read_csv(writer.COSTS)) in text


def test_the_picture_has_a_panel_for_each_recording(writer, figures, tmp_path):
    path = tmp_path / "frontier.png"
    writer.draw(figures[figures.network == figures.network[0]], path)
    assert imread(path).shape[0] > 300


def test_a_row_counts_the_methods_that_hold(writer):
    rows = [
        ["update_interval", "update_interval: 2", "MGDA", 0.99, 0.9],
        ["update_interval", "update_interval: 2", "CAGrad", 0.97, 0.95],
    ]
    columns = ["family", "scheme", "method", "median", "tenth_percentile"]
    table = writer.schemes(pd.DataFrame(rows, columns=columns).assign(cost=1.5))
    last = table.splitlines()[-1]
    assert last == "| update_interval: 2 | 1.50 | 1 of 2 | 0.970 CAGrad | 0.900 MGDA |"
