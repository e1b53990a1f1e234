"""Tests and intervals against scipy, by hand and by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from paddleseg_autoloss.comparison.sentences import describe_difference
from paddleseg_autoloss.comparison.statistics import (
    average,
    compare,
    holm,
    mean_curve,
    p_of_signed_ranks,
    paired,
    smallest_gap,
    trend,
)


def test_paired_against_scipy():
    values = dict(enumerate([0.81, 0.85, 0.83, 0.84, 0.88]))
    baseline = dict(enumerate([0.80, 0.82, 0.84, 0.80, 0.83, 0.99]))
    found = paired(values, baseline)
    ours = np.array(list(values.values()))
    theirs = np.array([baseline[seed] for seed in values])
    expected = stats.ttest_rel(ours, theirs)
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.p_t == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    # The ranks are 1.5, 3, -1.5, 4, 5; 6 of the 32 combinations of signs are as far from 0.
    assert found.p_wilcoxon == pytest.approx(6 / 32)


def test_average_over_data_sets_against_scipy():
    """The mean of a and b is half the difference of a and -b, which Welch's test looks at."""
    draws = np.random.default_rng(1)
    a, b = draws.normal(0.02, 0.01, 5), draws.normal(0.01, 0.03, 3)
    pairs = [paired(dict(enumerate(v)), dict.fromkeys(range(len(v)), 0.0)) for v in (a, b)]
    found, expected = average(pairs), stats.ttest_ind(a, -b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.p_t == pytest.approx(expected.pvalue)
    assert (2 * found.low, 2 * found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx((a.mean() + b.mean()) / 2)
    alone = average(pairs[:1])
    assert (alone.p_t, alone.low) == pytest.approx((pairs[0].p_t, pairs[0].low))


def test_average_without_a_test_or_without_spread():
    zero = dict.fromkeys(range(3), 0.0)
    same, single = paired({0: 0.5, 1: 0.5, 2: 0.5}, zero), paired({0: 0.1}, zero)
    assert math.isnan(average([same, single]).p_t)
    assert average([same, single]).mean == pytest.approx(0.3)
    spread = paired({0: 0.5, 1: 0.6, 2: 0.5}, zero)
    assert average([spread, spread]).p_t < 0.05
    for others in ([same, same], [spread, same], [paired(zero, zero)] * 2):
        assert math.isnan(average(others).p_t)
        assert math.isnan(average(others).low)


def test_wilcoxon_has_a_floor():
    found = paired(dict(enumerate([1.0, 2.0, 3.5, 4.1, 7.0])), dict.fromkeys(range(5), 0.0))
    assert found.p_wilcoxon == pytest.approx(2 / 2**5)


def test_signed_ranks_against_scipy_and_all_signs():
    draws = np.random.default_rng(0)
    for count in (1, 5, 9):
        differences = draws.normal(0.3, 1, count)
        expected = stats.wilcoxon(differences, method="exact").pvalue
        assert p_of_signed_ranks(differences) == pytest.approx(expected)
        tied = draws.integers(-2, 3, count).astype(float)
        ranks = stats.rankdata(np.abs(tied[tied != 0]))
        signs = np.array(list(itertools.product([-1, 1], repeat=len(ranks))))
        sums = abs((signs * ranks).sum(axis=1))
        expected = (sums >= abs((np.sign(tied[tied != 0]) * ranks).sum()) - 1e-9).mean()
        assert p_of_signed_ranks(tied) == pytest.approx(expected)


def test_ties_that_rounding_hides():
    """Figures of two decimals: their differences are equal, but not those of the doubles."""
    assert 0.82 - 0.8 != 0.62 - 0.6
    draws = np.random.default_rng(0)
    for _ in range(50):
        ours, theirs = draws.integers(50, 60, [2, 6])
        exact = p_of_signed_ranks((ours - theirs).astype(float))
        assert p_of_signed_ranks(ours / 100 - theirs / 100) == exact


def test_too_few_pairs_and_equal_figures():
    assert math.isnan(paired({0: 1.0}, {1: 1.0}).mean)
    assert paired({0: 1.5}, {0: 1.0}).mean == 0.5
    same = compare({"a": {0: 1.0, 1: 2.0}, "b": {0: 1.0, 1: 2.0}}, "a")["b"]
    assert math.isnan(same.p_t)
    nothing = "the same figure in every pair of runs, which shows nothing"
    assert describe_difference(same, 1) == nothing
    single = compare({"a": {0: 0.5}, "b": {0: 0.51}}, "a")["b"]
    assert describe_difference(single, 1).startswith("+1.0 points in a single pair")
    none = compare({"a": {0: 0.5}, "b": {1: 0.51}}, "a")["b"]
    assert "no pair" in describe_difference(none, 1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([0.625, 0.75], [0.5, 0.625]),
        ([0.82, 0.62], [0.80, 0.60]),
        ([0.3, 0.7, 0.4, 0.6], [0.1, 0.5, 0.2, 0.4]),
    ],
    ids=["equal doubles", "equal but for rounding", "four seeds"],
)
def test_differences_without_spread_are_not_tested(ours, theirs):
    """No p of 0 and no smallest gap of 0 points from two seeds."""
    figures = {
        "base": dict(enumerate(theirs)),
        "equal": dict(enumerate(ours)),
        "other": dict(enumerate(np.array(ours) + [0.1, *[0.0] * (len(ours) - 1)])),
    }
    found = compare(figures, "base")
    equal, other = found["equal"], found["other"]
    numbers = (equal.low, equal.high, equal.p_t, equal.p_t_holm, equal.p_wilcoxon, equal.gap)
    assert all(map(math.isnan, numbers))
    assert not equal.is_significant
    # Holm's correction counts the tests that there are.
    assert other.p_t_holm == other.p_t
    assert describe_difference(equal, 1) == (
        f"{100 * equal.mean:+.1f} points in every pair of runs: the spread is zero, nothing can be "
        "tested"
    )


def test_holm_by_hand():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03 and then never less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    corrected = holm([0.01, math.nan, 0.04])
    assert math.isnan(corrected[1])
    assert corrected[::2] == pytest.approx([0.02, 0.04])


def test_interval_covers_the_truth_in_95_of_100():
    draws = np.random.default_rng(0)
    zero = dict.fromkeys(range(5), 0.0)
    covered = [
        found.low <= 0.3 <= found.high
        for _ in range(1000)
        if (found := paired(dict(enumerate(draws.normal(0.3, 2.0, 5))), zero))
    ]
    # Three standard errors.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("count", "level"), [(3, 0.05), (5, 0.05 / 11), (10, 0.01)])
def test_smallest_gap_is_found_in_80_of_100(count, level):
    gap = smallest_gap(1.5, count, level)
    samples = np.random.default_rng(1).normal(gap, 1.5, (20000, count))
    found = stats.ttest_1samp(samples, 0, axis=1).pvalue < level
    assert found.mean() == pytest.approx(0.8, abs=0.012)


def test_sentences():
    base = {0: 0.80, 1: 0.81, 2: 0.79}
    figures = {
        "base": base,
        "better": {0: 0.84, 1: 0.851, 2: 0.829},
        "worse": {0: 0.76, 1: 0.769, 2: 0.751},
        "alike": {0: 0.81, 1: 0.79, 2: 0.80},
    }
    found = compare(figures, "base")
    assert describe_difference(found["better"], 3) == "better by 4.0 points [3.8, 4.2]"
    assert describe_difference(found["worse"], 3) == "worse by 4.0 points [3.8, 4.2]"
    text = describe_difference(found["alike"], 3)
    gap = 100 * smallest_gap(found["alike"].sd, 3, 0.05 / 3)
    assert text.startswith("no difference seen (+0.0 points [-4.3, 4.3]); smallest gap")
    assert text.endswith(f"could have shown: {gap:.1f} points")


def test_holm_can_take_a_finding_back():
    draws = np.random.default_rng(4)
    base = dict.fromkeys(range(5), 0.8)
    noise = {f"n{i}": dict(enumerate(0.8 + draws.normal(0, 0.01, 5))) for i in range(8)}
    close = dict(enumerate([0.81, 0.82, 0.80, 0.815, 0.825]))
    alone = compare({"base": base, "close": close}, "base")["close"]
    among = compare({"base": base, "close": close, **noise}, "base")["close"]
    assert alone.is_significant
    assert not among.is_significant
    assert "with 9 comparisons that may be chance" in describe_difference(among, 9)


def test_trend_of_one_curve_against_scipy():
    x, y = np.array([70, 80, 90, 100]), np.array([0.5, 0.53, 0.52, 0.56])
    found, line = trend(dict(zip(x, y))), stats.linregress(x, y)
    half = 30 * line.stderr * stats.t.ppf(0.995, 2)
    expected = (30 * line.slope, 30 * line.slope - half, 30 * line.slope + half)
    assert (found.change, found.low, found.high) == pytest.approx(expected)


def test_mean_of_curves():
    """At the iterations that all have; otherwise a curve that ends early would bend the mean."""
    curves = [{1: 0.0, 2: 1.0, 3: math.nan, 4: 2.0}, {1: 1.0, 2: 3.0, 3: 4.0, 4: 6.0, 5: 9.0}]
    assert mean_curve(curves) == {1: 0.5, 2: 2.0, 4: 4.0}
    assert mean_curve([*curves, {}]) == mean_curve(curves)
    assert mean_curve([]) == mean_curve([{}]) == {}


def test_trend_in_noise_is_seen_in_1_of_100():
    draws = np.random.default_rng(3)
    seen = [trend(dict(enumerate(row))).is_significant for row in draws.normal(size=(2000, 4))]
    assert np.mean(seen) == pytest.approx(0.01, abs=3 * math.sqrt(0.01 * 0.99 / 2000))


def test_trend_needs_more_points_than_unknowns():
    assert trend({1: 0.0, 2: 1.0}) is None
    assert trend({1: 0.0, 2: 1.0, 3: math.nan}) is None
    assert trend({}) is None
    flat = trend({1: 0.5, 2: 0.5, 3: 0.5})
    assert (flat.change, flat.is_significant) == (0, False)
