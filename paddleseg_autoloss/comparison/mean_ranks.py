r"""Tests over several data sets, from the ranks of the variants on each of them.

The figures of different data sets cannot be averaged: they have different units of difficulty.  So
the variants are ranked on every data set, the best with rank 1, and the mean ranks are compared
(J. Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006, section
3.2).  A data set gives one rank to each variant, from its mean over the seeds: more seeds make this
rank more certain, but they are not more data sets.

With N data sets, k variants and the mean ranks :math:`R_j`, Friedman's statistic and the one of
Iman and Davenport are

.. math::
    \chi^2_F = \frac{12 N}{k (k + 1)} \sum_j \Big( R_j - \frac{k + 1}{2} \Big)^2, \qquad
    F_F = \frac{(N - 1) \chi^2_F}{N (k - 1) - \chi^2_F}

Deviations:
    :math:`\chi^2_F` is corrected for ties, as in SciPy.  With few data sets the F distribution
    gives p values that are far too small (for 3 variants on 4 data sets, 0.007 instead of 0.042),
    and so does the normal distribution for pairs.  So what is called seen here follows from exact
    distributions: of :math:`\chi^2_F` by permutation within every data set, and of the difference
    of two rank sums by convolution (R. Eisinga, T. Heskes, B. Pelzer, M. Te Grotenhuis, "Exact
    p-values for pairwise comparison of Friedman rank sums, with application to comparing
    classifiers", BMC Bioinformatics 18:68, 2017).  They treat ranks without ties; here the ranks
    that were observed are permuted, ties included.

    The test of a pair by its mean ranks assumes that all k variants are alike.  If two of them are
    alike and vary more than the others, the ranks between them are often far apart, and its p value
    is too small.  The signed ranks of the two alone have no such assumption, so both are needed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from paddleseg_autoloss.comparison.statistics import LEVEL

__all__ = [
    "Friedman",
    "critical_difference",
    "friedman",
    "least_visible_distance",
    "p_of_pair",
    "ranks_of",
]

#: Number of permutations; if there are fewer, all of them are counted.
_PERMUTATIONS = 9999


@dataclass(frozen=True)
class Friedman:
    """A test whether all variants are alike over the data sets.

    Args:
        chi_square: Friedman's statistic, with the correction for ties.
        f: the statistic of Iman and Davenport; infinite if all data sets rank alike.
        degrees: the degrees of freedom of ``f``.
        p_f: p value of ``f`` by the F distribution.
        p: p value of ``chi_square`` by permutation.
        least_p: the smallest p value that these numbers of data sets and variants can give, with
            the same ties: all data sets rank alike.
    """

    chi_square: float
    f: float
    degrees: tuple[int, int]
    p_f: float
    p: float
    least_p: float


def ranks_of(figures: np.ndarray) -> np.ndarray:
    """Return the ranks within each row, the largest figure first; equal ones share their mean rank.

    Args:
        figures: a row for each data set and a column for each variant, shape [N, k].

    Example:
        >>> ranks_of(np.array([[0.8, 0.9, 0.7], [0.5, 0.5, 0.4]])).tolist()
        [[2.0, 1.0, 3.0], [1.5, 1.5, 3.0]]
    """
    return stats.rankdata(-figures, axis=1)


def friedman(ranks: np.ndarray) -> Friedman:
    """Test whether all variants have the same mean rank.

    Args:
        ranks: the ranks on each data set, shape [N, k], with N and k at least 2.

    Example:
        >>> test = friedman(np.array([[1, 2, 3], [1, 2, 3], [1, 3, 2], [1, 2, 3]]))
        >>> test.chi_square, test.f, round(test.p, 3), round(test.least_p, 4)
        (6.5, 13.0, 0.042, 0.0046)
    """
    sets, count = ranks.shape
    degrees = count - 1, (count - 1) * (sets - 1)
    least_p = _least_p(ranks)
    middle = (count + 1) / 2
    spread = float(((ranks - middle) ** 2).sum())
    if spread == 0:
        return Friedman(0.0, 0.0, degrees, 1.0, 1.0, least_p)
    chi_square = (count - 1) * float(((ranks.sum(axis=0) - sets * middle) ** 2).sum()) / spread
    rest = sets * (count - 1) - chi_square
    f = (sets - 1) * chi_square / rest if rest > 1e-9 else math.inf
    p_f = float(stats.f.sf(f, *degrees))
    return Friedman(chi_square, f, degrees, p_f, _p_by_permutation(ranks), least_p)


def _p_by_permutation(ranks: np.ndarray) -> float:
    """Return the share of the orders within the data sets with mean ranks as far apart or more.

    If there are too many orders to count all of them, some are drawn, and the observed one is added
    to them, so that p is never 0.
    """
    sets, count = ranks.shape
    observed = _sum_of_squares(ranks.sum(axis=0))
    if math.factorial(count) ** sets <= _PERMUTATIONS:
        return float((_sum_of_squares(_all_rank_sums(ranks)) >= observed).mean())
    draws = np.random.default_rng(0)
    sums = np.zeros((_PERMUTATIONS, count))
    for row in ranks:
        sums += draws.permuted(np.tile(row, (_PERMUTATIONS, 1)), axis=1)
    return float(1 + (_sum_of_squares(sums) >= observed).sum()) / (1 + _PERMUTATIONS)


def _sum_of_squares(sums: np.ndarray) -> np.ndarray:
    """Return what Friedman's statistic grows with; it is exact, as ranks are halves."""
    return (sums**2).sum(axis=-1)


def _all_rank_sums(ranks: np.ndarray) -> np.ndarray:
    """Return the rank sums of every order of the ranks within the data sets."""
    sums = np.zeros((1, ranks.shape[1]))
    for row in ranks:
        orders = np.array(list(itertools.permutations(row)))
        sums = (sums[:, None] + orders).reshape(-1, len(row))
    return sums


def _least_p(ranks: np.ndarray) -> float:
    """Return the share of the permutations within the data sets in which all rank alike."""
    rows = np.sort(ranks, axis=1)
    alike = _arrangements(np.unique(rows, axis=1, return_counts=True)[1])
    return alike / math.prod(_arrangements(np.unique(row, return_counts=True)[1]) for row in rows)


def _arrangements(times: np.ndarray) -> int:
    """Return the number of orders of values that occur so many times each."""
    repeated = math.prod(math.factorial(int(one)) for one in times)
    return math.factorial(int(times.sum())) // repeated


def p_of_pair(distance: float, ranks: np.ndarray) -> float:
    """Return the probability of a distance of two mean ranks or a larger one, if all are alike.

    It is exact, with ties too: each order of the observed ranks of a data set is as probable.

    Args:
        distance: of the mean ranks, at least 0.
        ranks: the ranks on each data set, shape [N, k], with k at least 2.

    Example:
        >>> p_of_pair(1.0, np.array([[1, 2]] * 4))  # better on all of four data sets
        0.125
    """
    distances, chances = _rank_sum_distances(ranks)
    return min(1.0, float(chances[distances >= len(ranks) * distance - 1e-6].sum()))


def _rank_sum_distances(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the possible distances of two rank sums, and their probabilities."""
    count = ranks.shape[1]
    apart = ~np.eye(count, dtype=bool)
    chances, largest = np.ones(1), 0
    # Ranks that are shared are halves.
    for row in np.rint(2 * ranks).astype(int):
        steps = np.subtract.outer(row, row)[apart]
        span = int(steps.max())
        one = np.bincount(steps + span, minlength=2 * span + 1) / len(steps)
        chances, largest = np.convolve(chances, one), largest + span
    return np.abs(np.arange(-largest, largest + 1)) / 2, chances


def least_visible_distance(ranks: np.ndarray, tests: int) -> float:
    """Return the smallest distance of two mean ranks that is seen at Holm's first step.

    It is infinite if the largest possible distance is not seen.

    Args:
        ranks: the ranks on each data set, shape [N, k]; only their ties count.
        tests: the number of comparisons.

    Example:
        >>> two = [1, 2]
        >>> [least_visible_distance(np.array([two] * sets), tests=1) for sets in (4, 6)]
        [inf, 1.0]
    """
    distances, chances = _rank_sum_distances(ranks)
    possible = np.unique(distances[chances > 0]) / len(ranks)
    seen = [d for d in possible if p_of_pair(d, ranks) * tests < LEVEL]
    return float(min(seen, default=math.inf))


def critical_difference(count: int, sets: int) -> float:
    r"""Return Nemenyi's critical difference, :math:`q_\alpha \sqrt{k (k + 1) / (6 N)}`.

    Two variants whose mean ranks are further apart differ, in a test of all pairs at the level
    `LEVEL` that assumes many data sets.  :math:`q_\alpha` is the quantile of the studentized range
    divided by :math:`\sqrt 2` (Demšar, table 5a).

    Args:
        count: k, the number of variants.
        sets: N, the number of data sets.

    Example:
        >>> round(critical_difference(4, 14), 2)  # Demšar's example
        1.25
    """
    q = float(stats.studentized_range.isf(LEVEL, count, np.inf)) / math.sqrt(2)
    return q * math.sqrt(count * (count + 1) / (6 * sets))
