"""Documents that are written as Markdown and as one HTML page.

- `document` has the parts of a document: headings, text, tables, charts, images;
- `panels` draws a chart as PNG, and as SVG whose marks show their values on hover;
- ``templates`` has the page, its style and its script.
"""

from __future__ import annotations

from paddleseg_autoloss.documents.document import (
    Banner,
    Chart,
    Code,
    Document,
    Gallery,
    Heading,
    Items,
    Paragraph,
    Table,
    Tile,
)
from paddleseg_autoloss.documents.panels import Notes, Panel

__all__ = [
    "Banner",
    "Chart",
    "Code",
    "Document",
    "Gallery",
    "Heading",
    "Items",
    "Notes",
    "Panel",
    "Paragraph",
    "Table",
    "Tile",
]
