"""Names that spreadsheets, Markdown and Matplotlib would take for something else."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddleseg_autoloss.escaping import (
    escape_block,
    escape_cell,
    escape_markdown,
    unescape_cell,
)

pytestmark = pytest.mark.once

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\uff1d1+1", "'=1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_like_a_formula(text):
    cell = escape_cell(text)
    assert cell == f"'{text}"
    assert unescape_cell(cell) == text


@given(st.text())
def test_cells_read_back_as_they_were(text):
    cell = escape_cell(text)
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n")
    assert unescape_cell(cell) == text
    stream = io.StringIO(newline="")
    csv.writer(stream).writerow([cell, "x"])
    read = next(csv.reader(io.StringIO(stream.getvalue(), newline="")))
    assert unescape_cell(read[0]) == text


def test_usual_names_stay():
    for name in ("fixed 0.8:0.2", "AutoWeightedLoss", "my_ce_dice", "Sum, retrained", "0.5 a"):
        assert escape_cell(name) == escape_markdown(name) == escape_block(name) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("a\n\n# b", "a # b"),
        ("![x](http://a)", r"![x]\(http://a)"),
        ("`a` *b* __c__", r"\`a\` \*b\* \_\_c\_\_"),
        ("&lt;", "&amp;lt;"),
        ("$a$", r"\$a\$"),
    ],
)
def test_markdown_has_no_markup(text, expected):
    assert escape_markdown(text) == expected


@pytest.mark.parametrize("text", ["# a", "## a", "- a", "+ a", "1. a", "> a", "[a]: b", "---"])
def test_no_line_begins_a_block(text):
    escaped = escape_block(text)
    assert escaped != text
    assert escaped.replace("\\", "") == text


@given(st.text())
def test_markdown_is_one_line_without_tags(text):
    escaped = escape_block(text)
    assert not {"\n", "\r", "<"} & set(escaped)
