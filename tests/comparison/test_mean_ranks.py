"""Tests over data sets against Demšar's paper, SciPy and complete enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from paddleseg_autoloss.comparison.mean_ranks import (
    critical_difference,
    friedman,
    least_visible_distance,
    p_of_pair,
    ranks_of,
)

#: Demšar 2006, table 6: ranks of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 data sets.
DEMSAR = np.array(
    [
        [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5],
        [3, 2, 4, 1], [2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5],
        [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2],
    ]
)  # fmt: skip
#: Demšar 2006, table 5a: q for the Nemenyi test at 0.05 with 2 to 10 classifiers.
Q = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]


def all_rankings(sets: int, count: int) -> np.ndarray:
    """Every outcome without ties, shape [outcomes, N, k]."""
    orders = np.array(list(itertools.permutations(range(1, count + 1))))
    indices = itertools.product(range(len(orders)), repeat=sets)
    return orders[np.array(list(indices))]


def all_orders(ranks: np.ndarray) -> np.ndarray:
    """Every order of the ranks within each data set, shape [outcomes, N, k]."""
    return np.array(list(itertools.product(*(itertools.permutations(row) for row in ranks))))


def no_ties(sets: int, count: int) -> np.ndarray:
    return np.tile(np.arange(1, count + 1), (sets, 1))


def chi_squares(outcomes: np.ndarray) -> np.ndarray:
    """Friedman's formula without ties, as in Demšar's section 3.2.2."""
    _, sets, count = outcomes.shape
    squares = (outcomes.mean(axis=1) ** 2).sum(axis=1)
    return 12 * sets / (count * (count + 1)) * (squares - count * (count + 1) ** 2 / 4)


def test_the_example_of_demsar():
    np.testing.assert_allclose(DEMSAR.mean(axis=0), [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    found = friedman(DEMSAR)
    # The paper has no correction for ties: three pairs of equal ranks, and four equal ones.
    correction = 1 - (3 * (2**3 - 2) + 4**3 - 4) / (14 * (4**3 - 4))
    chi_square = found.chi_square * correction
    assert chi_square == pytest.approx(9.28, abs=5e-3)
    assert 13 * chi_square / (14 * 3 - chi_square) == pytest.approx(3.69, abs=5e-3)
    assert found.f == pytest.approx(13 * found.chi_square / (14 * 3 - found.chi_square))
    assert found.degrees == (3, 39)
    assert stats.f.sf(2.85, *found.degrees) == pytest.approx(0.05, abs=5e-4)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert found.p < 0.05


def test_critical_values_of_demsars_table():
    for count, q in enumerate(Q, start=2):
        found = critical_difference(count, 7) / math.sqrt(count * (count + 1) / (6 * 7))
        assert found == pytest.approx(q, abs=1.1e-3)


@pytest.mark.parametrize("ties", [False, True])
def test_statistic_against_scipy(ties):
    draws = np.random.default_rng(0)
    figures = draws.integers(0, 4, (6, 5)) if ties else draws.random((6, 5))
    expected = stats.friedmanchisquare(*figures.T)
    found = friedman(ranks_of(figures))
    assert found.chi_square == pytest.approx(expected.statistic)
    # Permutations instead of the chi-square distribution.
    assert found.p == pytest.approx(expected.pvalue, abs=0.05)


@pytest.mark.parametrize(("sets", "count"), [(4, 3), (5, 3), (3, 4), (6, 2)])
def test_p_against_all_outcomes(sets, count):
    outcomes = all_rankings(sets, count)
    values = chi_squares(outcomes)
    for index in range(0, len(outcomes), len(outcomes) // 5):
        found = friedman(outcomes[index])
        assert found.chi_square == pytest.approx(values[index], abs=1e-9)
        assert found.p == pytest.approx((values >= values[index] - 1e-9).mean(), abs=0.015)
    agreed = friedman(outcomes[0])
    assert (values >= values[0] - 1e-9).mean() == pytest.approx(agreed.least_p)
    assert agreed.f == math.inf


@pytest.mark.parametrize("with_ties", [False, True])
@pytest.mark.parametrize(("sets", "count"), [(4, 3), (2, 4), (6, 2), (6, 3)])
def test_p_by_permutation_against_all_orders(sets, count, with_ties):
    """The last one has 46656 orders, of which 9999 are drawn."""
    draws = np.random.default_rng(sets + count)
    for _ in range(3):
        ranks = ranks_of(draws.integers(0, 3 if with_ties else 10**9, (sets, count)))
        squares = (all_orders(ranks).sum(axis=1) ** 2).sum(axis=1)
        expected = (squares >= (ranks.sum(axis=0) ** 2).sum() - 1e-9).mean()
        is_drawn = math.factorial(count) ** sets > 9999
        # Four standard errors of a share of the draws.
        tolerance = 4 * math.sqrt(0.25 / 9999) if is_drawn else 1e-12
        assert friedman(ranks).p == pytest.approx(expected, abs=tolerance)


def test_p_of_many_data_sets_is_never_zero():
    assert friedman(no_ties(20, 5)).p == pytest.approx(1 / 10000)


def test_p_by_permutation_needs_no_newer_scipy(monkeypatch):
    """SciPy's own test takes its generator by another name before 1.15."""
    monkeypatch.delattr(stats, "permutation_test")
    for sets, count in ((3, 3), (4, 3), (8, 5)):
        assert 0 < friedman(no_ties(sets, count)).p < 0.05


def test_known_values_of_the_exact_distribution():
    """Friedman 1937, table V, for 3 treatments and 4 blocks: 0.042 at 6.5 and 0.0046 at 8."""
    at = friedman(np.array([[1, 2, 3], [1, 2, 3], [1, 3, 2], [1, 2, 3]]))
    assert (at.chi_square, round(at.p, 3)) == (pytest.approx(6.5), 0.042)
    most = friedman(np.array([[1, 2, 3]] * 4))
    assert (most.chi_square, round(most.p, 4)) == (pytest.approx(8), 0.0046)
    # The F distribution would call much less noteworthy.
    assert at.p_f < 0.01


@pytest.mark.parametrize(("sets", "count"), [(2, 2), (4, 3), (3, 4), (5, 3)])
def test_pairs_against_all_outcomes(sets, count):
    sums = all_rankings(sets, count).sum(axis=1)
    apart = np.abs(sums[:, 0] - sums[:, 1])
    for distance in range(sets * (count - 1) + 1):
        expected = (apart >= distance).mean()
        assert p_of_pair(distance / sets, no_ties(sets, count)) == pytest.approx(expected)


@pytest.mark.parametrize(("sets", "count"), [(3, 3), (4, 3), (3, 4), (6, 2)])
def test_pairs_with_ties_against_all_orders(sets, count):
    draws = np.random.default_rng(sets * count)
    for _ in range(8):
        ranks = ranks_of(draws.integers(0, 3, (sets, count)))
        sums = all_orders(ranks).sum(axis=1)
        distance = abs(ranks[:, 0].sum() - ranks[:, 1].sum())
        expected = (abs(sums[:, 0] - sums[:, 1]) >= distance - 1e-9).mean()
        assert p_of_pair(distance / sets, ranks) == pytest.approx(expected)


@pytest.mark.parametrize(("sets", "count"), [(3, 3), (4, 3), (3, 4), (6, 2)])
def test_least_p_with_ties_against_all_orders(sets, count):
    draws = np.random.default_rng(sets + count)
    for _ in range(8):
        ranks = ranks_of(draws.integers(0, 3, (sets, count)))
        squares = (all_orders(ranks).sum(axis=1) ** 2).sum(axis=1)
        expected = (squares >= squares.max() - 1e-9).mean()
        assert friedman(ranks).least_p == pytest.approx(expected)


def test_a_tie_of_two_variants_is_no_win():
    """Better on 5 of 6 data sets and equal on one: the sign test of 5 wins of 5."""
    ranks = ranks_of(np.array([[0, 1]] * 5 + [[1, 1]]))
    assert p_of_pair(5 / 6, ranks) == pytest.approx(2 / 2**5)


@pytest.mark.parametrize("sets", [1, 4, 6, 20])
def test_two_variants_are_the_sign_test(sets):
    for wins in range(sets + 1):
        expected = stats.binomtest(wins, sets).pvalue
        assert p_of_pair(abs(2 * wins - sets) / sets, no_ties(sets, 2)) == pytest.approx(expected)


def test_many_data_sets_are_the_normal_distribution():
    """Demšar's z for the comparison with a control."""
    z = 0.5 / math.sqrt(5 * 6 / (6 * 200))
    assert p_of_pair(0.5, no_ties(200, 5)) == pytest.approx(2 * stats.norm.sf(z), rel=0.05)


def test_what_few_data_sets_cannot_show():
    assert least_visible_distance(no_ties(4, 2), tests=1) == math.inf
    assert least_visible_distance(no_ties(5, 2), tests=1) == math.inf
    assert least_visible_distance(no_ties(6, 2), tests=1) == 1
    assert least_visible_distance(ranks_of(np.array([[0, 1]] * 5 + [[1, 1]])), 1) == math.inf
    ranks = no_ties(4, 5)
    distance = least_visible_distance(ranks, tests=4)
    assert 4 * p_of_pair(distance, ranks) < 0.05 <= 4 * p_of_pair(distance - 1 / 4, ranks)


def test_equal_figures_everywhere():
    found = friedman(ranks_of(np.ones((4, 3))))
    assert (found.chi_square, found.p, found.p_f) == (0, 1, 1)
