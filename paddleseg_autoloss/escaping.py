"""Escapes names from users and strangers, so that other programs show them unchanged."""

from __future__ import annotations

import re

__all__ = [
    "escape_block",
    "escape_cell",
    "escape_markdown",
    "escape_math",
    "unescape_cell",
]

#: The first characters with which a spreadsheet treats a cell as a formula, and the apostrophe.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
#: The full-width forms of the first four, which occur in Chinese and Japanese text.
_WIDE_FORMULA = ("\uff1d", "\uff0b", "\uff0d", "\uff20")
_LINE_BREAK = re.compile(r"\s*[\r\n]+\s*")
#: Characters with a meaning in Markdown within a line.
_INLINE = re.compile(r"[\\`*~$]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(")
#: The beginning of a line that is a heading, a quotation, a list or a link definition in Markdown.
_BLOCK = re.compile(r"(?:#{1,6}|[-+]|\d+[.)])(?=\s|$)|[>=\[|]|---")


def escape_cell(text: str) -> str:
    """Return the text of a CSV cell that no spreadsheet runs as a formula.

    If the text begins like a formula, an apostrophe is added before it, as in a spreadsheet.

    Args:
        text: the content of the cell; `unescape_cell` restores it.

    Example:
        >>> escape_cell("=1+1"), escape_cell("CAGrad"), unescape_cell("'=1+1")
        ("'=1+1", 'CAGrad', '=1+1')
    """
    return f"'{text}" if text.startswith(_FORMULA + _WIDE_FORMULA) else text


def unescape_cell(cell: str) -> str:
    """Return the original text of a cell from `escape_cell`."""
    return cell[1:] if cell.startswith("'") else cell


def escape_markdown(text: str) -> str:
    r"""Return text that is shown unchanged within a line of Markdown.

    Args:
        text: the text; a line break in it becomes a space.

    Example:
        >>> print(escape_markdown("<b> [a](b)\n*c*"))
        &lt;b> [a]\(b) \*c\*
    """
    line = _LINE_BREAK.sub(" ", text).strip()
    return _INLINE.sub(r"\\\g<0>", line).replace("&", "&amp;").replace("<", "&lt;")


def escape_block(text: str) -> str:
    r"""Return text that is shown unchanged as a line of its own in Markdown; see `escape_markdown`.

    Args:
        text: the text; a line break in it becomes a space.

    Example:
        >>> print(escape_block("# a"), escape_block("1. a"))
        \# a 1\. a
    """
    line = escape_markdown(text)
    block = _BLOCK.match(line)
    if block is None:
        return line
    # Escape the last character of the mark, because a backslash has no effect before a digit.
    return f"{line[: block.end() - 1]}\\{line[block.end() - 1 :]}"


def escape_math(text: str) -> str:
    """Return text that Matplotlib does not read as mathematics.

    Args:
        text: the text.
    """
    return printable(text).replace("$", r"\$")


def printable(text: str) -> str:
    """Return text with a replacement character for each control character but tabs and breaks.

    Args:
        text: the text, for example a name from a file of somebody else.
    """
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
