"""What README and the pages of docs/ say: configs, Python, commands and links."""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from pathlib import Path

import paddle
import pytest
import yaml
from paddleseg.cvlibs import manager
from support.pages import (
    PAGES,
    README,
    README_CN,
    all_snippets,
    blocks,
    commands,
    page_name,
    snippets,
)
from support.processes import ROOT

from paddleseg_autoloss.cli.main import COMMANDS, parse_args

#: Paths that stand for the reader's own.
PLACEHOLDERS = ("my_", "path/to/")
LOOP = ROOT / "docs" / "own_loops.md"


def components(value) -> list[str]:
    """Every type that a config names, at any depth."""
    if isinstance(value, dict):
        own = [value["type"]] if "type" in value else []
        return own + [name for inner in value.values() for name in components(inner)]
    if isinstance(value, list):
        return [name for inner in value for name in components(inner)]
    return []


@pytest.mark.parametrize(("page", "snippet"), all_snippets("yaml"))
def test_configs_name_real_losses(page, snippet):
    for name in components(yaml.safe_load(snippet)):
        assert name in manager.LOSSES.components_dict, page


@pytest.mark.parametrize(("page", "snippet"), all_snippets("python"))
def test_python_compiles_and_imports(page, snippet):
    tree = ast.parse(snippet)
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    if page != "CONTRIBUTING.md":
        assert imports
        exec(compile(ast.Module(imports, []), page, "exec"), {})


def test_loop_of_ones_own_learns_without_decay():
    """Adam's steps have at most the length of the learning rate; decay of 100 would add to them."""
    (code,) = (snippet for snippet in snippets(LOOP, "python") if "for images" in snippet)
    assert code.count("weight_decay=0.01") == 1
    batches = [(paddle.rand([2, 3, 4, 4]), paddle.randint(0, 2, [2, 4, 4])) for _ in range(5)]
    convolution = paddle.nn.Conv2D(3, 2, 1)
    model = paddle.nn.LayerList([convolution])
    model.forward = lambda images: [convolution(images)]
    names = {"model": model, "loader": batches}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code.replace("weight_decay=0.01", "weight_decay=100.0"), names)
    learned = names["loss"].aggregator.weighting.learned().numpy()
    assert (learned != 1).all()
    assert abs(learned - 1).max() < 5 * 0.001 * 1.05


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_can_be_given(page):
    """Every flag exists, and so does every script and every config of the package."""
    for line in commands(page):
        for command in line.split(" && "):
            program, *words = shlex.split(command)
            if program == "autoloss":
                assert words[0] in COMMANDS, command
                parse_args(words)
            for script in re.findall(r"\b(?:tools|docs)/[\w/]+\.py\b", command):
                assert (
                    script.startswith(PLACEHOLDERS)
                    or "PaddleSeg/" in command
                    or (ROOT / script).is_file()
                ), command
            for config in (word for word in words if word.endswith(".yml")):
                known = config.startswith(PLACEHOLDERS) or (ROOT / "configs" / config).is_file()
                assert known, command


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    assert "@@" not in text
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("english", "chinese"),
    [("README.md", "README_CN.md")]
    + [(f"docs/{name}.md", f"docs/zh/{name}.md") for name in ("own_images", "which_method")],
)
def test_chinese_pages_have_the_same_code(english, chinese):
    """Commands and configs are not translated."""
    assert blocks(ROOT / chinese) == blocks(ROOT / english)


def test_readmes_link_to_each_other():
    assert "\nEnglish | [简体中文](README_CN.md)\n" in README.read_text(encoding="utf-8")
    assert "\n[English](README.md) | 简体中文\n" in README_CN.read_text(encoding="utf-8")


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 160


def test_page_of_the_configs_states_the_length_of_the_demo():
    demo = yaml.safe_load((ROOT / "configs/_base_/fastscnn_demo.yml").read_text())
    page = (ROOT / "docs" / "configs.md").read_text(encoding="utf-8")
    assert f"Fast-SCNN, {demo['iters']} iterations" in page
