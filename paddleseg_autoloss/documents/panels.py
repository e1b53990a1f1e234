"""Charts of several panels: as one PNG file, and as SVG images that show values on hover."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from paddleseg_autoloss.escaping import escape_math, printable
from paddleseg_autoloss.fonts import choose_fonts
from paddleseg_autoloss.plot_styles import shortened

__all__ = ["Notes", "Panel", "draw_png", "draw_svg", "thinned"]

#: The ids of the marks that have a note.
_NOTE = "note-{}"
#: Two digits after the point are a hundredth of a pixel.
_LONG_NUMBER = re.compile(r"(\.\d\d)\d+")
_COORDINATES = ("d", "x", "y", "x1", "x2", "y1", "y2", "transform")
#: Black and white of Matplotlib become text and background of the page, which may be dark.
_PAGE_COLORS = {"#000000": "currentColor", "#ffffff": "var(--page)"}
_REFERENCE = re.compile(r"url\(#")
#: An id that is referred to.
_USE = re.compile(r"(?:url\(|href=\")#(\w+)")


class Notes:
    """The texts that the marks of a panel show on hover."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}

    def add(self, line: Any, texts: Sequence[str]) -> None:
        """Give each mark of a line its text.

        Args:
            line: what Matplotlib's ``plot`` returned, drawn with markers.
            texts: one text for each finite point of the line.
        """
        key = _NOTE.format(len(self._texts))
        line.set_gid(key)
        self._texts[key] = list(texts)

    def __getitem__(self, key: str | None) -> list[str]:
        """Return the texts of a line by its id; none if it has no note."""
        return self._texts.get(key or "", [])


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        title: its title.
        draw: draws into Matplotlib's axes, and gives notes to marks.
        height: in inches.
        named_rows: whether the panel has names on its left side; panels side by side have the same.
    """

    title: str
    draw: Callable[[Any, Notes], None]
    height: float = 2.6
    named_rows: bool = False


#: Width of a panel in inches: without and with names on its left side.
_WIDTH, _NAMES_WIDTH = 3.4, 1.6
#: Widest title, in characters.
_TITLE_WIDTH = 40


def draw_png(panels: Sequence[Panel], columns: int) -> bytes:
    """Draw panels side by side, as a PNG file.

    Args:
        panels: at least one.
        columns: most panels in a row.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height = max(panel.height for panel in panels)
    names = _NAMES_WIDTH if panels[0].named_rows else 0.4
    size = (max(6.0, _WIDTH * columns + names), height * rows)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for index, (panel, axes) in enumerate(zip(panels, every)):
        _draw(panel, axes, Notes())
        if panel.named_rows and index % columns:
            axes.tick_params(labelleft=False)
    for spare in every[len(panels) :]:
        spare.set_axis_off()
    choose_fonts(figure)
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def draw_svg(panel: Panel, name: str) -> str:
    """Draw one panel as an SVG element of an HTML page.

    Its text is text in the font of the page, its black and white are those of the page, and a mark
    with a note has a ``<title>``.

    Args:
        panel: the panel.
        name: begins the ids of the element; each element of a page needs another one.
    """
    notes, stream = Notes(), BytesIO()
    width = _WIDTH + (_NAMES_WIDTH if panel.named_rows else 0.6)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser draws the text, with fonts of its own.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure = Figure(figsize=(width, panel.height), layout="constrained")
        _draw(panel, figure.subplots(), notes)
        choose_fonts(figure)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(stream.getvalue())
    _drop_metadata(root)
    for element in root.iter():
        _add_titles(element, notes[element.get("id")])
    used = set(_USE.findall(stream.getvalue().decode("utf-8")))
    for element in root.iter():
        _fit_to_page(element, name, used)
    for attribute in ("width", "height", "version"):
        del root.attrib[attribute]
    root.set("role", "img")
    root.set("aria-label", printable(panel.title))
    return ElementTree.tostring(root, encoding="unicode")


def _draw(panel: Panel, axes: Any, notes: Notes) -> None:
    panel.draw(axes, notes)
    axes.grid(alpha=0.3)
    axes.set_title(escape_math(shortened(panel.title, _TITLE_WIDTH)), fontsize="medium")


def _drop_metadata(root: ElementTree.Element) -> None:
    """Drop what describes the file, and the style of all elements, which the page has."""
    for parent in list(root.iter()):
        for child in list(parent):
            if _tag(child) in ("metadata", "style"):
                parent.remove(child)


def _add_titles(line: ElementTree.Element, texts: list[str]) -> None:
    """Add the texts of a line to its marks.

    Matplotlib draws one ``<use>`` for each finite point, in their order.
    """
    if not texts:
        return
    marks = [element for element in line.iter() if _tag(element) == "use"]
    if len(marks) != len(texts):
        raise ValueError(f"expected a text for each of {len(marks)} marks, found {len(texts)}")
    for mark, text in zip(marks, texts):
        ElementTree.SubElement(mark, "title").text = printable(text)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _fit_to_page(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Write an element in the way of HTML: no namespaces, ids of its own, colours of the page."""
    if element.get("id") not in used:
        element.attrib.pop("id", None)
    element.tag = _tag(element)
    element.tail = None
    if element.text is not None and not element.text.strip():
        element.text = None
    element.attrib = dict(_html_attributes(element, name))


def _html_attributes(element: ElementTree.Element, name: str) -> Iterator[tuple[str, str]]:
    for key, text in element.attrib.items():
        plain = key.rpartition("}")[2]
        if plain == "id":
            yield plain, f"{name}-{text}"
        elif plain == "href":
            yield plain, f"#{name}-{text[1:]}"
        elif plain in _COORDINATES:
            yield plain, _LONG_NUMBER.sub(r"\1", text)
        else:
            for color, of_page in _PAGE_COLORS.items():
                text = text.replace(color, of_page)
            yield plain, _REFERENCE.sub(f"url(#{name}-", text)


def thinned(points: np.ndarray, most: int) -> np.ndarray:
    """Return at most ``most`` rows, evenly spaced, with the first and the last one."""
    if len(points) <= most:
        return points
    return points[np.linspace(0, len(points) - 1, most).round().astype(int)]
