"""Docstrings for mkdocstrings: griffe reads them, here their formulas become those of Markdown."""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object
from markup import to_markdown


class DocstringExtension(Extension):
    """Translates every docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Translate the docstring of a module, a class, a function or an attribute."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
