"""docs/troubleshooting.md quotes messages that the package has, and all that need a word more."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest
from support.processes import ROOT

from paddleseg_autoloss import errors

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
CHINESE_PAGE = (ROOT / "docs" / "zh" / "troubleshooting.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "paddleseg_autoloss"
WARN = ("logger.warning", "warnings.warn")
#: Texts that only put a key before the message of another place.
PASSED_ON = re.compile(
    r"(--resume_model: |save_dir: |_base_: |loss_aggregator\.?|iteration )?(\.\.\.|[: ])*"
)


def quotes() -> list[str]:
    """Messages that an entry of the page is about; ``...`` stands for what is variable."""
    heads = re.findall(r"^- (`.+`)$", PAGE, flags=re.MULTILINE)
    return [quote for head in heads for quote in re.findall(r"`(.+?)`", head)]


def template(node: ast.AST) -> str | None:
    """The text of an expression, with ``...`` for what is variable, or None if it is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
        return re.sub(r"(\.\.\.){2,}", "...", "".join(parts))
    return None


@cache
def trees() -> list[ast.Module]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [ast.parse(path.read_text(encoding="utf-8")) for path in files]


@cache
def texts() -> list[str]:
    """Every text of the code, docstrings apart."""
    found = []
    for tree in trees():
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and isinstance(node.body[0], ast.Expr)
        }
        nodes = [node for node in ast.walk(tree) if id(node) not in docstrings]
        found += [text for text in map(template, nodes) if text]
    return found


def messages() -> Iterator[str]:
    """What the package warns of, and the errors that do not say what they expected."""
    for tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name, text = ast.unparse(node.func), template(node.args[0])
            if text is None or PASSED_ON.fullmatch(text):
                continue
            if name in WARN or (name in errors.__all__ and "expected " not in text):
                yield text


def is_in(quote: str, text: str) -> bool:
    """Whether a message contains what is quoted, part by part."""
    parts = [part for part in quote.split("...") if part.strip()]
    return re.search(".*".join(map(re.escape, parts)), text, flags=re.DOTALL) is not None


def chinese_quotes() -> list[str]:
    """Messages that stand in the bold line above an entry."""
    heads = re.findall(r"^\*\*(.+)\*\*", CHINESE_PAGE, flags=re.MULTILINE)
    return [quote for head in heads for quote in re.findall(r"`(.+?)`", head)]


@pytest.mark.parametrize("quote", [*quotes(), *chinese_quotes()])
def test_message_exists(quote):
    assert any(is_in(quote, text) for text in texts())


def test_a_message_that_does_not_exist_is_noticed():
    assert not any(is_in("...: there is no such lock", text) for text in texts())
    assert not any(is_in("`--resume_model: ... is no folder`", text) for text in texts())


def test_every_message_has_a_cause_and_a_cure():
    known = quotes()
    assert [text for text in messages() if not any(is_in(quote, text) for quote in known)] == []
    assert len(list(messages())) > 70


def test_every_entry_says_something():
    entries = re.split(r"^- (?=`)", PAGE, flags=re.MULTILINE)[1:]
    for entry in entries:
        _, _, cure = entry.partition("\n")
        assert len(cure.split()) > 3, entry


def test_no_quote_fits_everything():
    for quote in [*quotes(), *chinese_quotes()]:
        assert max(len(part) for part in quote.split("...")) >= 7, quote
