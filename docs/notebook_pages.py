"""Notebooks as pages of the site, with the output that is in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

__all__ = ["NotebookPage", "notebook_page"]


@dataclass(frozen=True)
class NotebookPage:
    """A notebook in Markdown.

    Args:
        text: the page.
        pictures: the PNG files by name, as the page names them.
    """

    text: str
    pictures: dict[str, bytes]


def notebook_page(path: Path) -> NotebookPage:
    """Return a notebook as a page that lies beside it.

    Args:
        path: of the notebook.
    """
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _formulas(cell.source)
    resources = {"unique_key": path.stem, "output_files_dir": path.stem}
    text, resources = MarkdownExporter().from_notebook_node(notebook, resources=resources)
    return NotebookPage(text.replace("![png](", "![Output of the cell]("), resources["outputs"])


def _formulas(text: str) -> str:
    """Write formulas as in the other pages; notebooks have no backticks around them."""
    text = re.sub(r"\$\$\n(.+?)\n\$\$", r"```math\n\1\n```", text, flags=re.DOTALL)
    return re.sub(r"\$([^$`]+)\$", r"$`\1`$", text)
