"""Names that users and strangers give, written so that other programs show them as they are."""

from __future__ import annotations

import re

__all__ = [
    "escape_block",
    "escape_cell",
    "escape_markdown",
    "escape_math",
    "unescape_cell",
]

#: The first characters of a cell that a spreadsheet takes for a formula, and the mark itself.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
#: The wide forms of the first four, for Chinese and Japanese text.
_WIDE_FORMULA = ("\uff1d", "\uff0b", "\uff0d", "\uff20")
_LINE_BREAK = re.compile(r"\s*[\r\n]+\s*")
#: Characters that mark up text within a line.
_INLINE = re.compile(r"[\\`*~$]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(")
#: What makes the beginning of a line a heading, a quotation, a list or a definition of a link.
_BLOCK = re.compile(r"(?:#{1,6}|[-+]|\d+[.)])(?=\s|$)|[>=\[|]|---")


def escape_cell(text: str) -> str:
    """Return the text of a CSV cell that no spreadsheet runs as a formula.

    A text that begins like a formula gets an apostrophe before it, as in a spreadsheet.

    Args:
        text: the content of the cell; `unescape_cell` returns it.

    Example:
        >>> escape_cell("=1+1"), escape_cell("CAGrad"), unescape_cell("'=1+1")
        ("'=1+1", 'CAGrad', '=1+1')
    """
    return f"'{text}" if text.startswith(_FORMULA + _WIDE_FORMULA) else text


def unescape_cell(cell: str) -> str:
    """Return the text that `escape_cell` was given."""
    return cell[1:] if cell.startswith("'") else cell


def escape_markdown(text: str) -> str:
    r"""Return text for within a line of Markdown, which shows it without any markup.

    Args:
        text: the text; a line break in it becomes a blank.

    Example:
        >>> print(escape_markdown("<b> [a](b)\n*c*"))
        &lt;b> [a]\(b) \*c\*
    """
    line = _LINE_BREAK.sub(" ", text).strip()
    return _INLINE.sub(r"\\\g<0>", line).replace("&", "&amp;").replace("<", "&lt;")


def escape_block(text: str) -> str:
    r"""Return text for a line of its own in Markdown; see `escape_markdown`.

    Args:
        text: the text; a line break in it becomes a blank.

    Example:
        >>> print(escape_block("# a"), escape_block("1. a"))
        \# a 1\. a
    """
    line = escape_markdown(text)
    block = _BLOCK.match(line)
    if block is None:
        return line
    # The last character of the mark: a number can have no backslash before it.
    return f"{line[: block.end() - 1]}\\{line[block.end() - 1 :]}"


def escape_math(text: str) -> str:
    """Return text that Matplotlib does not read as mathematics.

    Args:
        text: the text.
    """
    return text.replace("$", r"\$")
