"""Write docs/methods.md and README's lists of methods from the registered methods."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from markers import fill

from paddleseg_autoloss.catalog import markdown_lists, markdown_page

ROOT = Path(__file__).resolve().parents[1]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "methods.md"


def readme() -> str:
    """Return README with its lists as the registry has them."""
    return fill(README.read_text(encoding="utf-8"), "methods", markdown_lists())


if __name__ == "__main__":
    PAGE.write_text(markdown_page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
