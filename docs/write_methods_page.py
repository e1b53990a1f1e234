"""Write docs/methods.md from the docstrings of the methods."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg_autoloss.catalog import markdown_page

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"

if __name__ == "__main__":
    PAGE.write_text(markdown_page(), encoding="utf-8")
