"""The options of losses and methods, by which a checkpoint knows losses and changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from paddle import Tensor, nn

from paddleseg_autoloss.errors import shown
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.terms import Term
from paddleseg_autoloss.weighting.base import own_arguments

__all__ = [
    "changed_options",
    "different_twins",
    "method_options",
    "options_of",
    "special_options",
    "swapped_losses",
]

#: Most numbers of an option, and most characters of a text; class weights have one per class.
_MOST_NUMBERS, _LONGEST_TEXT = 1000, 200
_ABSENT = object()
_AGGREGATOR_OPTIONS = ("level", "layer", "update_interval", "reduction", "constant_sum")


def options_of(term: Term) -> dict[str, Any]:
    """Return the class, the coefficient and the options of a loss.

    Options are the public attributes of the loss and of its inner layers that are numbers, flags,
    texts or lists of them, except its parameters and buffers.  An argument that a config sets to
    its default changes nothing.

    Args:
        term: the term with the loss.

    Returns:
        The options by name, in a form that a checkpoint can store.

    Example:
        >>> from paddleseg.models.losses import CrossEntropyLoss
        >>> term = Term("a", 0, CrossEntropyLoss(weight=[0.25, 0.75]), 1.0)
        >>> found = options_of(term)
        >>> found["class"], found["weight"], found["ignore_index"]
        ('CrossEntropyLoss', [0.25, 0.75], 255)
    """
    return {"coef": term.coef, **_options_of_layer(term.layer)}


def _options_of_layer(whole: nn.Layer) -> dict[str, Any]:
    options: dict[str, Any] = {"class": type(whole).__name__}
    state = whole.state_dict()
    for path, layer in whole.named_sublayers(include_self=True):
        held = {name: value for name, value in vars(layer).items() if name != "training"}
        for name, value in {**held, **dict(layer.named_buffers(include_sublayers=False))}.items():
            full_name = f"{path}.{name}" if path else name
            plain = _ABSENT if full_name in state or name.startswith("_") else _plain(value)
            if plain is not _ABSENT:
                options[full_name] = plain
    return options


def method_options(aggregator: LossAggregator) -> dict[str, Any]:
    """Return the arguments of a method and of its aggregator, in a form like that of `options_of`.

    ``init`` is not among them: what has been learned since takes its place.

    Args:
        aggregator: the aggregator with the method.
    """
    weighting = aggregator.weighting
    names = own_arguments(type(weighting)).keys() - {"init"}
    values = {name: getattr(weighting, name, _ABSENT) for name in sorted(names)}
    values |= {name: getattr(aggregator, name) for name in _AGGREGATOR_OPTIONS}
    plain = {
        name: _options_of_layer(value) if isinstance(value, nn.Layer) else _plain(value)
        for name, value in values.items()
    }
    return {name: value for name, value in plain.items() if value is not _ABSENT}


def changed_options(own: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """Describe the options that have another value here than in a checkpoint.

    Args:
        own: the options here.
        saved: the options in the checkpoint; what only one of both has is not compared.

    Example:
        >>> changed_options({"lr": 2.0, "floor": 0.1, "new": 1}, {"lr": 1.0, "floor": 0.1})
        ['lr is 2.0, was 1.0']
    """
    return [
        f"{name} is {shown(own[name])}, was {shown(saved[name])}"
        for name in own
        if name in saved and not _is_same(own[name], saved[name])
    ]


def swapped_losses(
    own: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]]
) -> tuple[int, int] | None:
    """Return the indices of two losses that were saved in the other order, or None.

    Two losses count as swapped if fewer options differ after exchanging them.  Losses whose options
    were changed without exchanging them do not count.

    Args:
        own: the options of the losses.
        saved: the options in the checkpoint, of the same number of losses.

    Example:
        >>> swapped_losses([{"weight": 1}, {"weight": 2}], [{"weight": 2}, {"weight": 1}])
        (0, 1)
        >>> swapped_losses([{"weight": 3}, {"weight": 2}], [{"weight": 1}, {"weight": 2}])
    """
    for i, j in combinations(range(len(own)), 2):
        in_place = _distance(own[i], saved[i]) + _distance(own[j], saved[j])
        if _distance(own[i], saved[j]) + _distance(own[j], saved[i]) < in_place:
            return i, j
    return None


def different_twins(options: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    """Return the indices of two losses of one class that have different options, or None.

    Args:
        options: the options of the losses.
    """
    for i, j in combinations(range(len(options)), 2):
        if options[i]["class"] == options[j]["class"] and _distance(options[i], options[j]):
            return i, j
    return None


def special_options(options: Sequence[Mapping[str, Any]], index: int) -> str:
    """Return the options in which a loss differs from others of its class, in one line.

    Args:
        options: the options of the losses.
        index: index of the loss.

    Example:
        >>> special_options([{"class": "A", "x": 1, "y": 2}, {"class": "A", "x": 3, "y": 2}], 1)
        'x: 3'
    """
    own = options[index]
    others = [other for other in options if other["class"] == own["class"]]
    special = {
        name: value
        for name, value in own.items()
        if any(other.get(name, value) != value for other in others)
    }
    return ", ".join(f"{name}: {shown(value)}" for name, value in special.items())


def _distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> int:
    """Count the different values of options that both have; a new PaddleSeg may add options."""
    return sum(one[name] != other[name] for name in one.keys() & other.keys())


def _is_same(one: Any, other: Any) -> bool:
    # NaN differs from itself.
    return one == other or repr(one) == repr(other)


def _plain(value: Any) -> Any:
    """Return a value that consists of numbers and texts, or `_ABSENT` for any other value."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        is_short = value.size <= _MOST_NUMBERS
        return np.asarray(value).tolist() if is_short else _ABSENT
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else _ABSENT
    if isinstance(value, (list, tuple)) and len(value) <= _MOST_NUMBERS:
        inner = [_plain(entry) for entry in value]
        return _ABSENT if any(entry is _ABSENT for entry in inner) else inner
    is_plain = value is None or isinstance(value, (bool, float))
    is_short_integer = isinstance(value, int) and abs(value) < 2**63
    return value if is_plain or is_short_integer else _ABSENT
