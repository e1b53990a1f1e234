"""Write the tables of docs/architecture.md from the code."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

from markers import fill

from paddleseg_autoloss.compat import SOURCE_FIXES
from paddleseg_autoloss.seams import SEAMS

PAGE = Path(__file__).resolve().parent / "architecture.md"


def page() -> str:
    """Return the page with its tables as the code has them."""
    text = PAGE.read_text(encoding="utf-8")
    seams = [
        (
            f"`{seam.name}`",
            f"`{seam.stand_in}`",
            seam.why,
            seam.until,
            f"`{seam.user}` uses `{'` or `'.join(seam.uses)}`" if seam.uses else "-",
        )
        for seam in SEAMS
    ]
    cures = [
        (f"`{fix.target}`", f"`{fix.faulty}`", f"`{fix.cure}`", fix.versions)
        for fix in SOURCE_FIXES
    ]
    header = ("name", "stand-in", "why", "undone when", "checked")
    text = fill(text, "seams", _table(header, seams))
    return fill(text, "cures", _table(("function", "faulty", "cure", "seen in"), cures))


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
