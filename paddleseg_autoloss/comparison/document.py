"""A document that can be written as Markdown and as an HTML page."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Protocol

import pandas as pd

from paddleseg_autoloss.escaping import escape_block, escape_markdown
from paddleseg_autoloss.files import write_file

__all__ = ["Banner", "Code", "Document", "Heading", "Items", "Paragraph", "Picture", "Table"]

_STYLE = """
body { font: 16px/1.5 sans-serif; color: #222; max-width: 70rem }
body { margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: left }
th { border-bottom: 2px solid #888 }
img { max-width: 100%; height: auto }
.warning { background: #fff3cd; border-left: .4rem solid #d39e00; padding: .7rem 1rem }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; white-space: pre-wrap }
"""


class Block(Protocol):
    """A part of a document."""

    def markdown(self) -> str:
        """Return it as Markdown."""

    def html(self) -> str:
        """Return it as HTML."""


@dataclass(frozen=True)
class Heading:
    """A heading.

    Args:
        text: the text of the heading.
        level: 1 for the title, 2 for a section.
    """

    text: str
    level: int = 2

    def markdown(self) -> str:
        """Return it as Markdown."""
        return f"{'#' * self.level} {escape_markdown(self.text)}"

    def html(self) -> str:
        """Return it as HTML."""
        return f"<h{self.level}>{escape(self.text)}</h{self.level}>"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text.

    Args:
        text: the text of the paragraph.
    """

    text: str

    def markdown(self) -> str:
        """Return it as Markdown."""
        return escape_block(self.text)

    def html(self) -> str:
        """Return it as HTML."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Banner:
    """A paragraph that is shown as a warning.

    Args:
        text: the text of the paragraph.
    """

    text: str

    def markdown(self) -> str:
        """Return it as Markdown."""
        return f"> **Warning:** {escape_markdown(self.text)}"

    def html(self) -> str:
        """Return it as HTML."""
        return f'<p class="warning" role="alert"><strong>Warning:</strong> {escape(self.text)}</p>'


@dataclass(frozen=True)
class Items:
    """A list.

    Args:
        texts: the texts of the items.
    """

    texts: Sequence[str]

    def markdown(self) -> str:
        """Return it as Markdown."""
        return "\n".join(f"- {escape_block(text)}" for text in self.texts)

    def html(self) -> str:
        """Return it as HTML."""
        return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in self.texts) + "</ul>"


@dataclass(frozen=True)
class Code:
    """Text that keeps its line breaks, such as the output of a program.

    Args:
        text: any number of lines.
    """

    text: str

    def markdown(self) -> str:
        """Return it as Markdown."""
        longest = max(map(len, re.findall("`+", self.text)), default=0)
        fence = "`" * max(3, longest + 1)
        return f"{fence}text\n{self.text}\n{fence}"

    def html(self) -> str:
        """Return it as HTML."""
        return f"<pre>{escape(self.text)}</pre>"


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        frame: the cells, which are strings; the index is not shown.
    """

    frame: pd.DataFrame

    def markdown(self) -> str:
        """Return it as Markdown."""
        head, *rows = [
            [escape_markdown(cell).replace("|", "\\|") for cell in row]
            for row in (map(str, self.frame.columns), *self._rows())
        ]
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def html(self) -> str:
        """Return it as HTML."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self.frame.columns)
        rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self._rows()]
        body = "\n".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"

    def _rows(self) -> list[list[str]]:
        return [[str(cell) for cell in row] for row in self.frame.itertuples(index=False)]


@dataclass(frozen=True)
class Picture:
    """A picture.

    Args:
        name: name of its file, without the extension.
        text: description of the picture.
        png: the bytes of the PNG file.
        private: whether the picture is only in the HTML page and gets no file.
    """

    name: str
    text: str
    png: bytes
    private: bool = False

    def markdown(self) -> str:
        """Return it as Markdown."""
        if self.private:
            return "Only in `report.html`, because the images may be private."
        return f"![{escape_markdown(self.text)}](figures/{self.name}.png)"

    def html(self) -> str:
        """Return it as HTML."""
        data = base64.b64encode(self.png).decode()
        return f'<img alt="{escape(self.text)}" src="data:image/png;base64,{data}">'


class Document:
    """Headings, text, tables and pictures, in order.

    Args:
        title: title of the page.

    Attributes:
        blocks: the parts of the document.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.blocks: list[Block] = [Heading(title, level=1)]

    def add(self, *blocks: Block) -> None:
        """Add parts at the end."""
        self.blocks += blocks

    def markdown(self) -> str:
        """Return it as Markdown, with pictures in the folder ``figures``."""
        return "\n\n".join(filter(None, (block.markdown() for block in self.blocks))) + "\n"

    def html(self) -> str:
        """Return it as one page, which contains its pictures."""
        body = "\n".join(block.html() for block in self.blocks)
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<link rel="icon" href="data:,">\n'
            f"<title>{escape(self.title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
            f"<body>\n{body}\n</body>\n</html>\n"
        )

    def write(self, folder: Path) -> None:
        """Write ``report.md`` with its pictures, and ``report.html``."""
        pictures = [block for block in self.blocks if isinstance(block, Picture)]
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            if not picture.private:
                write_file(folder / "figures" / f"{picture.name}.png", picture.png)
        write_file(folder / "report.md", self.markdown())
        write_file(folder / "report.html", self.html())
