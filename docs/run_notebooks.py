"""Run the notebooks of docs/notebooks/ from top to bottom, and keep their output in them.

A notebook's metadata say of which code the output is, so that a test finds one that is stale.

Example:
    python docs/run_notebooks.py docs/notebooks/uncertainty_regression.ipynb
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
#: Key of the metadata with the hash of the code.
HASH = "sha256_of_code"
#: Largest picture in a notebook, in bytes.
LARGEST = 150_000


def hash_of_code(notebook: NotebookNode) -> str:
    """Return a hash of the sources of all cells with code."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def set_parameters(notebook: NotebookNode, **values: Any) -> None:
    """Replace values in the cell that is tagged ``parameters``.

    Args:
        notebook: is changed.
        **values: the new values by name; the cell must assign each of them in a line of its own.
    """
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    lines = cell.source.splitlines()
    names = [line.split(" = ")[0] for line in lines]
    for name, value in values.items():
        lines[names.index(name)] = f"{name} = {value!r}"
    cell.source = "\n".join(lines)


def run(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells in a new kernel; their output becomes part of the notebook.

    Args:
        notebook: is changed.
        folder: the working directory of the kernel.

    Raises:
        CellExecutionError: a cell failed.
    """
    client = NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()


def shrink_pictures(notebook: NotebookNode) -> None:
    """Give pictures that are too large as many colours as fit into `LARGEST` bytes.

    Args:
        notebook: is changed.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                small = _shrunk(base64.b64decode(data["image/png"]))
                data["image/png"] = base64.b64encode(small).decode()


def _shrunk(png: bytes) -> bytes:
    colours = 256
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    while len(png) > LARGEST:
        buffer = io.BytesIO()
        picture.quantize(colours).save(buffer, "PNG", optimize=True)
        png = buffer.getvalue()
        colours = colours * 3 // 4
    return png


def main(paths: list[str]) -> None:
    """Run the notebooks that are named, or all."""
    for path in map(Path, paths or sorted(map(str, NOTEBOOKS.glob("*.ipynb")))):
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            run(notebook, Path(folder))
        shrink_pictures(notebook)
        notebook.metadata = {
            "kernelspec": notebook.metadata.kernelspec,
            "language_info": {"name": "python"},
            HASH: hash_of_code(notebook),
        }
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
