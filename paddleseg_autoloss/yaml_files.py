"""The strict reader of YAML files: it runs no code, has size limits, and refuses ambiguous files.

A config may come from a stranger.  So the size of a file is limited, also after its aliases are
expanded, and so is the nesting.  A key that occurs twice with two values is an error; most YAML
readers use the last value.  Errors name the file and the line, but do not show the text of the
file, because ``_base_`` may name any file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paddleseg_autoloss.errors import ConfigError

__all__ = ["MAX_DEPTH", "MAX_SIZE", "Document", "read_document", "read_yaml"]

#: Most characters of a file with expanded aliases.  PaddleSeg's longest config has about 6,000.
MAX_SIZE = 2**16
#: Most levels of nested lists and mappings.
MAX_DEPTH = 50
#: Most digits of an integer, in any base.
_MAX_DIGITS = 100
_SUFFIXES = (".yml", ".yaml")
_MERGE = "tag:yaml.org,2002:merge"
_INTEGER = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
#: Octal numbers and sixties of YAML 1.1: 010 is 8, and 1:30 is 90.
_OCTAL = re.compile(r"[-+]?0[\d_]+")
_SEXAGESIMAL = re.compile(r"[-+]?\d[\d_]*(:\d+)+(\.[\d_]*)?")
#: What a Chinese keyboard writes for ``key: value``, and between numbers of a list.
_FULL_WIDTH_KEY = re.compile(r"[A-Za-z_]\w*：.*", re.ASCII)
_FULL_WIDTH_LIST = re.compile(r"[\d\s.e+-]*\d\s*，[\d\s，.e+-]*", re.ASCII)
#: The same where YAML does not find a value at all: at the place of a key, or in a list.
_FULL_WIDTH_START = re.compile(r"\s*(- )?[^\s:：]+：")
_LIST_START = re.compile(r"[\[{\d]")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_NO_BLANK = re.compile(r"\s*(- )?[A-Za-z_]\w*:[^\s/\\]", re.ASCII)


@dataclass(frozen=True)
class Document:
    """The content of a YAML file.

    Args:
        content: its keys and values.
        definitions: top-level keys whose values hold an anchor that some alias refers to.
        size: number of characters of its scalars with expanded aliases, plus one for each node.
    """

    content: dict[str, Any]
    definitions: frozenset[str]
    size: int


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Args:
        path: the file; its name and that of what it links to end in ``.yml`` or ``.yaml``.

    Raises:
        ConfigError: see `read_document`.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.yml")
        >>> _ = path.write_text("iters: 10")
        >>> read_yaml(path)
        {'iters': 10}
    """
    return read_document(path).content


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Args:
        path: the file; its name and that of what it links to end in ``.yml`` or ``.yaml``.

    Raises:
        ConfigError: there is no such file or it is not YAML; or it has no top-level keys, a key
            twice with two values, a tag other than those of plain data, a number to the base 8 or
            60, more than `MAX_SIZE` characters, more than `MAX_DEPTH` levels, or a value that
            contains itself.
    """
    text = _text(path)
    try:
        loader = _Loader(text)
        node: Any = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            kind = "nothing" if node is None else f"a {node.id}"
            hint = _hint(text.splitlines(), 0)
            raise ConfigError(f"{path}: expected keys and values, found {kind}{hint}")
        content = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        what = ": ".join(part for part in (error.context, error.problem) if part)
        hint = _hint(text.splitlines(), mark.line) if mark and "full-width" not in what else ""
        raise ConfigError(f"{where}: {' '.join(what.split())}{hint}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: it has characters that YAML does not allow") from error
    return Document(content, frozenset(loader.definitions), loader.sizes[node])


def _hint(lines: list[str], place: int) -> str:
    """Say what is wrong with a line, or with the one before, where YAML only sees the result."""
    code = [_QUOTED.sub("", line).partition("#")[0] for line in lines[: place + 1]]
    earlier = [number for number, line in enumerate(code[:place]) if line.strip()]
    for number in (place, *earlier[-1:]):
        line = code[number] if number < len(code) else ""
        before, comma, _ = line.partition("，")
        if _FULL_WIDTH_START.match(line) or (comma and _LIST_START.search(before)):
            return f"; line {number + 1} has a full-width ： or ，: write : and a blank, or ,"
        if _NO_BLANK.match(line):
            return f"; in line {number + 1} a blank is missing after the colon"
    return ""


def _text(path: Path) -> str:
    """Return the text of a file; no more than the allowed characters are read."""
    try:
        if not path.is_file():
            raise ConfigError(f"{path} was not found")
        if not all(str(name).endswith(_SUFFIXES) for name in (path, path.resolve())):
            raise ConfigError(f"{path}: expected a .yml file")
        with open(path, "rb") as file:
            content = file.read(4 * MAX_SIZE)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: it is not text in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(text) > MAX_SIZE or len(content) == 4 * MAX_SIZE:
        raise ConfigError(f"{path}: expected at most {MAX_SIZE} characters, found more")
    return text


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with limits.

    Attributes:
        sizes: number of characters of every complete node with expanded aliases.
        definitions: see `Document`.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.sizes: dict[yaml.Node, int] = {}
        self.definitions: set[str] = set()
        self._depth = 0
        self._top = ""
        self._tops: dict[yaml.Node, str] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> Any:
        if self._depth == 1 and isinstance(index, yaml.ScalarNode):
            self._top = index.value
        event: Any = self.peek_event()
        if self._depth > MAX_DEPTH:
            raise _refusal(f"expected at most {MAX_DEPTH} levels, found more", event)
        self._depth += 1
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if node not in self.sizes:
                raise _refusal(f"the anchor {event.anchor} contains itself", event)
            self.definitions.add(self._tops[node])
            return node
        if isinstance(node, yaml.ScalarNode) and not node.style and _is_full_width(node, index):
            raise _refusal("expected : and a blank, or , but found a full-width ： or ，", node)
        self.sizes[node] = _length(node) + sum(self.sizes[child] for child in _children(node))
        self._tops[node] = self._top
        if self.sizes[node] > MAX_SIZE:
            raise _refusal(
                f"expected at most {MAX_SIZE} characters with expanded aliases, found more", node
            )
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        return node

    def _check_keys(self, node: yaml.MappingNode) -> None:
        first: dict[tuple[str, str], tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            other_key, other_value = first.setdefault((key.tag, key.value), (key, value))
            # A key with the same value again is harmless; some of PaddleSeg's configs have it.
            if other_key is not key and not _is_same(other_value, value):
                line = other_key.start_mark.line + 1
                raise _refusal(f"{key.value} is given twice, first in line {line}", key)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag == _INTEGER and len(node.value) > _MAX_DIGITS:
            raise _refusal(f"expected an integer of at most {_MAX_DIGITS} digits", node)
        if node.tag in (_INTEGER, _FLOAT):
            _check_base(node)
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # The value does not fit its explicit or implicit tag, for example 2001-99-99.
            kind = node.tag.rpartition(":")[2]
            raise _refusal(f"this is not a valid {kind}", node) from error


def _check_base(node: yaml.ScalarNode) -> None:
    """Refuse numbers that YAML 1.1 reads in another way than people do."""
    remedy = "if it is a name, write it in quotes"
    digits = node.value.replace("_", "")
    if _OCTAL.fullmatch(node.value) and int(digits, 8) != int(digits):
        raise _refusal(
            f"expected a number without a leading 0, which YAML reads as {int(digits, 8)}, an "
            f"octal number; {remedy}",
            node,
        )
    if _SEXAGESIMAL.fullmatch(node.value):
        raise _refusal(
            f"expected no number with :, in which YAML counts sixties, as in 1:30 for 90; {remedy}",
            node,
        )


def _is_full_width(node: yaml.ScalarNode, key: Any) -> bool:
    """Whether full-width punctuation stands where YAML expects its own.

    Args:
        node: a scalar without quotes.
        key: the node of its key, if it is the value of one.
    """
    # In the line of its key a text with such a colon is a name: files of Windows have them.
    is_name = isinstance(key, yaml.Node) and key.start_mark.line == node.start_mark.line
    is_key = not is_name and _FULL_WIDTH_KEY.match(node.value)
    return bool(is_key or _FULL_WIDTH_LIST.fullmatch(node.value))


def _refusal(problem: str, where: Any) -> yaml.MarkedYAMLError:
    """Return the error for a node or an event."""
    return yaml.MarkedYAMLError(None, None, problem, where.start_mark)


def _length(node: yaml.Node) -> int:
    return 1 + len(node.value) if isinstance(node, yaml.ScalarNode) else 1


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def _is_same(first: yaml.Node, second: yaml.Node) -> bool:
    if isinstance(first, yaml.ScalarNode) or isinstance(second, yaml.ScalarNode):
        return (first.tag, first.value) == (second.tag, second.value)
    pairs = list(_children(first)), list(_children(second))
    same_shape = first.tag == second.tag and len(pairs[0]) == len(pairs[1])
    return same_shape and all(map(_is_same, *pairs))
