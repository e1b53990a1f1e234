"""The results of all runs, in one table."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from paddleseg_autoloss.checks import MOST_SEED
from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.plan import Plan, Run, Variant
from paddleseg_autoloss.errors import DataError, one_line, shown
from paddleseg_autoloss.escaping import escape_cell, unescape_cell
from paddleseg_autoloss.files import json_number, write_file

__all__ = ["METRICS", "RARE", "ResultTable", "Results", "rare_classes", "read_results"]

#: The metrics of the report; the first one is used to choose learning rates.
METRICS = ("mIoU", "Dice", "Kappa")
_PARTS = ("validation", "test")
#: A class is rare if its share of the labelled pixels is below this part of an equal share.
RARE = 1 / 5
#: The columns that contain texts from users.
_TEXTS = ("variant", "weights", "error")


class ResultTable:
    """The runs of a comparison as a table, and the learning rate of each variant.

    Args:
        table: one row per run, as in ``results.csv``.

    Attributes:
        table: one row per run, done or not.  ``status`` is ``done``, ``failed`` or ``missing``;
            ``weights`` are the final ones; times are in seconds; ``collapsed`` is true if the
            network predicts at most one class correctly on the test images; ``test_rare_mIoU`` is
            the mean over the `rare_classes`.
        rates: for each variant with results, the learning rate with the best mean mIoU on the
            validation images, over the seeds that are done at all rates with finished runs; if
            there is no such seed, the rate with the most finished runs.  A rate at which a run
            failed is chosen only if every other rate has a failed run or none that is done.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        self.rates = {
            name: rate
            for name in dict.fromkeys(table.variant)
            if (rate := self._best_rate(name)) is not None
        }

    def _best_rate(self, name: str) -> float | None:
        own = self.table[self.table.variant == name]
        count = own.learning_rate.nunique()
        # The seeds beyond `Plan.lr_seeds` have the chosen rate only.
        own = own.groupby("seed").filter(lambda rows: rows.learning_rate.nunique() == count)
        done = own[own.status == "done"]
        if done.empty:
            return None
        whole = done[~done.learning_rate.isin(own.learning_rate[own.status == "failed"])]
        candidates = done if whole.validation_mIoU.isna().all() else whole
        figures = candidates.pivot(index="seed", columns="learning_rate", values="validation_mIoU")
        return float(_best_column(figures, candidates.groupby("learning_rate").size()))

    def best_on_validation(self, names: Sequence[str]) -> str:
        """Return the variant with the best mean mIoU on the validation images.

        It is chosen as a rate is: over the seeds that are done for all of them, and without those
        of which a run failed, unless none is left.

        Args:
            names: variants with results.
        """
        runs = {name: self.by_seed(name, "validation_mIoU") for name in names}
        whole = [name for name in names if not self._has_failed(name)]
        if all(math.isnan(value) for name in whole for value in runs[name].values()):
            whole = list(names)
        counts = pd.Series({name: len(runs[name]) for name in whole})
        return str(_best_column(pd.DataFrame({name: runs[name] for name in whole}), counts))

    def _has_failed(self, name: str) -> bool:
        own = self.table[self.table.variant == name]
        return bool((own.status[own.learning_rate == self.rates[name]] == "failed").any())

    def done(self, name: str) -> pd.DataFrame:
        """The finished runs of a variant at its chosen learning rate."""
        rows = self.table[(self.table.variant == name) & (self.table.status == "done")]
        return rows[rows.learning_rate == self.rates[name]]

    def by_seed(self, name: str, column: str) -> dict[int, float]:
        """A column of the finished runs of a variant, by seed, at its chosen learning rate."""
        rows = self.done(name)
        return dict(zip(rows.seed.astype(int), rows[column].astype(float)))

    def collapsed(self, name: str) -> list[int]:
        """The seeds for which a variant's network predicts at most one class correctly."""
        rows = self.done(name)
        return [int(seed) for seed in rows.seed[rows.collapsed.astype(bool)]]


def _best_column(figures: pd.DataFrame, counts: pd.Series) -> Any:
    """Return the column with the largest mean over the seeds that all columns have.

    Means over different seeds would compare the seeds, and not the columns.

    Args:
        figures: a row for each seed, NaN where a figure is missing.
        counts: the number of runs of each column, which decides if there is no such seed.
    """
    shared = figures.dropna(axis="columns", how="all").dropna()
    return (counts if shared.empty else shared.mean()).idxmax()


class Results(ResultTable):
    """The results of a comparison, from the folders of its runs.

    Args:
        plan: the comparison.
        folders: folders of its runs.
    """

    def __init__(self, plan: Plan, folders: Sequence[RunFolder]) -> None:
        self.plan = plan
        self.folders = {folder.run.key: folder for folder in folders}
        order = {variant.name: index for index, variant in enumerate(plan.variants)}
        ordered = sorted(folders, key=lambda folder: order[folder.run.variant.name])
        super().__init__(pd.DataFrame([_row(folder) for folder in ordered]))

    @property
    def variants(self) -> list[Variant]:
        """The variants that have results."""
        return [variant for variant in self.plan.variants if variant.name in self.rates]

    def folders_of(self, name: str) -> list[RunFolder]:
        """The folders of the finished runs of a variant at its chosen learning rate."""
        return [self.folders[name, self.rates[name], int(seed)] for seed in self.done(name).seed]

    def tested_on_others(self) -> tuple[list[Run], int]:
        """Runs whose test labels differ from those of most runs, and the number of known runs.

        The share of each class in the labels tells them apart; earlier versions did not write it.
        """
        found = [(f.run, (f.result() or {}).get("test", {})) for f in self.folders.values()]
        known = [
            (run, tuple(json_number(share) for share in figures["class_share"]))
            for run, figures in found
            if figures.get("class_share")
        ]
        usual = Counter(shares for _, shares in known).most_common(1)
        others = [run for run, shares in known if not _are_close(shares, usual[0][0])]
        return others, len(known)

    def write_csv(self, path: Path) -> None:
        """Write the table; see `read_results`."""
        table = self.table.copy()
        for column in _TEXTS:
            table[column] = table[column].map(escape_cell)
        write_file(path, table.to_csv(index=False))


def _are_close(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and np.allclose(one, other, rtol=1e-6, atol=0, equal_nan=True)


def read_results(path: str | Path) -> pd.DataFrame:
    """Read ``results.csv``, check it, and restore the original texts.

    In the file, a text that a spreadsheet would run as a formula begins with an apostrophe.

    Args:
        path: the file.  Files of earlier versions have fewer columns; unknown ones are texts.

    Raises:
        DataError: the file cannot be read, a column is missing, a value is not one that
            `Results.write_csv` writes, or a run occurs twice.  The first row, with the names of the
            columns, is row 1.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path}: expected the results of a comparison: {one_line(error)}"
        ) from error
    names = rows[0][1] if rows else []
    if len(names) == 1 and ";" in names[0]:
        raise DataError(
            f"{path}: expected commas between the columns and points in the numbers, found "
            "semicolons; restore the file with --report_only, or save it with commas"
        )
    for name in _REQUIRED:
        if name not in names:
            raise DataError(f"{path}: expected a column {name}, found none")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: expected a single column {shown(twice)}, found several")
    table = pd.DataFrame([_read_row(path, number, names, row) for number, row in rows[1:]])
    table = table.reindex(columns=names)
    _check_runs(path, table, [number for number, _ in rows[1:]])
    return table


def _read_row(path: str | Path, number: int, names: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(names):
        raise DataError(
            f"{path}: row {number}: expected {len(names)} values, found {len(cells)}; the file may "
            "be cut off"
        )
    row: dict[str, Any] = {}
    for name, cell in zip(names, cells):
        kind = _KINDS.get(name)
        if kind is None:
            row[name] = unescape_cell(cell) if name in _TEXTS else cell
            continue
        value = kind.read(cell.strip())
        if value is None:
            raise DataError(
                f"{path}: row {number}, column {name}: expected {kind.what}, found {shown(cell)}"
            )
        row[name] = value
    return row


def _check_runs(path: str | Path, table: pd.DataFrame, numbers: list[int]) -> None:
    """Check that no run occurs twice, and that each belongs to a variant."""
    found: dict[tuple[str, float, int], int] = {}
    runs = zip(table.variant, table.learning_rate, table.seed)
    for number, run in zip(numbers, runs):
        if not run[0]:
            raise DataError(f"{path}: row {number}, column variant: expected a name, found ''")
        if run in found:
            raise DataError(
                f"{path}: row {number}: expected one run of {shown(run[0])} with learning_rate "
                f"{run[1]:g} and seed {run[2]}, found it in row {found[run]} too"
            )
        found[run] = number


@dataclass(frozen=True)
class _Kind:
    """The values of a column: how to read one, None if it is invalid, and what is expected."""

    read: Callable[[str], Any]
    what: str


def _number(least: float, most: float, form: str = "a number", unknown: bool = True) -> _Kind:
    """Numbers in a closed range; NaN for an empty cell, if this is allowed."""

    def read(cell: str) -> float | None:
        if unknown and cell.lower() in ("", "nan"):
            return math.nan
        try:
            value = float(cell)
        except ValueError:
            return None
        return value if least <= value <= most and math.isfinite(value) else None

    limits = f"from {least:g} to {most:.10g}" if math.isfinite(most) else f"of at least {least:g}"
    return _Kind(read, f"{form} {limits}{' or nothing' if unknown else ''}")


def _whole_number(least: int, most: int) -> _Kind:
    number = _number(least, most, "a whole number", unknown=False)

    def read(cell: str) -> int | None:
        value = number.read(cell)
        return int(value) if value is not None and value.is_integer() else None

    return _Kind(read, number.what)


def _positive(cell: str) -> float | None:
    value = _number(0, math.inf, unknown=False).read(cell)
    return value if value else None


def _one_of(values: Mapping[str, Any]) -> _Kind:
    return _Kind(lambda cell: values.get(cell.lower()), f"one of {', '.join(values)}")


#: The columns that every version has written.
_REQUIRED = (
    "variant", "learning_rate", "seed", "status", f"validation_{METRICS[0]}", f"test_{METRICS[0]}"
)  # fmt: skip
_SHARE, _SECONDS = _number(0, 1), _number(0, math.inf)
#: The columns that are no texts.
_KINDS = {
    "learning_rate": _Kind(_positive, "a number above 0"),
    "seed": _whole_number(0, MOST_SEED),
    "status": _one_of({name: name for name in ("done", "failed", "missing")}),
    **{f"{part}_{name}": _SHARE for part in _PARTS for name in METRICS},
    **{f"{part}_Kappa": _number(-1, 1) for part in _PARTS},
    "test_rare_mIoU": _SHARE,
    "collapsed": _one_of({"true": True, "false": False}),
    "step_seconds": _SECONDS,
    "wall_seconds": _SECONDS,
    "iterations": _whole_number(1, 10**9),
}


def _row(folder: RunFolder) -> dict[str, Any]:
    run, result, error = folder.run, folder.result(), folder.error()
    status = "done" if result else "failed" if error else "missing"
    found = result or {}
    figures = {
        f"{part}_{metric}": json_number(found.get(part, {}).get(metric))
        for part in _PARTS
        for metric in METRICS
    }
    weights = found.get("weights", {})
    return {
        "variant": run.variant.name,
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "status": status,
        **figures,
        "test_rare_mIoU": _rare_miou(found.get("test", {})),
        "collapsed": _is_collapsed(found.get("test", {})),
        "step_seconds": json_number(found.get("step_seconds")),
        "wall_seconds": json_number(found.get("wall_seconds")),
        "iterations": run.variant.config["iters"],
        "resumed_from": " ".join(str(int(i)) for i in found.get("resumed_from", [])),
        "weights": ", ".join(f"{name} {json_number(w):.4g}" for name, w in weights.items()),
        "error": (error or "").split("\n", 1)[0],
    }


def _is_collapsed(figures: Mapping[str, Any]) -> bool:
    """Whether at most one class has an intersection over union above 0."""
    ious = [json_number(iou) for iou in figures.get("class_IoU", ())]
    return len(ious) > 1 and sum(iou > 0 for iou in ious) <= 1


def rare_classes(figures: Mapping[str, Any]) -> list[int]:
    """Return the rare classes of a data set of three classes or more, the rarest first.

    Args:
        figures: the figures of an evaluation, see `Figures`; a class is rare if it occurs in the
            labels, and its share of the pixels is below `RARE` times that of classes of equal size.
    """
    shares = [json_number(share) for share in figures.get("class_share", ())]
    most = RARE / max(len(shares), 1)
    rare = [index for index, share in enumerate(shares) if 0 < share < most]
    return sorted(rare, key=shares.__getitem__) if len(shares) > 2 else []


def _rare_miou(figures: Mapping[str, Any]) -> float:
    ious = [json_number(figures["class_IoU"][index]) for index in rare_classes(figures)]
    return sum(ious) / len(ious) if ious else math.nan
