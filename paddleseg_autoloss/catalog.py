"""The documentation of all methods for the docs and the terminal, read from their classes."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass
from typing import Any

import yaml

from paddleseg_autoloss.formulas import plain_docstring
from paddleseg_autoloss.gradients.aggregator import method_arguments
from paddleseg_autoloss.text_tables import align_columns
from paddleseg_autoloss.weighting import (
    METHODS,
    AlignmentWeighting,
    HeldOutLossWeighting,
    JacobianWeighting,
    LossWeighting,
    Weighting,
)
from paddleseg_autoloss.weighting.base import own_arguments

__all__ = [
    "LEFT_OUT",
    "Entry",
    "aggregator_snippet",
    "config_snippet",
    "entries",
    "example_losses",
    "markdown_lists",
    "table",
    "text_entry",
    "text_table",
]

#: Published methods that this package does not contain, and the reasons.
LEFT_OUT = {
    "MOML, FORUM": "every step differentiates through an optimizer step on validation data",
}

_HEADER = (
    "Method",
    "Paper",
    "Year",
    "Needs",
    "State",
    "Extra per step",
    "Losses",
    "Negative weights",
    "Weights sum to",
    "Scale",
)
#: What a step, or a look at held-out data, costs in addition, by what the method needs.
_COSTS = {
    "losses": "none",
    "Gramian": "K - 1 backward passes",
    "Jacobian": "K - 1 backward passes",
    "alignments": "in each look: one held-out step and K - 1 backward passes",
    "held-out": "in each look: one held-out forward pass",
}
#: Summary, abbreviation, authors and year in a docstring's first line.
_SUMMARY = re.compile(r"(.+?)(?: \((?:([^,()]+), )?([^,()]+) (\d{4})\))?\.(?: .*)?$")
#: Values for K and n that can be recognised in the shapes of a method's state.
_K, _N = 5, 11


@dataclass(frozen=True)
class Entry:
    """A method's row in the table.

    Args:
        name: its name in a config.
        method: its class.
        summary: short description.
        authors: authors of its paper, or an empty string.
        year: year of its paper, or an empty string.
    """

    name: str
    method: type[Weighting]
    summary: str
    authors: str
    year: str

    def row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        method = self.method
        # The arguments have their defaults; a method that wraps another has the other's properties.
        weighting = method(_K if method.most_losses >= _K else int(method.most_losses))
        needs = _needs(weighting)
        return (
            self.name,
            self.authors or "-",
            self.year or "-",
            needs,
            _state(weighting),
            _COSTS[needs],
            _losses(weighting),
            "yes" if weighting.may_be_negative else "no",
            weighting.sums_to,
            weighting.scale,
        )

    def docstring(self) -> str:
        """Return the documentation of the method, without the examples."""
        return inspect.cleandoc(self.method.__doc__ or "").split("\nExamples:")[0].rstrip()

    def arguments(self) -> list[tuple[str, Any]]:
        """Return the names and defaults of the arguments that a config can have."""
        return [(argument.name, argument.default) for argument in method_arguments(self.method)]


def entries() -> list[Entry]:
    """Return all methods, sorted by name."""
    found = []
    for name in sorted(METHODS, key=str.lower):
        line = inspect.cleandoc(METHODS[name].__doc__ or "").split("\n")[0]
        match = _SUMMARY.match(line)
        if match is None:
            raise ValueError(f"{name}: the first line of its docstring is {line!r}")
        summary, _, authors, year = match.groups(default="")
        found.append(Entry(name, METHODS[name], summary, authors, year))
    return found


def table() -> list[tuple[str, ...]]:
    """Return the table of methods, its header first."""
    return [_HEADER, *(entry.row() for entry in entries())]


def _needs(weighting: Weighting) -> str:
    """Return the inputs on which the weights depend."""
    if isinstance(weighting, LossWeighting):
        return "losses"
    if isinstance(weighting, AlignmentWeighting):
        return "alignments"
    if isinstance(weighting, HeldOutLossWeighting):
        return "held-out"
    return "Jacobian" if isinstance(weighting, JacobianWeighting) else "Gramian"


def _losses(weighting: Weighting) -> str:
    """Return the range of losses that the method accepts."""
    learned = weighting.loss_range != "any" and weighting.parameter_name is not None
    return weighting.loss_range + (" (else the weight stays)" if learned else "")


def _state(weighting: Weighting) -> str:
    """Return the state of a method in a checkpoint, with its shapes."""
    if isinstance(weighting, JacobianWeighting):
        weighting.prepare(_N)
    names = {weighting.num_losses: "K", weighting.num_losses + 1: "K + 1", _N: "n"}
    found: dict[str, None] = {}
    for key, value in weighting.state_dict().items():
        if "draws." in key:
            found["random state"] = None
            continue
        shape = ", ".join(str(names.get(size, size)) for size in value.shape)
        learned = " learned" if key == weighting.parameter_name else ""
        found[key + (f" [{shape}]" if shape else "") + learned] = None
    return ", ".join(found) or "-"


def example_losses(method: type[Weighting]) -> list[str]:
    """Return names of PaddleSeg's losses for an example; as many as the method needs."""
    kinds = ["CrossEntropyLoss", "DiceLoss", "LovaszSoftmaxLoss", "FocalLoss"]
    return kinds[: max(2, method.least_losses)]


def config_snippet(name: str) -> str:
    """Return the part of a config that trains with a method and its default arguments.

    Args:
        name: name of the method.
    """
    method = METHODS[name]
    return "\n".join(
        [
            *_held_out(method),
            "loss:",
            "  types:",
            f"    - type: {name}",
            *(
                f"      {key}: {_yaml(argument.default)}"
                for key, argument in own_arguments(method).items()
                if argument.default is not None
            ),
            "      losses:",
            *(f"        - type: {loss}" for loss in example_losses(method)),
            "  coef: [1]",
        ]
    )


def aggregator_snippet(name: str) -> str:
    """Return the part of a config that weighs all terms of all heads with a method.

    Args:
        name: name of the method.
    """
    return "\n".join([*_held_out(METHODS[name]), "loss_aggregator:", f"  type: {name}"])


def _held_out(method: type[Weighting]) -> list[str]:
    """Return the lines that hold images out of training, if the method needs such images."""
    return ["held_out: 0.1"] if method.uses_held_out else []


def _yaml(value: Any) -> str:
    # PyYAML writes an end-of-document marker after a scalar.
    return yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def text_table() -> str:
    """Return the most important columns of the table of methods, for a terminal of 80 columns."""
    rows = [("Method", "Paper", "Needs", "Losses")]
    for name, authors, year, needs, _, _, losses, *_ in table()[1:]:
        rows.append((name, f"{authors} {year}".strip("- ") or "-", needs, losses.split(" (")[0]))
    return "\n".join([align_columns(rows), "", *map(textwrap.fill, _NOTES)])


_NOTES = [
    "Needs losses: no extra cost. Gramian, Jacobian: the gradient of each loss, K - 1 more "
    "backward passes for K losses. Alignments, held-out: looks at images that are held out "
    "of training. autoloss show CAGrad has formula, state and a config.",
    *(f"Left out: {name}: {reason}." for name, reason in LEFT_OUT.items()),
]


def text_entry(name: str) -> str:
    """Return the documentation of one method for a terminal.

    Args:
        name: name of the method.
    """
    entry = next(entry for entry in entries() if entry.name == name)
    arguments = ", ".join(f"{key}={default!r}" for key, default in entry.arguments())
    signature = textwrap.fill(f"{name}({arguments})", subsequent_indent="    ")
    facts = [f"{title}: {cell}" for title, cell in zip(_HEADER[3:], entry.row()[3:])]
    return "\n\n".join(
        [
            signature,
            plain_docstring(entry.docstring()),
            "\n".join(facts),
            config_snippet(name),
            f"# Or, to weigh all losses of all outputs together:\n{aggregator_snippet(name)}",
        ]
    )


def markdown_lists() -> str:
    """Return the names of the methods as lists, grouped by the inputs of their weights."""
    names: dict[str, list[str]] = {needs: [] for needs in _COSTS}
    for name, _, _, needs, *_ in table()[1:]:
        names[needs].append(f"`{name}`")
    return "\n".join(
        textwrap.fill(f"- **{needs}**: {', '.join(found)}", width=100, subsequent_indent="  ")
        for needs, found in names.items()
    )
