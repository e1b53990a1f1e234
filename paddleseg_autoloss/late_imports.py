"""Import of a module at its first use, for imports in the code of others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from paddleseg_autoloss.missing_packages import import_for

__all__ = ["imported_at_first_use"]


class _StandIn(ModuleType):
    """Stands for a module that is not imported yet; the first look at it imports the module.

    Args:
        name: name of the module.
        user: what needs the module, for the error if it is missing.
    """

    def __init__(self, name: str, user: str) -> None:
        super().__init__(name)
        self._user = user

    def __getattr__(self, name: str) -> Any:
        # Inspection looks at all modules for such names; the import of a submodule needs the path.
        if name.startswith("__") and name != "__path__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet")
        _remove_stand_ins()
        return getattr(import_for(self._user, self.__name__), name)


def _remove_stand_ins() -> None:
    for name in [name for name, module in [*sys.modules.items()] if type(module) is _StandIn]:
        del sys.modules[name]


@contextmanager
def imported_at_first_use(module: str, user: str) -> Iterator[None]:
    """Context in which ``import module`` costs nothing: the module is loaded when it is used.

    An import of another module of the same package loads the package, as always.  If the package
    was imported before, nothing changes.

    Args:
        module: name of the module, ``package.module``.
        user: what needs the module, for the error if it is missing.
    """
    package, _, rest = module.partition(".")
    if package not in sys.modules:
        sys.modules[package], sys.modules[module] = _StandIn(package, user), _StandIn(module, user)
        setattr(sys.modules[package], rest, sys.modules[module])
    try:
        yield
    finally:
        _remove_stand_ins()
