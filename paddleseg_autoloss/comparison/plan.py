"""The runs of a comparison: all combinations of variants, learning rates and seeds."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Plan", "Run", "Variant"]

#: Default number of points on the validation curves.
_POINTS = 10


@dataclass(frozen=True)
class Variant:
    """One of the configs that are compared.

    Args:
        name: its name in the report.
        kind: origin of its loss: ``"config"``, ``"method"``, ``"coef"`` or ``"retrain_of"``.
        config: the complete PaddleSeg config.  For ``"retrain_of"`` it is that of the source, with
            a placeholder as loss.
        source: for ``"retrain_of"``, the name of the variant whose final weights it uses.
        script: the training script, or None for ``autoloss train``.
    """

    name: str
    kind: str
    config: dict[str, Any]
    source: str | None = None
    script: Path | None = None

    @property
    def learning_rate(self) -> float:
        """The learning rate of its config."""
        return float(self.config["lr_scheduler"]["learning_rate"])

    @property
    def folder(self) -> str:
        """Its name, reduced to characters that every file system allows."""
        return re.sub(r"(?:[^\w.]|_)+", "_", self.name).strip("_.") or "_"


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        variant: the variant that it trains.
        learning_rate: learning rate at the start of the schedule.
        seed: seed of initial weights, augmentation and dropout.
    """

    variant: Variant
    learning_rate: float
    seed: int

    @property
    def path(self) -> Path:
        """The folder of the run, relative to that of the comparison."""
        return Path("runs") / self.variant.folder / f"lr{self.learning_rate:g}" / f"seed{self.seed}"

    @property
    def key(self) -> tuple[str, float, int]:
        """Name of the variant, learning rate and seed."""
        return self.variant.name, self.learning_rate, self.seed

    @property
    def source(self) -> tuple[str, float, int] | None:
        """The `key` of the run whose weights it trains with, or None."""
        name = self.variant.source
        return None if name is None else (name, self.learning_rate, self.seed)

    def __str__(self) -> str:
        return f"{self.variant.name}, lr {self.learning_rate:g}, seed {self.seed}"

    @property
    def config(self) -> dict[str, Any]:
        """The variant's config with the run's learning rate."""
        config = copy.deepcopy(self.variant.config)
        config["lr_scheduler"]["learning_rate"] = self.learning_rate
        return config


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison, and how they are compared.

    Args:
        name: name of the comparison.
        variants: the variants in the order of the report.
        baseline: name of the variant that the others are compared with.
        seeds: each variant is trained once with each seed.
        lr_grid: learning rates with which each variant is trained, or None for that of its config.
        lr_seeds: number of seeds to choose the learning rates with; the other seeds train at the
            chosen rates only.  None for all seeds.
        validation: share of the training list that is held out for choosing learning rates, in [0,
            1).
        split_seed: seed of the random choice of these images.
        save_interval: iterations between points of the validation curves, or None for a tenth of
            the iterations.
    """

    name: str
    variants: tuple[Variant, ...]
    baseline: str
    seeds: tuple[int, ...]
    lr_grid: tuple[float, ...] | None = None
    lr_seeds: int | None = None
    validation: float = 0.2
    split_seed: int = 0
    save_interval: int | None = None

    @property
    def seeds_for_rates(self) -> tuple[int, ...]:
        """The seeds that train every variant with every learning rate."""
        return self.seeds[: self.lr_seeds]

    @property
    def other_differences(self) -> dict[str, list[Any]]:
        """Config keys beside those of the losses whose values differ, with the different values."""
        settings = [_settings(variant.config) for variant in self.variants]
        values: dict[str, list[Any]] = {}
        for own in settings:
            for key in sorted({key for one in settings for key in one}):
                found = values.setdefault(key, [])
                if own.get(key) not in found:
                    found.append(own.get(key))
        if self.lr_grid is not None:
            values.pop("lr_scheduler.learning_rate", None)
        return {key: found for key, found in values.items() if len(found) > 1}

    def runs(self) -> list[Run]:
        """Return the runs that do not depend on the choice of the learning rates.

        One seed comes after the other, so a comparison that is stopped early is balanced.  A
        retrained variant comes after the variant that learns its weights.
        """
        ordered = sorted(self.variants, key=lambda variant: variant.source is not None)
        return [
            Run(variant, rate, seed)
            for seed in self.seeds_for_rates
            for variant in ordered
            for rate in self.lr_grid or (variant.learning_rate,)
        ]

    def runs_at(self, rates: Mapping[str, float]) -> list[Run]:
        """Return the runs of the other seeds, at the chosen learning rates.

        Args:
            rates: the learning rate of each variant that has one, by its name.
        """
        return [
            Run(variant, rates[variant.name], seed)
            for seed in self.seeds[len(self.seeds_for_rates) :]
            for variant in self.variants
            if variant.name in rates
        ]

    def waiting(self, rates: Mapping[str, float]) -> int:
        """Return the number of runs that have no learning rate yet; see `runs_at`."""
        others = len(self.seeds) - len(self.seeds_for_rates)
        return others * sum(variant.name not in rates for variant in self.variants)

    def interval(self, variant: Variant) -> int:
        """Iterations between the evaluations of a variant's runs."""
        return self.save_interval or max(1, variant.config["iters"] // _POINTS)

    def variant(self, name: str) -> Variant:
        """Return a variant by its name."""
        return next(variant for variant in self.variants if variant.name == name)


#: Config keys that say how the losses are weighed.
_OF_LOSSES = {"loss", "loss_aggregator", "held_out", "on_nonfinite"}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config by ``key`` or ``section.key``, without those of the losses."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and key not in _OF_LOSSES:
            found |= {f"{key}.{name}": own for name, own in value.items()}
        elif key not in _OF_LOSSES:
            found[key] = value
    return found
