"""Write the pages of the methods, the lists of docs/which_method.md and the menu of the site."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from markers import fill
from markup import to_markdown

from paddleseg_autoloss.catalog import (
    LEFT_OUT,
    Entry,
    aggregator_snippet,
    config_snippet,
    entries,
    markdown_lists,
    table,
)

DOCS = Path(__file__).resolve().parent
LISTS, MENU = DOCS / "which_method.md", DOCS.parent / "mkdocs.yml"
OVERVIEW, FOLDER = DOCS / "methods.md", DOCS / "methods"

_NOTE = "<!-- Written by docs/write_methods_page.py from the docstrings; change those. -->"
_OVERVIEW = """\
# The methods

{note}

Every method is a component for `loss.types` and a `type` for `loss_aggregator`;
[In your config](configs.md) shows both. `autoloss list` prints this table, and
`autoloss show CAGrad` one of the pages.

K is the number of losses, n the number of parameters. *Needs* is the input of the weights: only the
values of the losses, the Gramian of their gradients (the K x K inner products), or the whole
Jacobian. Gradients cost K - 1 more backward passes per step. Methods that need the Gramian
have cheaper levels and intervals, which lose a part of the exact update:
[price and loss of each](fidelity.md). Methods that need the Jacobian need memory for K n more
numbers. *Scale* shows whether the update has the scale of the losses' sum or of their mean;
`reduction: sum` or `reduction: mean` changes it for every method. If the method has a scale
of its own, `mean` divides it by K. `constant_sum` keeps the sum of the weights constant, so that
[only the proportion](concepts.md#only-the-proportion) of the losses changes. Gradients can be as
long or as short as single precision allows; only `ExcessMTL` and `MConFIG` have a smaller range,
see their pages. If only some of the losses depend on a parameter, as in an auxiliary head, weights
below 0 count as 0 there, because they would increase these losses; if this is impossible, a method
with such weights is refused.

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
"""

#: Columns of the table that have room on the overview; a method's page has them all.
_COLUMNS = ("Method", "Paper", "Year", "Needs", "Losses", "Negative weights", "Scale")
#: What the headings in the menu are, by what the methods need.
_GROUPS = {
    "losses": "From losses",
    "Gramian": "From the Gramian",
    "Jacobian": "From the Jacobian",
    "alignments": "From held-out gradients",
    "held-out": "From held-out losses",
}
_TITLES = {"Args:": "Arguments", "Attributes:": "Attributes", "Raises:": "Errors"}


def lists_page() -> str:
    """Return docs/which_method.md with its lists as the registry has them."""
    return fill(LISTS.read_text(encoding="utf-8"), "methods", markdown_lists())


def menu() -> str:
    """Return mkdocs.yml with a line for the page of every method."""
    lines = []
    for needs, title in _GROUPS.items():
        lines.append(f"      - {title}:")
        lines += [f"          - methods/{row[0]}.md" for row in table()[1:] if row[3] == needs]
    content = "\n".join(lines)
    return fill(MENU.read_text(encoding="utf-8"), "methods", content, mark="      # {}")


def overview() -> str:
    """Return docs/methods.md: the table of all methods."""
    header, *rows = table()
    shown = [header.index(column) for column in _COLUMNS]
    lines = [_COLUMNS, ("---",) * len(_COLUMNS)]
    for row in rows:
        name, *cells = (row[index] for index in shown)
        lines.append((f"[{name}](methods/{name}.md)", *cells))
    return _OVERVIEW.format(
        note=_NOTE,
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        left_out="\n".join(f"- {name}: {reason}." for name, reason in LEFT_OUT.items()),
    )


def pages() -> dict[str, str]:
    """Return the page of every method, by the name of its file in docs/methods/."""
    return {f"{entry.name}.md": _page(entry) for entry in entries()}


def _page(entry: Entry) -> str:
    facts = zip(table()[0][3:], entry.row()[3:])
    parts = [
        f"# {entry.name}",
        _NOTE,
        *_blocks(entry.docstring()),
        "## Properties",
        "\n".join(
            [
                "| Property | Value |",
                "| --- | --- |",
                *(f"| {fact} | {cell} |" for fact, cell in facts),
            ]
        ),
        "K is the number of losses, n the number of parameters; "
        "[the overview](../methods.md) explains the rest.",
        "## In a config",
        f"```yaml\n{config_snippet(entry.name)}\n```",
        "or for all terms of all heads:",
        f"```yaml\n{aggregator_snippet(entry.name)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _blocks(docstring: str) -> list[str]:
    """Return the paragraphs, formulas and sections of a docstring in Markdown."""
    found = []
    for block in re.split(r"\n\s*\n(?=\S)", to_markdown(docstring)):
        head, _, body = block.partition("\n")
        if head in _TITLES:
            found += [f"## {_TITLES[head]}", _list(inspect.cleandoc(body))]
        elif head == "Deviations:":
            found += ["## Deviations", inspect.cleandoc(body)]
        else:
            found.append(block.rstrip())
    return found


def _list(body: str) -> str:
    """Make a Markdown list of ``name: meaning`` entries; their continuation lines are indented."""
    return re.sub(r"^(\w+):", r"- `\1`:", body.replace("\n    ", "\n  "), flags=re.MULTILINE)


if __name__ == "__main__":
    LISTS.write_text(lists_page(), encoding="utf-8")
    MENU.write_text(menu(), encoding="utf-8")
    OVERVIEW.write_text(overview(), encoding="utf-8")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
