"""The table of the levels, and which one to take."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from paddleseg_autoloss.diagnosis.advice import wrap
from paddleseg_autoloss.diagnosis.levels import ANOTHER_BATCH, EQUAL, Levels
from paddleseg_autoloss.text_tables import align_columns

__all__ = [
    "LEVEL_LEGEND",
    "describe_levels",
    "level_advice",
    "level_rows",
    "levels_to_dict",
]

#: Median fidelity from which a cheap level is recommended.
_ENOUGH = 0.98
#: What a level must fall short of equal weights by to be called worse.
_WORSE = 0.005
_LEVELS = ("logits", "features")

LEVEL_LEGEND = (
    "Fidelity: cosine of the angle between the update with the weights of a level and the method's "
    "exact update, on the network as the steps above have left it; median over batches of training "
    "images and, in brackets, the worst. Cost: time of forward and backward pass as a multiple of "
    "a plain step's, medians of alternating steps; if the config has several methods, all of them "
    "at this level. Weights of the batch before: what an "
    "update_interval of 2 loses in every second step, about; with the interval n the cost c of "
    "level parameters becomes 1 + (c - 1) / n. The network has trained for few steps, and fidelity "
    "can change later."
)


def level_rows(levels: Levels) -> list[list[str]]:
    """Return the table of all levels, its header first.

    Args:
        levels: the figures.
    """
    names = [EQUAL, *(one for one in _LEVELS if _is_known(levels, one)), ANOTHER_BATCH]
    rows = [
        [name, _cost(levels, name), *(_show(own[name]) for own in levels.fidelities.values())]
        for name in names
    ]
    rows.append(["parameters", _cost(levels, "parameters"), *["1"] * len(levels.fidelities)])
    return [["level", "cost", *levels.fidelities], *rows]


def _is_known(levels: Levels, level: str) -> bool:
    return any(level in own for own in levels.fidelities.values())


def _cost(levels: Levels, name: str) -> str:
    if name == EQUAL:
        return "1"
    return f"{levels.costs[name]:.2f}" if name in levels.costs else "-"


def _show(found: Any) -> str:
    return "-" if math.isnan(found.median) else f"{found.median:.3f} ({found.worst:.3f})"


def level_advice(levels: Levels) -> list[str]:
    """Say for each method which level to take, and which are refused or worse than equal weights.

    The methods of the config that are not in the table come first.

    Args:
        levels: the figures.
    """
    texts = [_left_out(levels, name) for name in levels.left_out]
    texts += [_advice(levels, name) for name in levels.fidelities]
    if levels.layer is None:
        texts.append("Level features is not measured: the network has no backbone that fits it.")
    return texts


def _left_out(levels: Levels, name: str) -> str:
    shown = ", ".join(levels.fidelities)
    return (
        f"{name}: it is a method of this config, but not in the table, because it does not "
        f"weigh its losses by the Gramian of the gradients alone; the table has {shown}."
    )


def _advice(levels: Levels, method: str) -> str:
    own = levels.fidelities[method]
    equal = own[EQUAL].median
    known = [one for one in _LEVELS if one in own and not math.isnan(own[one].median)]
    refused = [f"level: {one}" for one in _LEVELS if one in own and own[one].is_refused]
    if own[ANOTHER_BATCH].is_refused:
        refused.append("update_interval above 1")
    bad = [one for one in known if own[one].median < equal - _WORSE]
    good = [one for one in known if own[one].median >= max(_ENOUGH, equal) and one in levels.costs]
    good = [one for one in good if levels.costs[one] < levels.costs["parameters"]]
    if equal >= _ENOUGH:
        text = f"{method}: equal weights have nearly the direction of its update, {equal:.3f}"
    elif good:
        best = min(good, key=lambda one: levels.costs[one])
        text = (
            f"{method}: take level: {best}, with a fidelity of {own[best].median:.3f} at "
            f"{levels.costs[best]:.2f} times a plain step in the place of "
            f"{levels.costs['parameters']:.2f}"
        )
    elif known:
        text = f"{method}: take level: parameters, as no cheaper one has a fidelity of {_ENOUGH}"
    else:
        text = f"{method}: take level: parameters"
    if bad:
        figures = " and ".join(f"level: {one} ({own[one].median:.3f})" for one in bad)
        text += f"; {figures} is worse than equal weights ({equal:.3f})"
    if refused:
        text += (
            f"; training refuses {' and '.join(refused)}, because its weights can be negative and "
            "some heads have losses of their own"
        )
    return f"{text}."


def describe_levels(levels: Levels) -> str:
    """Return the table, an explanation of it, and the advice.

    Args:
        levels: the figures.
    """
    table = align_columns(level_rows(levels), numbers=True)
    return "\n\n".join([table, *map(wrap, [LEVEL_LEGEND, *level_advice(levels)])])


def levels_to_dict(levels: Levels) -> dict[str, Any]:
    """Return all figures and the advice by name, for a JSON file.

    Args:
        levels: the figures.
    """
    return {**asdict(levels), "advice": level_advice(levels)}
