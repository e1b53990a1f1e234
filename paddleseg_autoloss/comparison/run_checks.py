"""What speaks against conclusions from the runs of a comparison, found in the runs themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from paddleseg_autoloss.comparison import sentences
from paddleseg_autoloss.comparison.folders import RunFolder
from paddleseg_autoloss.comparison.plan import Variant
from paddleseg_autoloss.comparison.results import METRICS, Results
from paddleseg_autoloss.comparison.statistics import Difference, Trend, mean_curve, trend
from paddleseg_autoloss.weighting import METHODS, Weighting

__all__ = ["LEAST_FALL", "LEAST_RISE", "check_runs", "end_of_losses", "end_of_validation"]

#: Smallest changes over the last third of the iterations that are reported: of the validation mIoU,
#: and of a training loss as a share of its mean.
LEAST_RISE, LEAST_FALL = 0.005, 0.1
#: A loss is off if its weight is below this share of the mean weight, and weight x loss below that
#: share of their sum.
_SMALL_WEIGHT, _SMALL_PART = 0.1, 0.01
#: The weights of a run are the means over this last part of it.
_LAST_TENTH = 0.9
#: Largest change of a weight that comes from rounding.
_ROUNDING = 1e-6


def check_runs(
    results: Results, differences: Mapping[str, Difference]
) -> tuple[dict[str, list[str]], list[str]]:
    """Check the finished runs of each variant at its chosen learning rate.

    Args:
        results: results of the comparison.
        differences: differences of the variants to the baseline in the first of `METRICS`.

    Returns:
        For each variant sentences about what was found, maybe none; and the names of the variants
        whose validation mIoU has too few points to check.
    """
    trends = {name: end_of_validation(results, name) for name in results.rates}
    found = {
        name: [
            *_collapse(results, name),
            *_validation(ending),
            *_losses(end_of_losses(results, name)),
            *_weights(results, name),
            *_seeds(results, name, differences.get(name)),
        ]
        for name, ending in trends.items()
    }
    return found, [name for name, ending in trends.items() if ending is None]


def _collapse(results: Results, name: str) -> Iterator[str]:
    seeds = results.collapsed(name)
    if seeds:
        yield sentences.describe_own_collapse(seeds, len(results.done(name)))


def end_of_validation(results: Results, name: str) -> Trend | None:
    """Return the change of the validation mIoU over the last third of the iterations.

    All runs share the validation images and the schedule.  So this is the trend of the mean over
    the runs: their points at one iteration are not independent.

    Args:
        results: results of the comparison.
        name: a variant.
    """
    mean = mean_curve(folder.validation_curve() for folder in results.folders_of(name))
    start = _last_third(results, name)
    return trend({i: value for i, value in mean.items() if i > start})


def _last_third(results: Results, name: str) -> float:
    return 2 / 3 * float(results.plan.variant(name).config["iters"])


def _validation(found: Trend | None) -> Iterator[str]:
    if found is not None and found.is_significant and abs(found.change) >= LEAST_RISE:
        yield sentences.describe_validation_trend(found)


def end_of_losses(results: Results, name: str) -> dict[str, Trend]:
    """Return the change of each raw loss over the last third, as a share of its mean there.

    All runs see the same images in the same order.  So this is the trend of the mean over the runs.

    Args:
        results: results of the comparison.
        name: a variant.
    """
    start, histories = _last_third(results, name), _histories(results, name)
    if not histories:
        return {}
    every = pd.concat(histories)
    means = every[every.iteration > start].groupby(["term", "iteration"], sort=False).raw.mean()
    found = {}
    for term, curve in means.groupby("term", sort=False):
        scale = abs(curve.mean())
        shares = (curve / scale).droplevel("term") if scale > 0 else pd.Series(dtype=float)
        if (change := trend(dict(shares.items()))) is not None:
            found[str(term)] = change
    return found


def _histories(results: Results, name: str) -> list[pd.DataFrame]:
    found = [folder.weights() for folder in results.folders_of(name)]
    return [history for history in found if history is not None and not history.empty]


def _losses(found: Mapping[str, Trend]) -> Iterator[str]:
    large = {
        term: change
        for term, change in found.items()
        if change.is_significant and abs(change.change) >= LEAST_FALL
    }
    for rises in (False, True):
        own = {term: change for term, change in large.items() if (change.change > 0) is rises}
        if own:
            yield sentences.describe_loss_trends(own)


def _weights(results: Results, name: str) -> Iterator[str]:
    variant, folders = results.plan.variant(name), results.folders_of(name)
    methods = list(_methods_in([variant.config.get(k) for k in ("loss", "loss_aggregator")]))
    at_bound: dict[str, list[float]] = {}
    off: dict[str, list[tuple[float, float]]] = {}
    for folder in folders:
        for term, value in _at_bound(folder, methods):
            at_bound.setdefault(term, []).append(value)
        for term, weight, part in _off(variant, folder):
            off.setdefault(term, []).append((weight, part))
    for term, values in at_bound.items():
        yield sentences.describe_bound(term, values, len(folders))
    for term, shares in off.items():
        weight, part = map(max, zip(*shares))
        yield sentences.describe_off(term, weight, part, len(shares), len(folders))


def _methods_in(part: Any) -> Iterator[type[Weighting]]:
    """Return the methods that a part of a config names."""
    if isinstance(part, str) and part in METHODS:
        yield METHODS[part]
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from _methods_in(value)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from _methods_in(value)


def _at_bound(folder: RunFolder, methods: list[type[Weighting]]) -> Iterator[tuple[str, float]]:
    """Return what a run learned and is at a bound, by the name of the parameter and the loss."""
    for name, value in folder.learned_parameters().items():
        parameter, _, term = name.partition("/")
        own = [method for method in methods if method.parameter_name == parameter]
        if any(method.is_at_bound(value) for method in own):
            yield f"{parameter} of {term}", value


def _off(variant: Variant, folder: RunFolder) -> Iterator[tuple[str, float, float]]:
    """Return the losses that have almost no effect: weight / mean weight, and part of the total."""
    history = folder.weights()
    if history is None or history.empty:
        return
    spans = history.groupby("term").weight.agg(np.ptp)
    if variant.kind != "method" and spans.max() <= _ROUNDING:
        return
    last = history[history.iteration >= _LAST_TENTH * history.iteration.max()]
    means = last.groupby("term", sort=False)[["weight", "weighted"]].mean().abs()
    shares = means / means.mean()
    parts = means.weighted / means.weighted.sum()
    for term, share, part in zip(means.index, shares.weight, parts):
        if share < _SMALL_WEIGHT and part < _SMALL_PART:
            yield str(term), float(share), float(part)


def _seeds(results: Results, name: str, difference: Difference | None) -> Iterator[str]:
    """Compare the spread between seeds with the difference to the baseline."""
    if difference is None or math.isnan(difference.sd):
        return
    spreads = {
        one: float(
            np.std(
                [results.by_seed(one, f"test_{METRICS[0]}")[s] for s in difference.seeds], ddof=1
            )
        )
        for one in (name, results.plan.baseline)
    }
    widest = max(spreads, key=lambda one: spreads[one])
    if spreads[widest] > abs(difference.mean):
        yield sentences.describe_seeds(difference, widest, spreads[widest])
