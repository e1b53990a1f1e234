"""Write docs/methods.md from the docstrings of the methods."""

from __future__ import annotations

from pathlib import Path

from paddleseg_autoloss.catalog import markdown_page

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"

if __name__ == "__main__":
    PAGE.write_text(markdown_page(), encoding="utf-8")
