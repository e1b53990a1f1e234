"""Parts of a page that are written by a script: what stands between two markers."""

from __future__ import annotations

import re


def fill(page: str, name: str, content: str, mark: str = "<!-- {} -->") -> str:
    """Return a page with new content between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Args:
        page: its text.
        name: of the markers.
        content: what is to stand between them.
        mark: a comment in the language of the page, with ``{}`` for its text.
    """
    begin, end = mark.format(f"{name}: begin"), mark.format(f"{name}: end")
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{content}\n{end}", page, flags=re.DOTALL)
