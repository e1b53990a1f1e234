"""Changes of configs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def at(*keys: Any, value: Any) -> Callable[[Any], None]:
    """A change that sets a key, however deep."""

    def change(dic: Any) -> None:
        for key in keys[:-1]:
            dic = dic[key]
        dic[keys[-1]] = value

    return change
