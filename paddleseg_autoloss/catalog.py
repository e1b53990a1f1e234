"""The documentation of all methods for the docs and the terminal, read from their classes."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from paddleseg_autoloss.formulas import plain_docstring
from paddleseg_autoloss.gradients.aggregator import method_arguments
from paddleseg_autoloss.text_tables import align_columns
from paddleseg_autoloss.weighting import METHODS, JacobianWeighting, LossWeighting, Weighting
from paddleseg_autoloss.weighting.base import own_arguments

__all__ = [
    "LEFT_OUT",
    "Entry",
    "config_snippet",
    "entries",
    "example_losses",
    "markdown_lists",
    "markdown_page",
    "table",
    "text_entry",
    "text_table",
]

#: Published methods that this package does not contain, and the reasons.
LEFT_OUT = {
    "MoDo": "needs the gradients of several independent batches per step, which needs another data "
    "loader (Chen et al. 2023, NeurIPS)",
    "SDMGrad": "needs the gradients of several independent batches per step, which needs another "
    "data loader (Xiao et al. 2023, NeurIPS)",
    "AutoLambda, MOML, FORUM": "differentiates, in every step, through an optimizer step on "
    "validation data",
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
            "none" if needs == "losses" else "K - 1 backward passes",
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
    return "Jacobian" if isinstance(weighting, JacobianWeighting) else "Gramian"


def _losses(weighting: Weighting) -> str:
    """Return the range of losses that the method accepts."""
    learned = weighting.loss_range != "any" and weighting.parameter_name is not None
    return weighting.loss_range + (" (else the weight stays)" if learned else "")


def _state(weighting: Weighting) -> str:
    """Return the state of a method in a checkpoint, with its shapes."""
    if isinstance(weighting, JacobianWeighting):
        weighting.prepare(_N)
    names = {weighting.num_losses: "K", _N: "n"}
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
    "backward passes for K losses. autoloss show CAGrad has formula, state and a config.",
    *(f"Left out: {name}: it {reason}." for name, reason in LEFT_OUT.items()),
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
            f"loss_aggregator:\n  type: {name}",
        ]
    )


def markdown_lists() -> str:
    """Return the names of the methods as lists, grouped by the inputs of their weights."""
    names: dict[str, list[str]] = {"losses": [], "Gramian": [], "Jacobian": []}
    for name, _, _, needs, *_ in table()[1:]:
        names[needs].append(f"`{name}`")
    return "\n".join(
        textwrap.fill(f"- **{needs}**: {', '.join(found)}", width=100, subsequent_indent="  ")
        for needs, found in names.items()
    )


_PAGE = """\
# The methods

<!-- Written by docs/write_methods_page.py from the docstrings; change those. -->

Every method is a component for `loss.types` and a `type` for `loss_aggregator`;
[In your config](configs.md) shows both. `autoloss list` prints this table, and
`autoloss show CAGrad` one of the sections.

K is the number of losses, n the number of parameters. *Needs* is the input of the weights: only the
values of the losses, the Gramian of their gradients (the K x K inner products), or the whole
Jacobian. With `level: logits`, methods that need the Gramian need about one backward pass in
total. Methods that need the Jacobian need memory for K n more numbers. *State* is the content of a
checkpoint. *Scale* shows whether the update has the scale of the losses' sum or of their
mean; `reduction: sum` or `reduction: mean` changes it for every method. If the method has a
scale of its own, `mean` divides it by K. Gradients can be as long or as short as single precision
allows; only `ExcessMTL` and `MConFIG` have a smaller range, see their sections. If only some of the
losses depend on a parameter, as in an auxiliary head, weights below 0 count as 0 there, because
they would increase these losses; if this is impossible, a method with such weights is refused.

*Losses* is the range of losses that a method accepts; some losses are negative by design, such as
`RMILoss`. Methods for *any* accept them. If the weights are learned, the weight of a term does not
change while the term is negative, and one warning names the term. For all other methods a negative
loss is an error that names it: the method would ignore the loss or increase it. A loss of 0 is not
an error, nor is -1e-6, which may be 0 with a rounding error. `paddleseg.core.train` reads the
losses in any case. In your own training loop this check waits for the device once per step, except
for methods that accept any losses or learn their weights.

{table}

Left out:

{left_out}

{sections}
"""


def markdown_page() -> str:
    """Return ``docs/methods.md``."""
    header, *rows = table()
    linked = [(f"[{name}](#{name.lower()})", *cells) for name, *cells in rows]
    lines = [header, tuple("---" for _ in header), *linked]
    return _PAGE.format(
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        left_out="\n".join(f"- {name}: {reason}." for name, reason in LEFT_OUT.items()),
        sections="\n\n".join(_section(entry) for entry in entries()),
    )


def _section(entry: Entry) -> str:
    parts = [f"## {entry.name}", _markdown(entry.docstring())]
    parts.append(f"```yaml\n{config_snippet(entry.name)}\n```")
    return "\n\n".join(parts)


def _markdown(docstring: str) -> str:
    """Translate the mathematics, the sections and the entries of a docstring to Markdown."""
    # GitHub requires a formula within text to be on one line.
    text = re.sub(
        r":math:`(.+?)`", lambda m: f"$`{' '.join(m[1].split())}`$", docstring, flags=re.DOTALL
    )
    text = text.replace("``", "`")
    return "\n\n".join(_blocks(text.split("\n")))


def _blocks(lines: list[str]) -> Iterator[str]:
    """Yield the paragraphs, formulas and lists of a docstring."""
    text = "\n".join(lines)
    for block in re.split(r"\n\s*\n(?=\S)", text):
        head, _, body = block.partition("\n")
        if head.startswith(".. math::"):
            formula = inspect.cleandoc(head.removeprefix(".. math::") + "\n" + body)
            if "&" in formula or r"\\" in formula:
                formula = f"\\begin{{aligned}}\n{formula}\n\\end{{aligned}}"
            yield f"```math\n{formula}\n```"
        elif head in ("Args:", "Attributes:", "Raises:"):
            yield f"**{_TITLES[head]}**"
            yield _list(inspect.cleandoc(body))
        elif head == "Deviations:":
            yield "**Deviations**"
            yield inspect.cleandoc(body)
        else:
            yield block


_TITLES = {"Args:": "Arguments", "Attributes:": "Attributes", "Raises:": "Errors"}


def _list(body: str) -> str:
    """Make a Markdown list of ``name: meaning`` entries; their continuation lines are indented."""
    return re.sub(r"^(\w+):", r"- `\1`:", body.replace("\n    ", "\n  "), flags=re.MULTILINE)
