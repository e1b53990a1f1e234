"""Write paddleseg_autoloss/__init__.pyi: what editors and type checkers know of the components.

The components are made when the package is imported, so nobody who only reads the source sees them.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg_autoloss.losses import COMPONENTS

STUB = Path(__file__).resolve().parents[1] / "paddleseg_autoloss" / "__init__.pyi"

_HEAD = '''\
"""Automatic loss weighting for PaddleSeg.  Written by docs/write_stub.py."""

from collections.abc import Sequence
from typing import Any

from paddle import nn

from paddleseg_autoloss.datasets import SyntheticFundus as SyntheticFundus
from paddleseg_autoloss.losses import WeightedLoss

__version__: str
'''


def stub() -> str:
    """Return the text of the stub: every component with its signature and its summary."""
    return "\n".join([_HEAD, *(_class(name) for name in sorted(COMPONENTS, key=str.lower))])


def _class(name: str) -> str:
    component = COMPONENTS[name]
    summary = inspect.cleandoc(component.__doc__ or "").split("\n")[0]
    raw = "r" if "\\" in summary else ""
    arguments = [
        f"        {argument.name}: {argument.annotation}{_default(argument)},\n"
        for argument in inspect.signature(component).parameters.values()
    ]
    return (
        f'class {name}(WeightedLoss):\n    {raw}"""{summary}"""\n\n'
        f"    def __init__(\n        self,\n{''.join(arguments)}    ) -> None: ...\n"
    )


def _default(argument: inspect.Parameter) -> str:
    if argument.default is argument.empty:
        return ""
    return f" = {argument.default!r}".replace("'", '"')


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
