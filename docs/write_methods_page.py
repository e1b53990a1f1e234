"""Write docs/methods.md and the lists of docs/which_method.md from the registered methods."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from markers import fill

from paddleseg_autoloss.catalog import markdown_lists, markdown_page

DOCS = Path(__file__).resolve().parent
PAGE, LISTS = DOCS / "methods.md", DOCS / "which_method.md"


def lists_page() -> str:
    """Return docs/which_method.md with its lists as the registry has them."""
    return fill(LISTS.read_text(encoding="utf-8"), "methods", markdown_lists())


if __name__ == "__main__":
    PAGE.write_text(markdown_page(), encoding="utf-8")
    LISTS.write_text(lists_page(), encoding="utf-8")
