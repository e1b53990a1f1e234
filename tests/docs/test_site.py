"""The documentation site: built strictly, from a menu that has every page, for readers offline."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from support.processes import ROOT

from paddleseg_autoloss.weighting import METHODS

pytestmark = pytest.mark.once
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; a warning, such as one of a dead link, ends the build."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings", reason="it needs Python 3.10")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """What a page of the site loads, where its links lead, and its text outside of code."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._code = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self._code += tag in ("code", "pre", "script", "style")
        if tag in ("script", "img", "iframe") and values.get("src"):
            self.loads.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loads.append(values["href"])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])

    def handle_endtag(self, tag):
        self._code -= tag in ("code", "pre", "script", "style")

    def handle_data(self, data):
        if not self._code:
            self.text += data


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


def test_everything_is_there_without_a_network(site, pages):
    for name, page in pages.items():
        for address in page.loads:
            assert not re.match(r"(\w+:)?//", address), f"{name} loads {address}"
            if name != "404.html":
                assert (site / name).parent.joinpath(address.split("?")[0]).is_file(), address
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", style.read_text(encoding="utf-8")), (
            style
        )


def test_links_name_files(pages, site):
    """A folder opens in a browser as a list of files if no server is there."""
    for name, page in pages.items():
        for link in page.links:
            target = link.partition("#")[0]
            if target and not re.match(r"\w+:", target) and name != "404.html":
                assert (site / name).parent.joinpath(target).resolve().is_file(), f"{name}: {link}"


def test_every_page_is_reached_from_the_menu(pages):
    reached, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        folder = Path(name).parent
        for link in pages[name].links:
            target = link.partition("#")[0]
            if target.endswith(".html") and "://" not in target:
                parts: list[str] = []
                for part in (folder / target).parts:
                    parts = parts[:-1] if part == ".." else [*parts, part]
                other = "/".join(parts)
                if other not in reached:
                    waiting.append(other)
    assert reached == pages.keys() - {"404.html"}


def menu_pages(entries) -> list[str]:
    """The pages that mkdocs.yml names, at any depth."""
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for value in values for page in menu_pages(value)]


def test_menu_has_every_page():
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = menu_pages(menu)
    assert len(named) == len(set(named))
    assert {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} <= set(named)


def test_formulas_are_drawn(pages, site):
    """As MathML, which browsers draw without a script; nothing of LaTeX is left in the text."""
    for name, page in pages.items():
        assert not re.search(r"\\[a-z]+|\$`|:math:", page.text), name
    blocks = re.compile(r'<math [^>]*display="block"')
    for method in METHODS:
        source = (DOCS / "methods" / f"{method}.md").read_text(encoding="utf-8")
        drawn = (site / "methods" / f"{method}.html").read_text(encoding="utf-8")
        assert len(blocks.findall(drawn)) == source.count("```math")
        assert drawn.count("<math ") == source.count("```math") + source.count("$`")


def test_search_knows_the_pages(site):
    """Offline, the index is a script."""
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("var __index = "))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"index.html", "commands.html", "troubleshooting.html", "methods/CAGrad.html"} <= found


def test_pages_in_chinese_say_so(site):
    """Browsers draw some characters in another way for Japanese, and guess without it."""
    assert '<html lang="zh-CN"' in (site / "zh" / "own_images.html").read_text(encoding="utf-8")
    assert '<html lang="en"' in (site / "own_images.html").read_text(encoding="utf-8")


def test_scripts_are_not_published(site):
    assert not list(site.rglob("*.py"))


def test_python_pages_have_the_public_names(pages):
    text = pages["api/components.html"].text
    for method in METHODS:
        assert re.search(rf"\b{method}\b", text), method
    assert "LossAggregator" in pages["api/aggregator.html"].text
    assert "AutoLossError" in pages["api/errors.html"].text


@pytest.mark.parametrize(
    ("words", "page"), [("NashMTL", "methods/NashMTL.html"), ("混合损失", "zh/index.html")]
)
def test_search_finds_from_files(site, words, page):
    """A page that is opened as a file can start no worker; a frame does its work."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    address = f"{(site / 'index.html').as_uri()}?q={quote(words)}"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000"]
    command = [browser, *flags, "--dump-dom", address]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'md-search-result__meta">(\d+) matching documents', shown)
    assert found is not None
    assert int(found[1]) >= 3
    assert page in shown
