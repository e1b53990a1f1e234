"""docs/commands.md and docs/config_reference.md say what the parsers and the registries have."""

from __future__ import annotations

import re

import pytest
from support.processes import ROOT

from paddleseg_autoloss.cli.main import COMMANDS
from paddleseg_autoloss.comparison import plan_reader, variants
from paddleseg_autoloss.integration.config_keys import KEYS
from paddleseg_autoloss.weighting import METHODS

DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", ["commands.md", "config_reference.md"])
def test_page_is_up_to_date(page_writer, name):
    """If it is not: python docs/write_reference.py."""
    page = page_writer("write_reference").PAGES[name]()
    assert page == (DOCS / name).read_text(encoding="utf-8")


def test_every_key_is_explained(page_writer):
    writer = page_writer("write_reference")
    assert writer.TOP.keys() >= KEYS
    assert writer.COMPARISON.keys() == plan_reader._KEYS
    assert writer.VARIANTS.keys() == variants._KEYS


def test_flags_and_components_are_there():
    commands = (DOCS / "commands.md").read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"\n## {name}\n" in commands
    flag = "`--keep_checkpoint_max KEEP_CHECKPOINT_MAX`"
    assert f"| {flag} | how many checkpoints to keep; default: 5 |" in commands
    keys = (DOCS / "config_reference.md").read_text(encoding="utf-8")
    for name in (*METHODS, "DiceLoss", "PolynomialDecay", "PPLiteSeg", "RandomPaddingCrop"):
        assert f"`{name}`" in keys


def test_concepts_name_the_methods_that_learn():
    page = (DOCS / "concepts.md").read_text(encoding="utf-8")
    sentence = page.split("## Learned weights\n")[1].split(" have weights")[0]
    learning = {name for name, m in METHODS.items() if m(m.least_losses).learned() is not None}
    assert set(re.findall(r"`(\w+)`", sentence)) == learning
