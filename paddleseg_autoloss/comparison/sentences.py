"""The sentences of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paddleseg_autoloss.comparison.data import HeldOutImages
from paddleseg_autoloss.comparison.plan import Plan, Run
from paddleseg_autoloss.comparison.results import METRICS, RARE
from paddleseg_autoloss.comparison.statistics import LEVEL, POWER, TREND_LEVEL, Difference, Trend
from paddleseg_autoloss.errors import shown

__all__ = [
    "CHECKS",
    "CLASSES",
    "COSTS",
    "CURVES",
    "FAILURES",
    "OTHER_METRICS",
    "RATES",
    "SAMPLES",
    "describe_bound",
    "describe_collapse",
    "describe_difference",
    "describe_loss_trends",
    "describe_off",
    "describe_other_differences",
    "describe_other_images",
    "describe_own_collapse",
    "describe_rare",
    "describe_seeds",
    "describe_split",
    "describe_unchecked",
    "describe_validation_trend",
    "describe_waiting",
    "explain_test",
]

CHECKS = (
    "Looked for: networks that predict one class; a validation mIoU that changes by 0.5 points or "
    "more over the last third of the iterations, or a training loss that changes by 10 % or more, "
    "where a straight line through the mean over the seeds has a slope whose "
    f"{1 - TREND_LEVEL:.0%} interval, in brackets, leaves out 0 (the points of a curve count as "
    "independent); learned weights at a bound of their method; losses with less than 10 % of the "
    "mean weight and less than 1 % of the total; seeds whose standard deviation is larger than the "
    "difference."
)
CLASSES = (
    "IoU of each class on the test images, mean over the seeds; in brackets its share of the "
    "labelled pixels there. The rarest classes come first."
)
COSTS = (
    "Number of trainings that an approach needs for one network. A grid of fixed mixes trains "
    "every mix, and a grid of learning rates multiplies this number. For a variant that is "
    "retrained with learned weights, the training that learns them is included. Minutes are for "
    "one seed and include the evaluations during training; runs at the same time slow each "
    "other down."
)
RATES = (
    "Each variant is trained with every rate. The rate with the best mean mIoU on the validation "
    "images is marked; the results above are those of it on the test images. The mean is over the "
    "seeds that are done at every rate with finished runs; if there is no such seed, the rate with "
    "the most finished runs is marked. A rate at which a run failed is not chosen, unless no other "
    "rate is left."
)
CURVES = "Thin: single runs. Thick: their mean."
FAILURES = (
    "When the comparison is continued, they are trained again. A run whose network is trained, and "
    "whose evaluation failed, is only evaluated again; delete its model.pdparams to train it again."
)
OTHER_METRICS = (
    f"Only {METRICS[0]} is tested, so the correction counts one test for each variant. Other "
    "metrics have intervals without a test: one that leaves out 0 is no finding."
)
SAMPLES = (
    "Each class but the first, class 0, has a contour. The predictions are those of the first "
    "finished seed."
)

_POINTS = 100
#: Most names in one sentence.
_MOST_NAMES = 3


def describe_collapse(collapsed: Mapping[str, Sequence[int]], runs: int) -> str:
    """Warn of networks that have learned nothing.

    Args:
        collapsed: for each variant, the seeds of such networks.
        runs: number of runs that the report compares.
    """
    count = sum(map(len, collapsed.values()))
    names = "; ".join(
        f"{name} (seed {', '.join(map(str, seeds))})" for name, seeds in collapsed.items() if seeds
    )
    return (
        f"{count} of {runs} networks predict at most one class correctly on the test images: they "
        "predict the background, or another class, everywhere, and have learned nothing. Their "
        "metrics say nothing about the losses, so comparisons with them show no interval, no p "
        f"value and no gap. They are: {names}. Train for more iterations, and check the learning "
        "rate and the labels."
    )


def describe_other_differences(values: Mapping[str, Sequence[Any]]) -> str:
    """Say in which keys beside those of the losses the variants differ.

    Args:
        values: the different values of each of these keys.
    """
    keys = ", ".join(
        f"{key} ({' or '.join('none' if one is None else shown(one) for one in found)})"
        for key, found in values.items()
    )
    return (
        "The variants differ not only in their losses. A difference may come from these keys too: "
        f"{keys}."
    )


def describe_other_images(runs: Sequence[Run], known: int) -> str:
    """Warn of runs that were tested on other images or labels than most.

    Args:
        runs: these runs.
        known: number of finished runs whose test labels are known.
    """
    return (
        f"{len(runs)} of {known} runs were tested on other images or labels than the rest: the "
        "share of the classes in the labels differs. Differences between them say nothing about "
        f"the losses. They are: {'; '.join(map(str, runs))}. Delete result.json and "
        "evaluation.json of all runs that were tested on the old images, and run the comparison "
        "again: it tests them again, and trains nothing anew."
    )


def describe_difference(difference: Difference, tests: int) -> str:
    """Describe the result of a paired comparison in one sentence.

    Args:
        difference: difference of a variant to the baseline, as a share; the sentence shows points.
        tests: the number of variants that were tested against the baseline.

    Example:
        >>> from paddleseg_autoloss.comparison.statistics import compare
        >>> figures = {"a": {0: 0.80, 1: 0.81, 2: 0.79}, "b": {0: 0.84, 1: 0.86, 2: 0.83}}
        >>> found = compare(figures, "a")
        >>> describe_difference(found["b"], tests=1)
        'better by 4.3 points [2.9, 5.8]'
    """
    if not difference.seeds:
        return "no pair of runs with the same seed yet"
    if difference.collapsed:
        return (
            f"not compared: in {len(difference.collapsed)} of {len(difference.seeds)} pairs of "
            "runs a network predicts at most one class correctly"
        )
    if math.isnan(difference.mean):
        return "not compared: the figure is undefined in at least one run"
    if len(difference.seeds) == 1:
        points = _POINTS * difference.mean
        return f"{points:+.1f} points in a single pair of runs, which shows nothing"
    if difference.sd == 0:
        return _describe_equal(difference.mean)
    return _describe_test(difference, tests)


def _describe_equal(mean: float) -> str:
    if mean == 0:
        return "the same figure in every pair of runs, which shows nothing"
    return (
        f"{_POINTS * mean:+.1f} points in every pair of runs: the spread is zero, nothing can be "
        "tested"
    )


def _describe_test(difference: Difference, tests: int) -> str:
    mean, low, high = (_POINTS * x for x in (difference.mean, difference.low, difference.high))
    if difference.is_significant and mean > 0:
        return f"better by {mean:.1f} points [{low:.1f}, {high:.1f}]"
    if difference.is_significant:
        return f"worse by {-mean:.1f} points [{-high:.1f}, {-low:.1f}]"
    text = (
        f"no difference seen ({mean:+.1f} points [{low:.1f}, {high:.1f}]); smallest gap this "
        f"comparison could have shown: {_POINTS * difference.gap:.1f} points"
    )
    if difference.p_t < LEVEL:
        text += f"; 0 is outside of the interval, but with {tests} comparisons that may be chance"
    return text


def explain_test(differences: Mapping[str, Difference]) -> str:
    """Explain the numbers of the paired comparisons.

    Args:
        differences: differences of each variant to the baseline.
    """
    tested = [d for d in differences.values() if not math.isnan(d.p_t)]
    text = "Points are hundredths. Runs with the same seed form a pair."
    if not tested:
        return text
    tests, pairs = len(tested), max(len(difference.seeds) for difference in tested)
    floor = 2 / 2**pairs
    never = ", so after the correction it can never be significant here"
    return (
        f"{text} In brackets the 95 % confidence interval of the mean difference (paired t, not "
        f"corrected). A difference counts as seen if p of the paired t-test is below {LEVEL:g} "
        f"after Holm's correction for {tests} comparisons. The smallest gap is the true difference "
        f"that this test would find with a probability of {POWER:.0%} at the level of Holm's first "
        f"step ({LEVEL:g} / {tests}), given the spread of the differences. With {pairs} pairs "
        f"Wilcoxon's p cannot go below 2/2^{pairs} = {floor:.3g}"
        f"{never if floor * tests >= LEVEL else ''}."
    )


def describe_split(plan: Plan, found: HeldOutImages | None) -> str:
    """Describe which images are for validation and which for the test.

    Args:
        plan: the comparison.
        found: the images that were held out, or None if their lists are not there.
    """
    if plan.validation == 0:
        return "No images were held out of the training list."
    asked = f"{plan.validation:.0%} asked for, split seed {plan.split_seed}"
    text = f"Validation images were held out of the training list ({asked})"
    if found is not None:
        share = found.count / found.total
        text = (
            f"{found.count} of the {found.total} images of the training list ({share:.0%}) were "
            f"held out as validation images ({asked})"
        )
        if found.groups:
            text += f"; images whose names begin alike stay together, as {_some(found.groups)} did"
    return f"{text}; the config's val_dataset is the test set."


def _some(names: Sequence[str]) -> str:
    """Return the first names of a list as text."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def describe_waiting(count: int) -> str:
    """Say how many of the missing runs have no learning rate, or nothing if there are none.

    Args:
        count: their number.
    """
    if not count:
        return ""
    return (
        f" ({count} of them at a learning rate that is not chosen, because no run of the variant "
        "is done that could choose it)"
    )


def describe_own_collapse(seeds: Sequence[int], runs: int) -> str:
    """Say how many networks of a variant have learned nothing.

    Args:
        seeds: the seeds of these networks.
        runs: number of finished runs of the variant.
    """
    return (
        f"one class: in {len(seeds)} of {runs} runs (seed {', '.join(map(str, seeds))}) the "
        "network predicts at most one class correctly"
    )


def describe_validation_trend(found: Trend) -> str:
    """Say how the validation mIoU changes at the end.

    Args:
        found: its change over the last third of the iterations, as a share.

    Example:
        >>> describe_validation_trend(Trend(0.021, 0.008, 0.034)).split(";")[0]
        'not converged: over the last third the validation mIoU rose by 2.1 points [0.8, 3.4]'
    """
    change, low, high = (_POINTS * x for x in (found.change, found.low, found.high))
    if change > 0:
        return (
            f"not converged: over the last third the validation mIoU rose by {change:.1f} points "
            f"[{low:.1f}, {high:.1f}]; more iterations would change the figures"
        )
    return (
        f"past its best: over the last third the validation mIoU fell by {-change:.1f} points "
        f"[{-high:.1f}, {-low:.1f}]; fewer iterations or a smaller learning rate may be better"
    )


def describe_loss_trends(found: Mapping[str, Trend]) -> str:
    """Say how training losses change at the end.

    Args:
        found: for each loss, its change over the last third of the iterations as a share of its
            mean; all of them fall, or all of them rise.
    """
    falls = next(iter(found.values())).change < 0
    sign = -1 if falls else 1
    texts = []
    for term, one in found.items():
        low, high = sorted((sign * one.low, sign * one.high))
        texts.append(f"{term} by {sign * one.change:.0%} [{low:.0%}, {high:.0%}]")
    if falls:
        return f"not converged: over the last third training losses fell, {', '.join(texts)}"
    return f"diverging: over the last third training losses rose, {', '.join(texts)}"


def describe_bound(parameter: str, values: Sequence[float], runs: int) -> str:
    """Say that a learned weight is at a bound.

    Args:
        parameter: name of the parameter and of its loss.
        values: its final value in each run in which it is at a bound.
        runs: number of finished runs of the variant.
    """
    shown = ", ".join(f"{value:.3g}" for value in values)
    return (
        f"at a bound: in {len(values)} of {runs} runs the method's bound, and not the loss, sets "
        f"{parameter} = {shown}"
    )


def describe_off(term: str, weight: float, part: float, count: int, runs: int) -> str:
    """Say that a loss has almost no effect.

    Args:
        term: name of the loss.
        weight: its weight as a share of the mean weight.
        part: weight x loss as a share of the total.
        count: number of runs in which this is so.
        runs: number of finished runs of the variant.
    """
    return (
        f"practically off: in {count} of {runs} runs {term} ends with {weight:.2g} times the mean "
        f"weight or less, and {part:.2%} of the total"
    )


def describe_seeds(difference: Difference, widest: str, sd: float) -> str:
    """Say that seeds differ by more than two variants do.

    Args:
        difference: difference of a variant to the baseline, as a share.
        widest: the variant or the baseline, whichever has the larger standard deviation.
        sd: that standard deviation over the seeds, as a share.
    """
    against = sum(value * difference.mean < 0 for value in difference.values)
    return (
        f"seeds: runs of {widest} differ by {_POINTS * sd:.1f} points (standard deviation), more "
        f"than the difference of {_POINTS * difference.mean:+.1f}; it has the other sign in "
        f"{against} of {len(difference.values)} pairs of runs"
    )


def describe_rare(baseline: str) -> str:
    """Introduce the paired differences in the rare classes.

    Args:
        baseline: name of the baseline.
    """
    return (
        f"Paired differences to {baseline} in the mean IoU of the rare classes, whose share of the "
        f"pixels is below {RARE:g} times that of classes of equal size; they are not tested:"
    )


def describe_unchecked(names: Sequence[str]) -> str:
    """Say whose convergence could not be checked.

    Args:
        names: the variants with too few points on their validation curves.
    """
    return (
        f"Too few points in the last third to check the validation mIoU of {', '.join(names)}; "
        "a smaller --save_interval gives more."
    )
