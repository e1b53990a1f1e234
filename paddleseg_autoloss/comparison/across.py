"""Several comparisons, one for each data set, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np

from paddleseg_autoloss.comparison.mean_ranks import Friedman, friedman, p_of_pair, ranks_of
from paddleseg_autoloss.comparison.results import METRICS, ResultTable, read_results
from paddleseg_autoloss.comparison.statistics import Difference, average, compare, holm
from paddleseg_autoloss.errors import ConfigError, DataError, did_you_mean, one_line

__all__ = ["Across", "DataSet", "Pair", "read_across"]

_METRIC = METRICS[0]
#: The columns of ``results.csv`` that are read.
_COLUMNS = ("variant", "learning_rate", "seed", "status", "validation_mIoU", f"test_{_METRIC}")


@dataclass(frozen=True)
class DataSet:
    """The results of a comparison on one data set.

    Args:
        name: name of the comparison's folder.
        figures: for each variant, its mIoU on the test images for each seed, at its chosen learning
            rate; runs that are not done or have no figure are left out.
        rates: the learning rates that were chosen on the validation images.
        collapsed: for each variant, the seeds for which its network predicts at most one class
            correctly.
        tuned: the variant that the baseline stands for, chosen on the validation images.
    """

    name: str
    figures: Mapping[str, Mapping[int, float]]
    rates: Mapping[str, float]
    collapsed: Mapping[str, Sequence[int]]
    tuned: str


@dataclass(frozen=True)
class Pair:
    """A variant and the baseline over all data sets.

    Args:
        rank: mean rank of the variant.
        distance: mean rank of the baseline minus that of the variant: positive if it is better.
        better: number of data sets on which the variant's mean is larger.
        p: p value of the distance of the mean ranks, see `p_of_pair`.
        p_holm: ``p`` after Holm's correction over all variants.
        points: the mean difference, as one of a sample of data sets: its interval and its tests
            take each data set as one number.
        here: the mean difference on these data sets, tested over their seeds, see `average`.
    """

    rank: float
    distance: float
    better: int
    p: float
    p_holm: float
    points: Difference
    here: Difference


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
                f"{', '.join(self.variants)}"
            )
        self.seeds = {data_set.name: self._shared_seeds(data_set) for data_set in data_sets}

    def _shared_seeds(self, data_set: DataSet) -> list[int]:
        first, *others = (data_set.figures[name] for name in self.variants)
        shared = [seed for seed in first if all(seed in other for other in others)]
        if not shared:
            raise DataError(f"{data_set.name}: expected a seed that all variants have, found none")
        return shared

    def figures(self, data_set: DataSet) -> dict[str, dict[int, float]]:
        """Return the figure of each variant for each seed that counts."""
        return {
            name: {seed: data_set.figures[name][seed] for seed in self.seeds[data_set.name]}
            for name in self.variants
        }

    @cached_property
    def means(self) -> np.ndarray:
        """The means over the seeds: a row for each data set, a column for each variant."""
        return np.array(
            [
                [np.mean(list(values.values())) for values in self.figures(data_set).values()]
                for data_set in self.data_sets
            ]
        )

    @cached_property
    def ranks(self) -> np.ndarray:
        """The ranks of the means, shaped like them; 1 is the best."""
        return ranks_of(self.means)

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
        sets, count = self.ranks.shape
        column = self.variants.index(self.baseline)
        means = {name: dict(enumerate(self.means[:, j])) for j, name in enumerate(self.variants)}
        points = compare(means, self.baseline)
        here = self._averages()
        others = [j for j in range(count) if j != column]
        ranks = self.ranks.mean(axis=0)
        p_values = [p_of_pair(abs(ranks[j] - ranks[column]), sets, count) for j in others]
        return {
            self.variants[j]: Pair(
                rank=float(ranks[j]),
                distance=float(ranks[column] - ranks[j]),
                better=int((self.means[:, j] > self.means[:, column]).sum()),
                p=p,
                p_holm=p_holm,
                points=points[self.variants[j]],
                here=here[self.variants[j]],
            )
            for j, p, p_holm in zip(others, p_values, holm(p_values))
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
        ConfigError: there are fewer than two folders, one occurs twice, or no variant of a
            comparison matches the baseline.
        DataError: a folder has no results, or not those of a comparison.
    """
    if len(folders) < 2:
        raise ConfigError(f"--across: expected two or more folders, found {len(folders)}")
    paths = [_csv_of(folder) for folder in folders]
    repeated = [path for path, times in Counter(map(Path.resolve, paths)).items() if times > 1]
    if repeated:
        raise ConfigError(f"--across: expected different comparisons, found {repeated[0]} twice")
    tables = dict(zip(_names_of(paths), map(_read_table, paths)))
    name = baseline or str(next(iter(tables.values())).table.variant.iloc[0])
    if any(name in table.rates for table in tables.values()):
        return Across([_data_set(label, table, name) for label, table in tables.items()], name)
    best = f"best of {name}"
    return Across([_data_set(key, table, best, name) for key, table in tables.items()], best)


def _csv_of(folder: str) -> Path:
    path = Path(folder)
    return path / "results.csv" if path.is_dir() else path


def _names_of(paths: Sequence[Path]) -> list[str]:
    """Return the names of the folders; with those above them where two are the same."""
    names = [path.resolve().parent.name for path in paths]
    if len(set(names)) == len(names):
        return names
    return [str(path.parent) for path in paths]


def _read_table(path: Path) -> ResultTable:
    if not path.is_file():
        raise DataError(f"{path}: expected the results.csv of a comparison, found no such file")
    try:
        table = read_results(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected the results of a comparison: {one_line(error)}"
        ) from error
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise DataError(f"{path}: expected a column {missing[0]}, found none")
    if "collapsed" not in table:
        # Comparisons of earlier versions do not know.
        table["collapsed"] = False
    results = ResultTable(table)
    if not results.rates:
        raise DataError(f"{path}: expected finished runs, found none")
    return results


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
    tuned = max(matching, key=lambda name: _validation(results, name))
    sources = {baseline: tuned, **{name: name for name in names if name not in matching}}
    if pattern is None:
        sources = {name: name for name in names}
    figures = {shown: _figures(results, name) for shown, name in sources.items()}
    return DataSet(
        name=label,
        figures={shown: found for shown, found in figures.items() if found},
        rates={shown: results.rates[name] for shown, name in sources.items()},
        collapsed={shown: results.collapsed(name) for shown, name in sources.items()},
        tuned=tuned,
    )


def _figures(results: ResultTable, name: str) -> dict[int, float]:
    values = results.by_seed(name, f"test_{_METRIC}")
    return {seed: value for seed, value in values.items() if not np.isnan(value)}


def _validation(results: ResultTable, name: str) -> float:
    return float(np.nan_to_num(results.done(name).validation_mIoU.mean(), nan=-np.inf))
