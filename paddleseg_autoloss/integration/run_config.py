"""The config of a run in its checkpoints, to name what has changed when the run is continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from paddleseg_autoloss.errors import shown

__all__ = ["changed_keys", "config_as_text"]

#: A run that is continued for longer has other ``iters``, and the state of the losses has the rest.
_NOT_COMPARED = {"iters", "loss", "loss_aggregator"}


class _NotSet:
    def __repr__(self) -> str:
        return "not set"


_NOT_SET = _NotSet()


def config_as_text(config: Mapping[str, Any]) -> str:
    """Return a config as JSON, which a checkpoint can store.

    Args:
        config: the keys and values of the config.  Keys that are expected to change, or that the
            state of the losses describes, are left out.
    """
    kept = {key: value for key, value in config.items() if key not in _NOT_COMPARED}
    return json.dumps(kept, default=str)


def changed_keys(own: str, saved: str) -> list[str]:
    """Describe the keys that have another value here than in a checkpoint.

    Args:
        own: the config here, from `config_as_text`.
        saved: that of the checkpoint.

    Example:
        >>> changed_keys('{"optimizer": {"type": "SGD", "momentum": 0.8}}',
        ...              '{"optimizer": {"type": "SGD"}}')
        ['optimizer.momentum is 0.8, was not set']
    """
    return _changes("", json.loads(own), json.loads(saved))


def _changes(path: str, own: Any, saved: Any) -> list[str]:
    if own == saved:
        return []
    pairs = _pairs(path, own, saved)
    if pairs is None:
        return [f"{path} is {shown(own)}, was {shown(saved)}"]
    return [change for pair in pairs for change in _changes(*pair)]


def _pairs(path: str, own: Any, saved: Any) -> list[tuple[str, Any, Any]] | None:
    """Return path and values of what two values consist of, or None to compare them as a whole."""
    if isinstance(own, dict) and isinstance(saved, dict):
        keys = dict.fromkeys([*own, *saved])
        prefix = f"{path}." if path else ""
        return [(prefix + key, own.get(key, _NOT_SET), saved.get(key, _NOT_SET)) for key in keys]
    lists = isinstance(own, list) and isinstance(saved, list) and len(own) == len(saved)
    if lists and any(isinstance(value, dict) for value in own):
        return [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(own, saved))]
    return None
