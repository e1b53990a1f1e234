"""Markup of docstrings: formulas and code as Sphinx writes them, in Markdown as GitHub reads it."""

from __future__ import annotations

import inspect
import re

__all__ = ["to_markdown"]


def to_markdown(docstring: str) -> str:
    r"""Return a docstring with its formulas and its code in Markdown.

    Args:
        docstring: with ``:math:``, ``.. math::`` and double backticks.

    Examples:
        >>> to_markdown(r"Weights :math:`w_i` of ``losses``.")
        'Weights $`w_i`$ of `losses`.'
        >>> print(to_markdown(".. math::\n    w = 1 / L\n\nL is the loss."))
        ```math
        w = 1 / L
        ```
        <BLANKLINE>
        L is the loss.
    """
    text = re.sub(r":math:`(.+?)`", _inline, docstring, flags=re.DOTALL).replace("``", "`")
    text = re.sub(r"^( *)\.\. math::\s*((?:.*\S.*\n?)+)", _block, text, flags=re.MULTILINE)
    # A literal block: its indentation alone says so in Markdown.
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


def _inline(match: re.Match[str]) -> str:
    # GitHub requires a formula within text to be on one line.
    return f"$`{' '.join(match[1].split())}`$"


def _block(match: re.Match[str]) -> str:
    lines = ["```math", *_aligned(inspect.cleandoc(match[2])).splitlines(), "```"]
    return "".join(f"{match[1]}{line}\n" for line in lines)


def _aligned(formula: str) -> str:
    """Return a formula in the environment that its lines need."""
    if "&" in formula or r"\\" in formula:
        return f"\\begin{{aligned}}\n{formula}\n\\end{{aligned}}"
    return formula
