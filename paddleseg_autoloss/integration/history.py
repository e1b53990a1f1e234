"""The history of the weights: CSV files that grow during training, and a picture of them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from paddleseg_autoloss.escaping import escape_cell, escape_math, unescape_cell
from paddleseg_autoloss.files import output_errors, replace_file
from paddleseg_autoloss.fonts import choose_fonts
from paddleseg_autoloss.integration.gradient_statistics import PairRow
from paddleseg_autoloss.plot_styles import (
    SINGLE,
    label_iterations,
    line_style,
    mark_every,
    set_scale,
    shortened,
)

__all__ = ["Row", "WeightHistory"]

#: The pairs with the lowest cosines have colours and names; more could not be told apart.
_MOST_PAIRS = 8
#: Most lines of the legend beside one row of panels.
_LEGEND_LINES = 18


@dataclass(frozen=True)
class Row:
    """The means of one term over one log window.

    Args:
        iteration: the window's last iteration.
        term: name of the term.
        raw: the loss value before weighting.
        weight: the weight, which multiplies the raw value; NaN for a loss that learns weights of
            its own.
        weighted: the product, which is the term's part of the total loss.
    """

    iteration: int
    term: str
    raw: float
    weight: float
    weighted: float


R = TypeVar("R", Row, PairRow)


class _Table(Generic[R]):
    """A CSV file with one row per object of a dataclass.

    Args:
        path: the file.
        kind: the dataclass.
        start_iter: iteration that the run continues from; rows of later iterations are deleted.
            With 0 all rows are deleted.
    """

    def __init__(self, path: Path, kind: type[R], start_iter: int) -> None:
        self.path = path
        self.rows: list[R] = []
        self._kind: Any = kind
        self._start_iter = start_iter
        self._begun = False

    def append(self, rows: Sequence[R]) -> None:
        """Add the rows of one log window."""
        if not self._begun:
            self._begun = True
            self.rows = self._kept_rows()
            self._write(self.rows, mode="w")
        self.rows += rows
        self._write(rows, mode="a")

    def _kept_rows(self) -> list[R]:
        if self._start_iter == 0 or not self.path.exists():
            return []
        # If the process was killed, the last line may be incomplete, or end with zeros.
        text = self.path.read_text("utf-8", errors="replace").replace("\0", "")
        rows = map(self._row, list(csv.reader(io.StringIO(text, newline="")))[1:])
        return [row for row in rows if row is not None and row.iteration <= self._start_iter]

    def _row(self, cells: Sequence[str]) -> Any:
        """Return the row that a line stands for, or None if it is incomplete."""
        if len(cells) != len(fields(self._kind)):
            return None
        try:
            return self._kind(*map(_parse, fields(self._kind), cells))
        except ValueError:
            return None

    def _write(self, rows: Iterable[R], mode: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = io.StringIO(newline="")
        writer = csv.writer(lines)
        if mode == "w":
            writer.writerow(field.name for field in fields(self._kind))
        writer.writerows(map(_cells, rows))
        with output_errors(self.path), open(self.path, mode, newline="", encoding="utf-8") as file:
            file.write(lines.getvalue())


def _cells(row: Row | PairRow) -> list[Any]:
    return [escape_cell(cell) if isinstance(cell, str) else cell for cell in astuple(row)]


def _parse(field: Any, text: str) -> Any:
    # Type annotations are strings in this module.
    readers: dict[str, Callable[[str], Any]] = {"int": int, "str": unescape_cell, "float": float}
    return readers[field.type](text)


class WeightHistory:
    """The history of a run in its folder.

    ``loss_weights.csv`` contains the losses and their weights.  ``loss_gradients.csv`` contains the
    norms of the losses' gradients and the angles between them, if the method computes them.
    ``loss_weights.png`` shows both, with one legend for all panels, and logarithmic axes where
    values span more than a factor of ten.

    Args:
        folder: the run's folder.
        start_iter: iteration that the run continues from; rows of later iterations are deleted.
            With 0 all rows are deleted.
    """

    def __init__(self, folder: str | Path, start_iter: int = 0) -> None:
        self.png_path = Path(folder) / "loss_weights.png"
        self._is_new = start_iter == 0
        self._weights = _Table(Path(folder) / "loss_weights.csv", Row, start_iter)
        self._gradients = _Table(Path(folder) / "loss_gradients.csv", PairRow, start_iter)

    def append(self, rows: Sequence[Row]) -> None:
        """Add the losses of one log window."""
        if self._is_new and not self._weights.rows:
            # Delete the gradients of an older run in this folder; this run may record none.
            self._gradients.path.unlink(missing_ok=True)
        self._weights.append(rows)

    def append_gradients(self, rows: Sequence[PairRow]) -> None:
        """Add the gradients of one log window, if there are any."""
        if rows:
            self._gradients.append(rows)

    def plot(self) -> bool:
        """Draw the whole history; return False if there are no rows."""
        if not self._weights.rows:
            return False
        from matplotlib.figure import Figure

        rows = 2 if self._gradients.rows else 1
        figure = Figure(figsize=(14, 3.6 * rows), dpi=100, layout="constrained")
        axes = figure.subplots(rows, 3, squeeze=False)
        legend = self._plot_weights(axes[0])
        if self._gradients.rows:
            self._plot_norms(axes[1][0], list(legend))
            legend |= self._plot_cosines(axes[1][1])
            self._plot_conflicts(axes[1][2])
        for one in figure.axes:
            label_iterations(one)
            one.grid(alpha=0.3)
        figure.legend(
            legend.values(),
            [escape_math(shortened(name)) for name in legend],
            loc="outside right upper",
            fontsize="small",
            ncols=-(-len(legend) // (_LEGEND_LINES * rows)),
        )
        choose_fonts(figure)
        with replace_file(self.png_path) as temporary:
            figure.savefig(temporary, format="png")
        return True

    def _plot_weights(self, axes: Sequence[Any]) -> dict[str, Any]:
        """Draw losses and weights; return a line of each term for the legend."""
        lines: dict[str, Any] = {}
        for one, (name, title) in zip(
            axes, {"raw": "raw loss", "weight": "weight", "weighted": "weighted loss"}.items()
        ):
            curves: dict[str, list[tuple[int, float]]] = {}
            for row in self._weights.rows:
                curves.setdefault(row.term, []).append((row.iteration, getattr(row, name)))
            lines |= _draw(one, title, curves)
            set_scale(one, [getattr(row, name) for row in self._weights.rows])
        return lines

    def _plot_norms(self, axes: Any, terms: list[str]) -> None:
        norms: dict[str, dict[int, float]] = {term: {} for term in terms}
        for row in self._gradients.rows:
            norms.setdefault(row.first, {})[row.iteration] = row.first_norm
            norms.setdefault(row.second, {})[row.iteration] = row.second_norm
        _draw(axes, "gradient norm", {name: list(curve.items()) for name, curve in norms.items()})
        set_scale(axes, [norm for curve in norms.values() for norm in curve.values()])

    def _plot_cosines(self, axes: Any) -> dict[str, Any]:
        """Draw the cosines of all pairs; return a line for the legend of those that are lowest."""
        cosines: dict[str, list[tuple[int, float]]] = {}
        for row in self._gradients.rows:
            pair = f"{row.first}, {row.second}"
            cosines.setdefault(pair, []).append((row.iteration, row.cosine))
        ranked = sorted(cosines, key=lambda pair: _mean(cosines[pair]))
        axes.axhline(0, color="black", linewidth=0.8)
        lines: dict[str, Any] = {}
        for pair in ranked[_MOST_PAIRS:]:
            (lines["other pairs"],) = axes.plot(*zip(*cosines[pair]), color=SINGLE, linewidth=0.8)
        lowest = {pair: cosines[pair] for pair in ranked[:_MOST_PAIRS]}
        heading = {"cosine of": axes.plot([], [], linestyle="")[0]}
        lines = heading | _draw(axes, "cosine of gradients", lowest) | lines
        axes.set_ylim(-1.05, 1.05)
        return lines

    def _plot_conflicts(self, axes: Any) -> None:
        conflicts: dict[int, list[float]] = {}
        for row in self._gradients.rows:
            conflicts.setdefault(row.iteration, []).append(row.conflict)
        rates = [(iteration, sum(v) / len(v)) for iteration, v in conflicts.items()]
        axes.plot(*zip(*rates), color="black")
        axes.set(title="conflict rate, all pairs", ylim=(-0.05, 1.05))


def _mean(points: Sequence[tuple[int, float]]) -> float:
    """Return the mean of the values that are not NaN, or infinity if there are none."""
    known = [value for _, value in points if not math.isnan(value)]
    return sum(known) / len(known) if known else math.inf


def _draw(
    axes: Any, title: str, curves: Mapping[str, Sequence[tuple[int, float]]]
) -> dict[str, Any]:
    """Draw curves, each with the style of its place; return their lines by name."""
    axes.set_title(title)
    lines: dict[str, Any] = {}
    for index, (name, points) in enumerate(curves.items()):
        every = mark_every(index, len(points))
        # Unlike `zip`, slices of an array may be empty.
        x, y = np.array(points, dtype=float).reshape(-1, 2).T
        (lines[name],) = axes.plot(x, y, markevery=every, **line_style(index))
    return lines
