"""A document that can be written as Markdown and as an HTML page."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from io import BytesIO
from pathlib import Path
from typing import ClassVar, Protocol

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from paddleseg_autoloss.documents.panels import Panel, draw_png, draw_svg
from paddleseg_autoloss.escaping import escape_block, escape_markdown
from paddleseg_autoloss.files import write_file

__all__ = [
    "Banner",
    "Chart",
    "Code",
    "Document",
    "Gallery",
    "Heading",
    "Items",
    "Paragraph",
    "Table",
    "Tile",
]

_TEMPLATES = Path(__file__).parent / "templates"
_JPEG_QUALITY = 80
#: All images of a page together, in bytes.
_MOST_IMAGE_BYTES = 1_500_000


class Block(Protocol):
    """A part of a document; `page.html` has the HTML of each kind."""

    kind: ClassVar[str]

    def markdown(self) -> str:
        """Return it as Markdown; an empty text if only the page has it."""


@dataclass(frozen=True)
class Heading:
    """A heading.

    Args:
        text: the text of the heading.
        level: 1 for the title, 2 for a section.
    """

    kind: ClassVar[str] = "heading"
    text: str
    level: int = 2

    def markdown(self) -> str:
        """Return it as Markdown."""
        return f"{'#' * self.level} {escape_markdown(self.text)}"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text.

    Args:
        text: the text of the paragraph.
    """

    kind: ClassVar[str] = "paragraph"
    text: str

    def markdown(self) -> str:
        """Return it as Markdown."""
        return escape_block(self.text)


@dataclass(frozen=True)
class Banner:
    """A paragraph that is shown as a warning.

    Args:
        text: the text of the paragraph.
    """

    kind: ClassVar[str] = "banner"
    text: str

    def markdown(self) -> str:
        """Return it as Markdown."""
        return f"> **Warning:** {escape_markdown(self.text)}"


@dataclass(frozen=True)
class Items:
    """A list.

    Args:
        texts: the texts of the items.
    """

    kind: ClassVar[str] = "items"
    texts: Sequence[str]

    def markdown(self) -> str:
        """Return it as Markdown."""
        return "\n".join(f"- {escape_block(text)}" for text in self.texts)


@dataclass(frozen=True)
class Code:
    """Text that keeps its line breaks, such as the output of a program.

    Args:
        text: any number of lines.
    """

    kind: ClassVar[str] = "code"
    text: str

    def markdown(self) -> str:
        """Return it as Markdown."""
        longest = max(map(len, re.findall("`+", self.text)), default=0)
        fence = "`" * max(3, longest + 1)
        return f"{fence}text\n{self.text}\n{fence}"


@dataclass(frozen=True)
class Table:
    """A table; on the page it can be sorted by each column.

    Args:
        frame: the cells, which are strings; the index is not shown.
        folded: None, or a text that shows and hides the table, which only the page has then.
    """

    kind: ClassVar[str] = "table"
    frame: pd.DataFrame
    folded: str | None = None

    def markdown(self) -> str:
        """Return it as Markdown."""
        if self.folded is not None:
            return ""
        head, *rows = [
            [escape_markdown(cell).replace("|", "\\|") for cell in row]
            for row in (self.head, *self.rows)
        ]
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    @property
    def head(self) -> list[str]:
        """The names of the columns."""
        return [str(name) for name in self.frame.columns]

    @property
    def rows(self) -> list[list[str]]:
        """The cells of each row."""
        return [[str(cell) for cell in row] for row in self.frame.itertuples(index=False)]


@dataclass(frozen=True)
class Chart:
    """A chart of one panel or of several.

    Args:
        name: name of its file, without the extension.
        text: description of the chart.
        panels: the panels.
        columns: most panels in a row of the file; the page has as many as fit.
    """

    kind: ClassVar[str] = "chart"
    name: str
    text: str
    panels: Sequence[Panel]
    columns: int = 4

    def markdown(self) -> str:
        """Return it as Markdown."""
        return f"![{escape_markdown(self.text)}](figures/{self.name}.png)"

    def png(self) -> bytes:
        """Return the PNG file."""
        return draw_png(self.panels, self.columns)

    @cached_property
    def images(self) -> list[Markup]:
        """The panels as SVG elements."""
        return [
            Markup(draw_svg(panel, f"{self.name}{number}"))
            for number, panel in enumerate(self.panels)
        ]


@dataclass(frozen=True)
class Tile:
    """An image with its caption.

    Args:
        caption: the caption.
        image: the image in RGB, uint8, shape [height, width, 3].
    """

    caption: str
    image: np.ndarray

    @cached_property
    def address(self) -> str:
        """The image as a ``data:`` address."""
        stream = BytesIO()
        # Without subsampling of the colours, so that thin lines keep theirs.
        Image.fromarray(self.image).save(stream, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
        return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


@dataclass(frozen=True)
class Gallery:
    """Rows of images that may be private, so they are only on the page and get no files.

    Rows that would make the page too large are left out.

    Args:
        rows: the images of each row.
        key: colour of each name, and whether its line is dotted.
    """

    kind: ClassVar[str] = "gallery"
    rows: Sequence[Sequence[Tile]]
    key: Sequence[tuple[str, str, bool]] = ()

    def markdown(self) -> str:
        """Return it as Markdown."""
        return "Only in `report.html`, because the images may be private."

    @cached_property
    def shown(self) -> list[Sequence[Tile]]:
        """The rows that the page has room for."""
        sizes = [sum(len(tile.address) for tile in row) for row in self.rows]
        return [
            row for row, total in zip(self.rows, np.cumsum(sizes)) if total <= _MOST_IMAGE_BYTES
        ]


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
        """Return it as one page, which contains its pictures and loads nothing.

        The page tells browsers to run its own script only, and to load nothing.
        """
        script = _read("page.js")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        return _template().render(
            title=self.title,
            blocks=self.blocks,
            style=Markup(_read("page.css")),
            script=Markup(script),
            script_hash=Markup(f"sha256-{digest}"),
        )

    def write(self, folder: Path) -> None:
        """Write ``report.md`` with its pictures, and ``report.html``."""
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for block in self.blocks:
            if isinstance(block, Chart):
                write_file(folder / "figures" / f"{block.name}.png", block.png())
        write_file(folder / "report.md", self.markdown())
        write_file(folder / "report.html", self.html())


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")
