"""Write the tables of docs/architecture.md from the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import paddleseg_autoloss  # noqa: F401  isort: skip  before paddle

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
    text = _filled(text, "seams", ("name", "stand-in", "why", "undone when", "checked"), seams)
    return _filled(text, "cures", ("function", "faulty", "cure", "seen in"), cures)


def _filled(text: str, name: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
