"""The history of the weights: CSV files that grow during training, and a picture of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from paddleseg_autoloss.escaping import escape_cell, escape_math, unescape_cell
from paddleseg_autoloss.files import output_errors, replace_file
from paddleseg_autoloss.fonts import choose_fonts
from paddleseg_autoloss.integration.gradient_statistics import PairRow

__all__ = ["Row", "WeightHistory"]

#: A plot with more curves than this has no legend, which would cover too much of it.
_MOST_LEGEND_ENTRIES = 8


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
        with open(self.path, newline="", encoding="utf-8") as file:
            records = list(csv.reader(file))[1:]
        # Delete the rows after the checkpoint before parsing: the last one may be incomplete, if
        # the process was killed.
        kept = [r for r in records if r[0].isdigit() and int(r[0]) <= self._start_iter]
        return [self._kind(*map(_parse, fields(self._kind), r)) for r in kept]

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
    ``loss_weights.png`` shows both.

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
        figure = Figure(figsize=(12, 3.6 * rows), dpi=100, layout="constrained")
        axes = figure.subplots(rows, 3, squeeze=False)
        self._plot_weights(axes[0])
        if self._gradients.rows:
            self._plot_gradients(axes[1])
        for one in figure.axes:
            one.set_xlabel("iteration")
            one.grid(alpha=0.3)
        choose_fonts(figure)
        with replace_file(self.png_path) as temporary:
            figure.savefig(temporary, format="png")
        return True

    def _plot_weights(self, axes: Any) -> None:
        for one, (name, title) in zip(
            axes, {"raw": "raw loss", "weight": "weight", "weighted": "weighted loss"}.items()
        ):
            curves: dict[str, list[tuple[int, float]]] = {}
            for row in self._weights.rows:
                curves.setdefault(row.term, []).append((row.iteration, getattr(row, name)))
            _draw(one, title, curves, legend=name == "weight")

    def _plot_gradients(self, axes: Any) -> None:
        norms: dict[str, dict[int, float]] = {}
        angles: dict[str, list[tuple[int, float]]] = {}
        conflicts: dict[int, list[float]] = {}
        for row in self._gradients.rows:
            norms.setdefault(row.first, {})[row.iteration] = row.first_norm
            norms.setdefault(row.second, {})[row.iteration] = row.second_norm
            pair = f"{row.first}, {row.second}"
            angles.setdefault(pair, []).append((row.iteration, row.cosine))
            conflicts.setdefault(row.iteration, []).append(row.conflict)
        _draw(axes[0], "gradient norm", {k: list(v.items()) for k, v in norms.items()}, legend=True)
        axes[0].set_yscale("log", nonpositive="mask")
        _draw(axes[1], "cosine of gradients", angles, legend=True)
        axes[1].set_ylim(-1.05, 1.05)
        axes[1].axhline(0, color="black", linewidth=0.8)
        rates = [(iteration, sum(v) / len(v)) for iteration, v in conflicts.items()]
        _draw(axes[2], "conflict rate, all pairs", {"": rates}, legend=False)
        axes[2].set_ylim(-0.05, 1.05)


def _draw(axes: Any, title: str, curves: dict[str, list[tuple[int, float]]], legend: bool) -> None:
    for label, points in curves.items():
        axes.plot(*zip(*points), label=escape_math(label))
    axes.set_title(title)
    if legend and len(curves) <= _MOST_LEGEND_ENTRIES:
        axes.legend(fontsize="small")
