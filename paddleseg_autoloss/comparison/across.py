"""Several comparisons, one for each data set, side by side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from paddleseg_autoloss.comparison.mean_ranks import (
    Friedman,
    friedman,
    p_of_pair,
    ranks_of,
)
from paddleseg_autoloss.comparison.results import METRICS, ResultTable, read_results
from paddleseg_autoloss.comparison.statistics import (
    DIGITS,
    LEVEL,
    Difference,
    average,
    compare,
    holm,
    p_of_signed_ranks,
)
from paddleseg_autoloss.errors import ConfigError, DataError, did_you_mean

__all__ = ["Across", "DataSet", "Pair", "read_across"]

_METRIC = METRICS[0]
#: What makes a run: two data sets never have the same runs with the same figures.
_RUN = ["variant", "learning_rate", "seed", "validation_mIoU", f"test_{_METRIC}"]


@dataclass(frozen=True)
class DataSet:
    """The results of a comparison on one data set.

    Args:
        name: name of the comparison's folder.
        figures: for each variant, its mIoU on the test images for each seed, at its chosen learning
            rate; runs that are not done or have no figure are left out.
        lacking: for each variant, the seeds without a figure at this rate, and why.
        rates: the learning rates that were chosen on the validation images.
        collapsed: for each variant, the seeds for which its network predicts at most one class
            correctly.
        tuned: the variant that the baseline stands for, chosen on the validation images.
    """

    name: str
    figures: Mapping[str, Mapping[int, float]]
    lacking: Mapping[str, Mapping[int, str]]
    rates: Mapping[str, float]
    collapsed: Mapping[str, Sequence[int]]
    tuned: str


@dataclass(frozen=True)
class Pair:
    """A variant and the baseline over all data sets.

    There is no test if a network of one of them has collapsed on a data set; then the p values, and
    the intervals of ``points`` and ``here``, are NaN.

    Args:
        rank: mean rank of the variant.
        distance: mean rank of the baseline minus that of the variant: positive if it is better.
        better: number of data sets on which the variant's mean is larger.
        p: p value of the distance of the mean ranks, see `p_of_pair`.
        p_holm: ``p`` after Holm's correction over all variants.
        p_alone: p value of the signed ranks of the two by themselves, see `p_of_signed_ranks`.
        p_alone_holm: ``p_alone`` after the same correction.
        points: the mean difference, as one of a sample of data sets: its interval and its tests
            take each data set as one number.
        here: the mean difference on these data sets, tested over their seeds, see `average`.
    """

    rank: float
    distance: float
    better: int
    p: float
    p_holm: float
    p_alone: float
    p_alone_holm: float
    points: Difference
    here: Difference

    @property
    def has_hint(self) -> bool:
        """Whether the mean ranks are far apart, for variants that are all alike."""
        return self.p_holm < LEVEL

    @property
    def is_seen(self) -> bool:
        """Whether there is a difference over the data sets, by the two alone too."""
        return self.has_hint and self.p_alone_holm < LEVEL


class Across:
    """Variants that were compared on several data sets.

    On each data set, the seeds count that all variants have.

    Args:
        data_sets: two or more data sets.
        baseline: the variant that the others are compared with.

    Attributes:
        variants: the variants that all data sets have, in the order of the first one.
        left_out: the other variants, with the names of the data sets that lack them.
        seeds: for each data set, the seeds that count.

    Raises:
        ConfigError: fewer than two variants are in all data sets.
        DataError: a data set has no seed that all variants have.
    """

    def __init__(self, data_sets: Sequence[DataSet], baseline: str) -> None:
        self.data_sets = data_sets
        self.baseline = baseline
        names = dict.fromkeys(name for data_set in data_sets for name in data_set.figures)
        lacking = {n: [d.name for d in data_sets if n not in d.figures] for n in names}
        self.variants = [name for name in names if not lacking[name]]
        self.left_out = {name: without for name, without in lacking.items() if without}
        if len(self.variants) < 2:
            raise ConfigError(
                "--across: expected two or more variants with results on every data set, found "
                f"{', '.join(self.variants) or 'none'}"
            )
        self.seeds = {data_set.name: self._shared_seeds(data_set) for data_set in data_sets}

    def _shared_seeds(self, data_set: DataSet) -> list[int]:
        first, *others = (data_set.figures[name] for name in self.variants)
        shared = [seed for seed in first if all(seed in other for other in others)]
        if not shared:
            raise DataError(f"{data_set.name}: expected a seed that all variants have, found none")
        return shared

    def dropped(self, data_set: DataSet) -> dict[int, dict[str, str]]:
        """Return the seeds that do not count, with the variants that lack them, and why."""
        counted = self.seeds[data_set.name]
        lacking = {name: data_set.lacking.get(name, {}) for name in self.variants}
        known = {s for name in self.variants for s in (*data_set.figures[name], *lacking[name])}
        return {
            seed: {
                name: lacking[name].get(seed, "not planned")
                for name in self.variants
                if seed not in data_set.figures[name]
            }
            for seed in sorted(known.difference(counted))
        }

    def figures(self, data_set: DataSet) -> dict[str, dict[int, float]]:
        """Return the figure of each variant for each seed that counts."""
        return {
            name: {seed: data_set.figures[name][seed] for seed in self.seeds[data_set.name]}
            for name in self.variants
        }

    @cached_property
    def means(self) -> np.ndarray:
        """The means over the seeds: a row for each data set, a column for each variant."""
        means = [
            [np.mean(list(values.values())) for values in self.figures(data_set).values()]
            for data_set in self.data_sets
        ]
        return np.round(means, DIGITS)

    @cached_property
    def ranks(self) -> np.ndarray:
        """The ranks of the means, shaped like them; 1 is the best."""
        return ranks_of(self.means)

    @cached_property
    def collapsed(self) -> dict[str, list[int]]:
        """For each variant, the numbers of the data sets with a network that has collapsed."""
        return {
            name: [
                number
                for number, data_set in enumerate(self.data_sets)
                if set(data_set.collapsed[name]).intersection(self.seeds[data_set.name])
            ]
            for name in self.variants
        }

    @cached_property
    def test(self) -> Friedman:
        """The test whether all variants are alike."""
        return friedman(self.ranks)

    @cached_property
    def on_each(self) -> dict[str, dict[str, Difference]]:
        """For each data set, the differences to the baseline over the seeds."""
        return {
            data_set.name: compare(self.figures(data_set), self.baseline, data_set.collapsed)
            for data_set in self.data_sets
        }

    @cached_property
    def pairs(self) -> dict[str, Pair]:
        """Each variant and the baseline over the data sets, without the seeds."""
        column = self.variants.index(self.baseline)
        means = {name: dict(enumerate(self.means[:, j])) for j, name in enumerate(self.variants)}
        points = compare(means, self.baseline, self.collapsed)
        here = self._averages()
        others = [j for j in range(len(self.variants)) if j != column]
        usable = [not points[self.variants[j]].collapsed for j in others]
        ranks = self.ranks.mean(axis=0)
        p_values = [
            p_of_pair(abs(ranks[j] - ranks[column]), self.ranks) if is_usable else math.nan
            for j, is_usable in zip(others, usable)
        ]
        alone = [
            p_of_signed_ranks(self.means[:, j] - self.means[:, column]) if is_usable else math.nan
            for j, is_usable in zip(others, usable)
        ]
        return {
            self.variants[j]: Pair(
                rank=float(ranks[j]),
                distance=float(ranks[column] - ranks[j]),
                better=int((self.means[:, j] > self.means[:, column]).sum()),
                p=p,
                p_holm=p_holm,
                p_alone=p_alone,
                p_alone_holm=p_alone_holm,
                points=points[self.variants[j]],
                here=here[self.variants[j]],
            )
            for j, p, p_holm, p_alone, p_alone_holm in zip(
                others, p_values, holm(p_values), alone, holm(alone)
            )
        }

    def _averages(self) -> dict[str, Difference]:
        """Return the mean difference of each variant, with Holm's correction over the variants."""
        names = [name for name in self.variants if name != self.baseline]
        found = [average([one[name] for one in self.on_each.values()]) for name in names]
        corrected = holm([difference.p_t for difference in found])
        return {
            name: replace(difference, p_t_holm=p)
            for name, difference, p in zip(names, found, corrected)
        }


def read_across(folders: Sequence[str], baseline: str | None) -> Across:
    """Read the results of several comparisons.

    Args:
        folders: the folder of each comparison, or its ``results.csv``.
        baseline: the variant to compare with; None for the first one of the first comparison.  If
            no variant has this name, it is a pattern such as ``fixed *``: on each data set the
            baseline is then the matching variant with the best mean mIoU on the validation images,
            and the other matching ones are left out.

    Raises:
        ConfigError: there are fewer than two folders, one occurs twice, two have the same runs, or
            no variant of a comparison matches the baseline.
        DataError: a folder has no results, or not those of a comparison.
    """
    if len(folders) < 2:
        raise ConfigError(f"--across: expected two or more folders, found {len(folders)}")
    paths = [_csv_of(folder) for folder in folders]
    repeated = [path for path, times in Counter(map(Path.resolve, paths)).items() if times > 1]
    if repeated:
        raise ConfigError(f"--across: expected different comparisons, found {repeated[0]} twice")
    tables = dict(zip(_names_of(paths), map(_read_table, paths)))
    _check_that_all_differ(dict(zip(map(str, paths), tables.values())))
    name = baseline or str(next(iter(tables.values())).table.variant.iloc[0])
    if any(name in table.rates for table in tables.values()):
        return Across([_data_set(label, table, name) for label, table in tables.items()], name)
    best = f"best of {name}"
    return Across([_data_set(key, table, best, name) for key, table in tables.items()], best)


def _csv_of(folder: str) -> Path:
    path = Path(folder)
    return path / "results.csv" if path.is_dir() else path


def _names_of(paths: Sequence[Path]) -> list[str]:
    """Return the names of the folders, or as much of the paths as tells all of them apart."""
    whole = [path.resolve() for path in paths]
    choices = (
        [path.parent.name for path in whole],
        [str(path.parent) for path in paths],
        [str(path) for path in paths],
    )
    return next((names for names in choices if len({*names}) == len(paths)), [*map(str, whole)])


def _read_table(path: Path) -> ResultTable:
    if not path.is_file():
        advice = "; run `autoloss compare` with its --save_dir and --report_only to write it"
        raise DataError(
            f"{path}: expected the results.csv of a comparison, found no such file"
            f"{advice if path.name == 'results.csv' and path.parent.is_dir() else ''}"
        )
    table = read_results(path)
    if "collapsed" not in table:
        # Comparisons of earlier versions do not know.
        table["collapsed"] = False
    results = ResultTable(table)
    if not results.rates:
        raise DataError(f"{path}: expected finished runs, found none")
    return results


def _check_that_all_differ(tables: Mapping[str, ResultTable]) -> None:
    """Check that no data set counts twice.

    Raises:
        ConfigError: most runs of one comparison are in another one with the same figures.
    """
    runs = {path: _finished_runs(results) for path, results in tables.items()}
    for one, other in combinations(runs, 2):
        if _are_of_one_data_set(runs[one], runs[other]):
            raise ConfigError(
                f"--across: expected a comparison for each data set, found the same runs with the "
                f"same figures in {one} and {other}; leave one of them out"
            )


def _finished_runs(results: ResultTable) -> pd.DataFrame:
    done = results.table[results.table.status == "done"]
    return done[_RUN].set_index(_RUN[:3])


def _are_of_one_data_set(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    least = min(len(one), len(other)) / 2
    one, other = one.align(other, join="inner")
    # Other programs that save the file may round the last digits.
    are_equal = np.isclose(one, other, rtol=0, atol=1e-9, equal_nan=True).all(axis=1)
    return bool((are_equal & one.test_mIoU.notna().to_numpy()).sum() > least)


def _data_set(
    label: str, results: ResultTable, baseline: str, pattern: str | None = None
) -> DataSet:
    """Return what a data set contributes.

    Args:
        label: its name.
        results: the results on it.
        baseline: the baseline; with a pattern, the name for the best of the matching variants.
        pattern: None, or what the names of these variants match.
    """
    names = list(results.rates)
    matching = [name for name in names if fnmatchcase(name, pattern or baseline)]
    if pattern is None and baseline in names:
        matching = [baseline]
    if not matching:
        wanted = pattern or baseline
        raise ConfigError(
            f"--baseline: expected a variant of {label} or a pattern such as 'fixed *', found "
            f"{wanted!r}{did_you_mean(wanted, names)}"
        )
    if len(matching) > 1 and _tested_on_validation_images(results, matching):
        raise ConfigError(
            f"--baseline: expected the name of one variant, because {label} has no validation "
            f"images to choose among several (its figures are those of the test images), found "
            f"{(pattern or baseline)!r}"
        )
    tuned = results.best_on_validation(matching)
    sources = {baseline: tuned, **{name: name for name in names if name not in matching}}
    if pattern is None:
        sources = {name: name for name in names}
    figures = {shown: _figures(results, name) for shown, name in sources.items()}
    return DataSet(
        name=label,
        figures={shown: found for shown, found in figures.items() if found},
        lacking={shown: _lacking(results, name) for shown, name in sources.items()},
        rates={shown: results.rates[name] for shown, name in sources.items()},
        collapsed={shown: results.collapsed(name) for shown, name in sources.items()},
        tuned=tuned,
    )


def _figures(results: ResultTable, name: str) -> dict[int, float]:
    values = results.by_seed(name, f"test_{_METRIC}")
    return {seed: value for seed, value in values.items() if not np.isnan(value)}


def _lacking(results: ResultTable, name: str) -> dict[int, str]:
    """Return the seeds without a figure at the chosen learning rate, and why."""
    own = results.table[results.table.variant == name]
    own = own[own.learning_rate == results.rates[name]]
    without = own[(own.status != "done") | own[f"test_{_METRIC}"].isna()]
    return {
        int(seed): "undefined" if status == "done" else str(status)
        for seed, status in zip(without.seed, without.status)
    }


def _tested_on_validation_images(results: ResultTable, names: Sequence[str]) -> bool:
    """Whether the figures of both are the same, as after ``compare --validation 0``."""
    done = pd.concat([results.done(name) for name in names])
    return bool((done.validation_mIoU == done[f"test_{_METRIC}"]).all())
