"""What the weights did: a CSV that grows while the run trains, and the picture made from it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

__all__ = ["Row", "WeightHistory"]


@dataclass(frozen=True)
class Row:
    """The means of one term over one log window.

    Args:
        iteration: the window's last iteration.
        term: name of the term.
        raw: the loss as its function returned it.
        weight: what it was multiplied by.
        weighted: the product, the term's part of the total.
    """

    iteration: int
    term: str
    raw: float
    weight: float
    weighted: float


class WeightHistory:
    """The history of a run, in ``loss_weights.csv`` and ``loss_weights.png`` in its folder.

    Args:
        folder: the run's folder.
        start_iter: iteration that the run continues from; rows after it are dropped, and with 0
            all of them.
    """

    def __init__(self, folder: str | Path, start_iter: int = 0) -> None:
        self.csv_path = Path(folder) / "loss_weights.csv"
        self.png_path = Path(folder) / "loss_weights.png"
        self._start_iter = start_iter
        self._rows: list[Row] | None = None

    def append(self, rows: Sequence[Row]) -> None:
        """Add the rows of one log window."""
        if self._rows is None:
            self._rows = self._kept_rows()
            self._write(self._rows, mode="w")
        self._rows += rows
        self._write(rows, mode="a")

    def _kept_rows(self) -> list[Row]:
        if self._start_iter == 0 or not self.csv_path.exists():
            return []
        with open(self.csv_path, newline="", encoding="utf-8") as file:
            records = list(csv.reader(file))[1:]
        # Rows behind the checkpoint go first: a kill may have cut the last of them short.
        kept = [r for r in records if r[0].isdigit() and int(r[0]) <= self._start_iter]
        return [Row(int(r[0]), r[1], *map(float, r[2:])) for r in kept]

    def _write(self, rows: Iterable[Row], mode: str) -> None:
        self.csv_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.csv_path, mode, newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if mode == "w":
                writer.writerow(field.name for field in fields(Row))
            writer.writerows(astuple(row) for row in rows)

    def plot(self) -> bool:
        """Draw raw loss, weight and weighted loss of every term; return whether there was any."""
        if not self._rows:
            return False
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 3.6), dpi=100, layout="constrained")
        panels = {"raw": "raw loss", "weight": "weight", "weighted": "weighted loss"}
        for axes, (name, title) in zip(figure.subplots(1, len(panels)), panels.items()):
            for term in dict.fromkeys(row.term for row in self._rows):
                own = [row for row in self._rows if row.term == term]
                axes.plot([row.iteration for row in own], [getattr(r, name) for r in own])
                axes.lines[-1].set_label(term)
            axes.set(title=title, xlabel="iteration")
            axes.grid(alpha=0.3)
        figure.axes[1].legend(fontsize="small")
        figure.savefig(self.png_path)
        return True
