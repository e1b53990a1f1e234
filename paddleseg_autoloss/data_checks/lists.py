"""List files, which assign a label to each image.

PaddleSeg's data sets open their list file themselves and split each line.  Here they get a file
object that behaves the same, and also accepts a byte order mark, blank lines, spaces in file names
and Windows paths.
"""

from __future__ import annotations

import io
import locale
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from paddleseg_autoloss.errors import DataError, one_line
from paddleseg_autoloss.seams import replaced

__all__ = ["SEPARATORS", "ListFile", "readable_lists", "text_lines"]

#: Modules of PaddleSeg whose list files have an image and a label in each line.
_MODULES = {
    f"paddleseg.datasets.{name}"
    for name in (
        "chase_db1", "dataset", "drive", "hrf", "mini_deep_globe_road_extraction", "optic_disc_seg",
        "pp_humanseg14k", "stare",
    )
}  # fmt: skip
#: What may stand between an image and its label, the most usual first.
SEPARATORS = ("\t", ",", ";", "|", " ")


def text_lines(path: str | os.PathLike) -> list[tuple[int, str]]:
    """Return the lines of a list file that are not blank, each with its number, counted from 1.

    The file is in UTF-8, with or without a byte order mark, or in the encoding of the machine.

    Raises:
        UnicodeDecodeError: the file has another encoding, or NUL bytes, as UTF-16 has.
    """
    with open(path, "rb") as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode(locale.getpreferredencoding(False))
    if "\0" in text:
        place = content.index(b"\0")
        raise UnicodeDecodeError("utf-8", content, place, place + 1, "a NUL byte, as in UTF-16")
    lines = enumerate(re.split(r"\r\n|\r|\n", text), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


class ListFile(io.StringIO):
    """A list file as PaddleSeg's data sets read it.

    Args:
        key: config key of the data set.
        path: path of the list file.
        root: base folder of the names in it.
        labelled: whether each line must name a label.

    Attributes:
        numbers: line numbers in the file, counted from 1.

    Raises:
        DataError: the file is not text, or all its lines are blank.
    """

    def __init__(self, key: str, path: str, root: str, labelled: bool) -> None:
        try:
            lines = text_lines(path)
        except UnicodeDecodeError as error:
            raise DataError(f"{key}: {path}: expected text in UTF-8: {one_line(error)}") from error
        if not lines:
            raise DataError(f"{key}: {path}: expected one line per image, found none")
        super().__init__("\n".join(line for _, line in lines))
        self.key, self.path, self.root, self.labelled = key, path, root, labelled
        self.numbers = [number for number, _ in lines]

    def __iter__(self) -> Iterator[Any]:
        for number, line in zip(self.numbers, self.getvalue().split("\n")):
            yield _Line(line, number, self)

    def fields(self, line: str, number: int, separator: str | None) -> list[str]:
        """Return the names in a line: an image and a label, or only an image.

        Args:
            line: the line, without white space at its ends.
            number: its line number.
            separator: text between the names; None for any white space.

        Raises:
            DataError: the names cannot be separated, or the label is missing.
        """
        pattern = r"\s+" if separator is None else f"(?:{re.escape(separator)})+"
        matches = re.finditer(pattern, line)
        halves = [(line[: m.start()].strip(), line[m.end() :].strip()) for m in matches]
        pairs = [self._local(*pair) for pair in halves if all(pair)]
        if len(pairs) > 1:
            existing = [pair for pair in pairs if all(map(self._exists, pair))]
            pairs = existing if len(existing) == 1 else pairs
        if len(pairs) == 1:
            return pairs[0]
        if not pairs and not self.labelled:
            return self._local(line)
        expected = "white space" if separator is None else f"separator {separator!r}"
        raise DataError(
            f"{self.key}: {self.path}, line {number}: expected an image and a label with "
            f"{expected} between them, found {line!r}; {_remedy(line, separator, pairs)}"
        )

    def _exists(self, name: str) -> bool:
        return os.path.exists(os.path.join(self.root, name))

    def _local(self, *names: str) -> list[str]:
        """Convert Windows paths to the form of this system."""
        return [
            name.replace("\\", os.sep) if "\\" in name and not self._exists(name) else name
            for name in names
        ]


class _Line(str):
    """A line with its own way to split; PaddleSeg strips and splits it."""

    number: int
    source: ListFile

    def __new__(cls, text: str, number: int, source: ListFile) -> _Line:
        line = super().__new__(cls, text)
        line.number, line.source = number, source
        return line

    def strip(self, chars: str | None = None) -> _Line:
        return self

    def split(self, separator: Any = None, maxsplit: Any = -1) -> list[str]:
        return self.source.fields(str(self), self.number, separator)


def _remedy(line: str, separator: str | None, pairs: list[list[str]]) -> str:
    if pairs:
        return "if a file name contains the separator, use another one in list and `separator`"
    others = [repr(other) for other in SEPARATORS if other != separator and other in line]
    if others:
        return f"is {others[0]} the `separator` of this list?"
    return "the label is missing"


@contextmanager
def readable_lists(key: str, config: dict[str, Any], component: Any) -> Iterator[list[ListFile]]:
    """Let a data set of PaddleSeg that is built in this context read its list as a `ListFile`.

    Args:
        key: config key of the data set.
        config: config of the data set.
        component: class of the data set.

    Yields:
        The list files that were opened.
    """
    opened: list[ListFile] = []
    labelled = config.get("mode", "train") != "test"

    def open_list(path: str, mode: str = "r", **options: Any) -> ListFile:
        root = config.get("dataset_root") or os.path.dirname(path)
        opened.append(ListFile(key, path, root, labelled))
        return opened[-1]

    names = {base.__module__ for base in getattr(component, "__mro__", ())}
    with ExitStack() as stack:
        for name in names & _MODULES:
            stack.enter_context(replaced(sys.modules[name], "open", open_list))
        yield opened
