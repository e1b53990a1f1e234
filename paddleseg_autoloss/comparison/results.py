"""The results of all runs, in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.plan import Plan, Variant
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
            validation images, over the seeds that all rates have.  A rate at which a run failed is
            chosen only if every rate has a failed run.
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
        if not (own.status == "done").any():
            return None
        whole = own.groupby("learning_rate").filter(lambda rows: (rows.status != "failed").all())
        candidates = own if whole.empty or whole.validation_mIoU.isna().all() else whole
        means = candidates.groupby("learning_rate").validation_mIoU.mean()
        return float(means.index[0] if means.isna().all() else means.idxmax())

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

    def write_csv(self, path: Path) -> None:
        """Write the table; see `read_results`."""
        table = self.table.copy()
        for column in _TEXTS:
            table[column] = table[column].map(escape_cell)
        write_file(path, table.to_csv(index=False))


def read_results(path: str | Path) -> pd.DataFrame:
    """Read ``results.csv``, and restore the original texts.

    In the file, a text that a spreadsheet would run as a formula begins with an apostrophe.

    Args:
        path: the file.
    """
    converters = dict.fromkeys(_TEXTS, unescape_cell)
    return pd.read_csv(path, converters=converters)


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
