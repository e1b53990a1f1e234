"""What the runs found, in one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.plan import Plan, Variant

__all__ = ["METRICS", "Results"]

#: The figures of the report; the first is the one that learning rates are chosen by.
METRICS = ("mIoU", "Dice", "Kappa")
_PARTS = ("validation", "test")


class Results:
    """The table of all runs, and what is chosen from it.

    Args:
        plan: the comparison.
        folders: of its runs.

    Attributes:
        table: a row for each run, done or not.  ``status`` is ``done``, ``failed`` or ``missing``;
            ``weights`` are the final ones; times are in seconds.
        rates: for each variant that has results, the learning rate with the best mean mIoU on the
            validation images; a rate at which a run failed is taken only if one did at every rate.
    """

    def __init__(self, plan: Plan, folders: Sequence[RunFolder]) -> None:
        self.plan = plan
        self.folders = {(f.run.variant.name, f.run.learning_rate, f.run.seed): f for f in folders}
        order = {variant.name: index for index, variant in enumerate(plan.variants)}
        ordered = sorted(folders, key=lambda folder: order[folder.run.variant.name])
        self.table = pd.DataFrame([_row(folder) for folder in ordered])
        self.rates = {
            variant.name: rate
            for variant in plan.variants
            if (rate := self._best_rate(variant.name)) is not None
        }

    def _best_rate(self, name: str) -> float | None:
        own = self.table[self.table.variant == name]
        if not (own.status == "done").any():
            return None
        whole = own.groupby("learning_rate").filter(lambda rows: (rows.status != "failed").all())
        candidates = own if whole.empty or whole.validation_mIoU.isna().all() else whole
        return float(candidates.groupby("learning_rate").validation_mIoU.mean().idxmax())

    @property
    def variants(self) -> list[Variant]:
        """The variants that have results."""
        return [variant for variant in self.plan.variants if variant.name in self.rates]

    def done(self, name: str) -> pd.DataFrame:
        """The finished runs of a variant at its chosen learning rate."""
        rows = self.table[(self.table.variant == name) & (self.table.status == "done")]
        return rows[rows.learning_rate == self.rates[name]]

    def by_seed(self, name: str, column: str) -> dict[int, float]:
        """A column of the finished runs of a variant, by seed, at its chosen learning rate."""
        rows = self.done(name)
        return dict(zip(rows.seed.astype(int), rows[column].astype(float)))

    def folders_of(self, name: str) -> list[RunFolder]:
        """The folders of the finished runs of a variant at its chosen learning rate."""
        return [self.folders[name, self.rates[name], int(seed)] for seed in self.done(name).seed]

    def write_csv(self, path: Path) -> None:
        """Write the table."""
        self.table.to_csv(path, index=False)


def _row(folder: RunFolder) -> dict[str, Any]:
    run, result, error = folder.run, folder.result(), folder.error()
    status = "done" if result else "failed" if error else "missing"
    found = result or {}
    figures = {
        f"{part}_{metric}": found.get(part, {}).get(metric, math.nan)
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
        "step_seconds": found.get("step_seconds") or math.nan,
        "wall_seconds": found.get("wall_seconds", math.nan),
        "iterations": run.variant.config["iters"],
        "resumed_from": " ".join(str(int(i)) for i in found.get("resumed_from", [])),
        "weights": ", ".join(f"{name} {weight:.4g}" for name, weight in weights.items()),
        "error": (error or "").split("\n", 1)[0],
    }
