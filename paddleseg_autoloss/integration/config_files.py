"""Reading a PaddleSeg config and the files that it is based on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddleseg.cvlibs.config import merge_config_dicts

from paddleseg_autoloss.checks import checked_flag
from paddleseg_autoloss.errors import ConfigError, shown
from paddleseg_autoloss.yaml_files import MAX_SIZE, Document, read_document

__all__ = ["MAX_FILES", "ConfigFiles"]

#: Most files that one config may consist of; a base that is named twice counts twice.
MAX_FILES = 32


@dataclass
class ConfigFiles:
    """Reads a config as PaddleSeg does, but with the strict YAML reader of this package.

    The number and the size of the files are limited.

    Attributes:
        definitions: top-level keys of all files whose values hold an anchor that some alias refers
            to.
    """

    definitions: set[str] = field(default_factory=set)
    _count: int = 0
    _size: int = 0

    def read(self, path: Path) -> dict[str, Any]:
        """Return the keys and values of a file, merged into those of its bases.

        A mapping is merged with the mapping of the base, unless it contains ``_inherited_: false``.
        Any other value replaces the value of the base.  If two bases have the same key, the first
        base wins.

        Raises:
            ConfigError: a file cannot be read, is based on itself, has a ``_base_`` that is not a
                path or a list of paths, or an ``_inherited_`` that is neither true nor false; or
                there are more than `MAX_FILES` files, or more than `MAX_SIZE` characters in all of
                them.
        """
        return self._read(path, seen=())

    def _read(self, path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
        if path.resolve() in seen:
            raise ConfigError(f"_base_: {path} is based on itself")
        document = self._document(path, is_base=bool(seen))
        _check_inheritance(path, document.content)
        self.definitions |= document.definitions
        content = document.content
        bases = content.pop("_base_", [])
        bases = [bases] if isinstance(bases, str) else bases
        if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
            raise ConfigError(
                f"{path}: _base_: expected a path or a list of paths, found {shown(bases)}"
            )
        for base in bases:
            inherited = self._read(path.parent / base, (*seen, path.resolve()))
            _check_kinds(content, inherited)
            content = merge_config_dicts(content, inherited)
        return content

    def _document(self, path: Path, is_base: bool) -> Document:
        self._count += 1
        if self._count > MAX_FILES:
            raise ConfigError(f"_base_: expected at most {MAX_FILES} files in all, found more")
        try:
            document = read_document(path)
        except ConfigError as error:
            raise ConfigError(f"_base_: {error}" if is_base else str(error)) from error
        self._size += document.size
        if self._size > MAX_SIZE:
            raise ConfigError(
                f"_base_: expected at most {MAX_SIZE} characters in all files, found more"
            )
        return document


def _check_inheritance(path: Path, own: dict[str, Any], key: str = "") -> None:
    """Check that ``_inherited_`` is no text: "false" in quotes would be true."""
    for name, value in own.items():
        if name == "_inherited_":
            checked_flag(f"{path}: {key}{name}", value)
        elif isinstance(value, dict):
            _check_inheritance(path, value, f"{key}{name}.")


def _check_kinds(own: dict[str, Any], base: dict[str, Any], key: str = "") -> None:
    """Check that a mapping is merged only with a mapping."""
    for name, value in own.items():
        if isinstance(value, dict) and name in base and value.get("_inherited_", True):
            if not isinstance(base[name], dict):
                kind = type(base[name]).__name__
                raise ConfigError(
                    f"{key}{name}: expected keys and values in the base too, found a {kind} there; "
                    "set _inherited_: false to replace it"
                )
            _check_kinds(value, base[name], f"{key}{name}.")
