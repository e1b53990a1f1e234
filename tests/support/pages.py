"""The pages that people write: README and docs/, and the code blocks in them."""

from __future__ import annotations

import re
from pathlib import Path

from support.processes import ROOT

README, README_CN = ROOT / "README.md", ROOT / "README_CN.md"
#: Every page that is written by hand; the methods' page and the reports of comparisons are not.
PAGES = [
    README,
    README_CN,
    ROOT / "CONTRIBUTING.md",
    *sorted(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if path.name not in ("methods.md", "report.md")
    ),
]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def snippets(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """The code blocks of a page in any language, with the names of their languages."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```\w+\n.*?^```$", text, flags=re.DOTALL | re.MULTILINE)


def all_snippets(language: str) -> list[tuple[str, str]]:
    """The code blocks of all pages, each with the name of its page."""
    return [(page_name(page), snippet) for page in PAGES for snippet in snippets(page, language)]


def commands(page: Path) -> list[str]:
    """The lines of a page's blocks of shell commands."""
    return [line for snippet in snippets(page, "bash") for line in snippet.splitlines()]
