"""Tables in plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["align_columns"]


def align_columns(rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """Return rows as lines, with aligned columns and two spaces between them.

    Args:
        rows: the cells of each row; all rows have the same length, and the first is the header.
        numbers: whether all columns except the first are numbers, which are aligned to the right.

    Example:
        >>> print(align_columns([["loss", "size"], ["Dice", "0.5"], ["CE", "10"]], numbers=True))
        loss  size
        Dice   0.5
        CE      10
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        if numbers:
            cells[1:] = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
