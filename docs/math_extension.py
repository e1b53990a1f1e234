"""Formulas in Markdown, as GitHub writes them, become MathML, which browsers draw by themselves."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor

__all__ = ["MathExtension", "math_fence", "mathml"]

#: Patterns that latex2mathml does not read, and the same in words that it reads.
_UNREAD = {
    r"\{aligned\}": "{align*}",
    r"\\Big(?=\(|\\langle|\\lVert)": r"\\left",
    r"\\Big(?=\)|\\rangle|\\rVert)": r"\\right",
}


def mathml(formula: str, display: str = "inline") -> str:
    r"""Return a formula as MathML.

    Args:
        formula: in LaTeX.
        display: ``inline`` within text, or ``block``.

    Raises:
        ValueError: the formula has a command that is not known.

    Examples:
        >>> "<mi>&#x003B1;</mi>" in mathml(r"\alpha")
        True
    """
    for unread, read in _UNREAD.items():
        formula = re.sub(unread, read, formula)
    found = convert(formula, display=display)
    left = re.search(r"\\\w+|>&<", found)
    if left:
        raise ValueError(f"latex2mathml does not know {left[0]} in {formula}")
    # Between two lengths, a browser takes the bars for one pair and stretches them.
    found = found.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')
    # A function stands away from a letter that follows it.
    return re.sub(r"<mi>(ln|log|exp|cos)</mi>(?!<mo|$)", r'\g<0><mspace width="0.17em" />', found)


def math_fence(source: str, *_: Any, **__: Any) -> str:
    """Return a block that is fenced as ``math``, for superfences."""
    return mathml(source, display="block")


class MathExtension(Extension):
    """Formulas within text, which stand between a dollar and a backtick."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register the pattern before that of code, whose priority is 190."""
        md.inlinePatterns.register(_InlineMath(r"\$`(.+?)`\$", md), "math", 195)


class _InlineMath(InlineProcessor):
    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:
        return self.md.htmlStash.store(mathml(m[1])), m.start(0), m.end(0)
