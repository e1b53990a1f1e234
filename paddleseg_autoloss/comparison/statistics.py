r"""The statistics of paired runs.

Two variants that are trained with the same seed share initial weights and augmentation.  So the
part of the spread that both have in common cancels in their difference.  With the differences
:math:`d_1, \dots, d_n`, mean :math:`\bar d` and standard deviation :math:`s`:

- the 95 % confidence interval is :math:`\bar d \pm t_{0.975, n-1}\, s / \sqrt n` (paired t);
- the p values are those of the paired t-test and of Wilcoxon's signed-rank test, which is exact
  with ties too and cannot go below :math:`2 / 2^n`;
- with several variants they are corrected by Holm's method: the
  probability of at least one false alarm among all of them is at most 5 %;
- without spread, :math:`s = 0`, there is no interval and no test: the runs do not behave as draws;
- the smallest gap is the true difference that the t-test would find with a probability of 80 %,
  at the level of Holm's first of m steps, 5 % / m, if the differences have the same spread as here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, stats

__all__ = [
    "DIGITS",
    "LEVEL",
    "POWER",
    "TREND_LEVEL",
    "Difference",
    "Trend",
    "average",
    "compare",
    "holm",
    "mean_curve",
    "p_of_signed_ranks",
    "paired",
    "smallest_gap",
    "trend",
]

#: Decimals of figures that count: 0.82 - 0.8 and 0.62 - 0.6 differ in the 17th.
DIGITS = 12
#: Accepted probability of a false alarm.
LEVEL = 0.05
#: Probability of finding a true difference of the size of the smallest gap.
POWER = 0.8
#: The same for one curve; a report looks at dozens of them.
TREND_LEVEL = 0.01
#: Quantiles that represent the distribution of the standard deviation.
_QUANTILES = 4000


@dataclass(frozen=True)
class Difference:
    """The difference of a variant to the baseline, over the seeds that both have.

    There is no test with fewer than two seeds, if a value is undefined, if a network of a pair has
    collapsed, or if all differences are equal; then all numbers are NaN, except for the mean, and
    for the standard deviation of equal differences, which is 0.

    Args:
        seeds: the seeds.
        values: the variant's value minus the baseline's, for each seed, rounded to `DIGITS`.
        mean: their mean; NaN if there is no seed.
        sd: their standard deviation.
        low: lower end of the 95 % confidence interval of the mean.
        high: its upper end.
        p_t: p value of the paired t-test.
        p_wilcoxon: p value of Wilcoxon's signed-rank test.
        p_t_holm: ``p_t`` after Holm's correction over all variants.
        p_wilcoxon_holm: ``p_wilcoxon`` after the same correction.
        gap: the smallest gap that the comparison could have shown.
        collapsed: the seeds for which the variant's or the baseline's network predicts at most one
            class correctly.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_t: float = math.nan
    p_wilcoxon: float = math.nan
    p_t_holm: float = math.nan
    p_wilcoxon_holm: float = math.nan
    gap: float = math.nan
    collapsed: tuple[int, ...] = ()

    @property
    def is_significant(self) -> bool:
        """Whether the corrected t-test finds a difference."""
        return self.p_t_holm < LEVEL


@dataclass(frozen=True)
class Trend:
    """The change along a straight line through a curve.

    Args:
        change: from the first to the last point, in the unit of the curve.
        low: lower end of its 99 % confidence interval.
        high: its upper end.
    """

    change: float
    low: float
    high: float

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def trend(curve: Mapping[int, float]) -> Trend | None:
    r"""Fit a straight line through a curve, by least squares.

    With :math:`n` points :math:`(x, y)`, and the mean of all subtracted from each, the slope is
    :math:`b = \sum x y / \sum x^2` and its standard error
    :math:`\sqrt{\sum (y - b x)^2 / (n - 2) / \sum x^2}`; the interval is that of Student's t.  So
    the points are taken as independent around the line.

    Args:
        curve: the value for each iteration; a NaN does not count.

    Returns:
        The change over the iterations of the curve, or None with too few points for an interval.

    Example:
        >>> found = trend({10: 1.0, 20: 2.1, 30: 2.9, 40: 4.0})
        >>> print(round(found.change, 3), round(found.low, 3), round(found.high, 3))
        2.94 1.677 4.203
    """
    points = np.array([point for point in curve.items() if np.isfinite(point[1])])
    freedom = len(points) - 2
    if freedom < 1:
        return None
    x, y = (points - points.mean(axis=0)).T
    slope = (x @ y) / (x @ x)
    error = math.sqrt(((y - slope * x) ** 2).sum() / freedom / (x @ x))
    half = float(stats.t.isf(TREND_LEVEL / 2, freedom)) * error
    return Trend(*(float(np.ptp(x) * value) for value in (slope, slope - half, slope + half)))


def mean_curve(curves: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Return the mean of curves at the iterations at which all of them have a finite value.

    Args:
        curves: the value for each iteration; a curve without points does not count.

    Example:
        >>> mean_curve([{10: 1.0, 20: 2.0}, {10: 2.0, 20: 4.0, 30: 5.0}, {}])
        {10: 1.5, 20: 3.0}
    """
    known = [curve for curve in curves if curve]
    shared = [i for i in known[0] if all(i in curve for curve in known)] if known else []
    means = {i: float(np.mean([curve[i] for curve in known])) for i in shared}
    return {i: mean for i, mean in means.items() if math.isfinite(mean)}


def paired(
    values: Mapping[int, float], baseline: Mapping[int, float], collapsed: Collection[int] = ()
) -> Difference:
    """Compare the values of a variant with those of the baseline, seed by seed.

    Args:
        values: the variant's value for each seed.
        baseline: the baseline's value for each seed.
        collapsed: seeds for which one of the two networks predicts at most one class correctly.

    Example:
        >>> d = paired({0: 0.82, 1: 0.84, 2: 0.83}, {0: 0.80, 1: 0.81, 2: 0.82, 3: 0.9})
        >>> print(d.seeds, round(d.mean, 4), round(d.low, 4), round(d.high, 4))
        (0, 1, 2) 0.02 -0.0048 0.0448
    """
    seeds = tuple(seed for seed in values if seed in baseline)
    differences = np.round([values[seed] - baseline[seed] for seed in seeds], DIGITS)
    as_tuple = tuple(map(float, differences))
    mean = float(differences.mean()) if seeds else math.nan
    unusable = tuple(seed for seed in seeds if seed in collapsed)
    if len(seeds) < 2 or unusable or math.isnan(mean):
        return Difference(seeds, as_tuple, mean, collapsed=unusable)
    if np.ptp(differences) == 0:
        return Difference(seeds, as_tuple, mean, sd=0.0)
    sd = float(differences.std(ddof=1))
    half = float(stats.t.isf(LEVEL / 2, len(seeds) - 1)) * sd / math.sqrt(len(seeds))
    return Difference(
        seeds,
        as_tuple,
        mean,
        sd,
        mean - half,
        mean + half,
        float(stats.ttest_1samp(differences, 0).pvalue),
        p_of_signed_ranks(differences),
    )


def p_of_signed_ranks(differences: np.ndarray) -> float:
    """Return the p value of Wilcoxon's signed-rank test, exact with ties too.

    Differences of 0 are left out, and each combination of signs of the others is as probable.  It
    is at least 2 / 2^n with n differences.  Differences that rounding alone tells apart are equal.

    Args:
        differences: of two variants, one for each pair of runs or for each data set.

    Example:
        >>> p_of_signed_ranks(np.array([0.1, 0.1, 0.2, 0.3, 0.0]))
        0.125
    """
    rounded = np.round(differences, DIGITS)
    nonzero = rounded[rounded != 0]
    ranks = np.rint(2 * stats.rankdata(np.abs(nonzero))).astype(int)
    chances = np.ones(1)
    for rank in ranks:
        one = np.zeros(rank + 1)
        one[[0, rank]] = 0.5
        chances = np.convolve(chances, one)
    total, found = int(ranks.sum()), int(ranks[nonzero > 0].sum())
    apart = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(chances[apart >= abs(2 * found - total)].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values after Holm's correction; a NaN is not counted and stays NaN.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted = [math.nan] * len(p_values)
    counted = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    largest = 0.0
    for rank, index in enumerate(sorted(counted, key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(counted) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def smallest_gap(sd: float, count: int, level: float) -> float:
    """Return the true mean difference that a paired t-test finds with the probability `POWER`.

    Args:
        sd: standard deviation of the differences, at least 0.
        count: number of differences, at least 2.
        level: level of the two-sided test, in (0, `POWER`).
    """
    critical = stats.t.isf(level / 2, count - 1)
    # SciPy's noncentral t is NaN for large values, which occur with few runs and small levels.
    quantiles = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    bounds = critical * np.sqrt(stats.chi2.ppf(quantiles, count - 1) / (count - 1))

    def missing(shift: float) -> float:
        found = stats.norm.sf(bounds - shift) + stats.norm.cdf(-bounds - shift)
        return float(found.mean()) - POWER

    largest = float(bounds.max()) + 10
    return optimize.brentq(missing, 0.0, largest) * sd / math.sqrt(count)


def compare(
    figures: Mapping[str, Mapping[int, float]],
    baseline: str,
    collapsed: Mapping[str, Collection[int]] | None = None,
) -> dict[str, Difference]:
    """Compare every variant with the baseline, with Holm's correction over all tests.

    Args:
        figures: for each variant, its value for each seed.
        baseline: name of the baseline.
        collapsed: for each variant, the seeds for which its network predicts at most one class
            correctly.

    Returns:
        The differences by name, in the order of ``figures``, without the baseline.
    """
    unusable = collapsed or {}
    found = {
        name: paired(
            values, figures[baseline], {*unusable.get(name, ()), *unusable.get(baseline, ())}
        )
        for name, values in figures.items()
        if name != baseline
    }
    p_t = holm([difference.p_t for difference in found.values()])
    p_wilcoxon = holm([difference.p_wilcoxon for difference in found.values()])
    tests = sum(not math.isnan(p) for p in p_t)
    return {
        name: replace(
            difference,
            p_t_holm=p,
            p_wilcoxon_holm=w,
            gap=smallest_gap(difference.sd, len(difference.seeds), LEVEL / tests)
            if not math.isnan(p)
            else math.nan,
        )
        for (name, difference), p, w in zip(found.items(), p_t, p_wilcoxon)
    }


def average(differences: Sequence[Difference]) -> Difference:
    r"""Return the mean of the differences on several data sets, tested over their seeds.

    With the mean :math:`\bar d_i` and the standard deviation :math:`s_i` of the :math:`n_i` pairs
    of data set i, the mean of the N means has the squared standard error
    :math:`\sum_i v_i / N^2, \ v_i = s_i^2 / n_i`, and by Welch and Satterthwaite
    :math:`(\sum_i v_i)^2 / \sum_i v_i^2 / (n_i - 1)` degrees of freedom.  Seeds are drawn, and data
    sets are given: the result holds for these data sets and not for others.

    Args:
        differences: the difference of a variant to the baseline on each data set.

    Returns:
        The mean, its interval and ``p_t``.  They are NaN, except for the mean, if a data set has no
        test.

    Example:
        >>> pairs = [{0: 0.82, 1: 0.84, 2: 0.83}, {0: 0.61, 1: 0.64, 2: 0.62}]
        >>> baseline = [{0: 0.80, 1: 0.81, 2: 0.82}, {0: 0.60, 1: 0.60, 2: 0.61}]
        >>> found = average([paired(*both) for both in zip(pairs, baseline)])
        >>> print(round(found.mean, 4), round(found.low, 4), round(found.high, 4))
        0.02 0.0023 0.0377
    """
    sets = len(differences)
    means = tuple(difference.mean for difference in differences)
    mean = float(np.mean(means))
    numbers = tuple(range(sets))
    if any(math.isnan(difference.p_t) for difference in differences):
        return Difference(numbers, means, mean)
    shares = np.array([d.sd**2 / len(d.seeds) for d in differences])
    total = float(shares.sum())
    degrees = total**2 / sum(v**2 / (len(d.seeds) - 1) for v, d in zip(shares, differences))
    error = math.sqrt(total) / sets
    half = float(stats.t.isf(LEVEL / 2, degrees)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, degrees))
    return Difference(numbers, means, mean, low=mean - half, high=mean + half, p_t=p)
