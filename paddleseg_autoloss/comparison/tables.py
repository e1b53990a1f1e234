"""The tables of a report, as data frames of strings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from paddleseg_autoloss.comparison.plan import Plan, Variant
from paddleseg_autoloss.comparison.results import METRICS, Results
from paddleseg_autoloss.comparison.statistics import Difference
from paddleseg_autoloss.files import json_number

__all__ = [
    "class_table",
    "cost_table",
    "difference_table",
    "fixed_mixes",
    "interval_table",
    "rate_table",
    "result_table",
    "run_table",
    "runs_worth",
    "show_finding",
    "show_interval",
    "show_number",
    "show_spread",
]

_POINTS = 100
_MOST_CLASSES = 12
_DASH = "-"
_UNDEFINED = "undefined"


def result_table(results: Results) -> pd.DataFrame:
    """Return the metrics of each variant at its chosen learning rate: mean and deviation.

    Args:
        results: results of the comparison.
    """
    rows = []
    for name, rate in results.rates.items():
        row = {"variant": name, "runs": str(len(results.done(name))), "learning rate": f"{rate:g}"}
        for metric in METRICS:
            row[metric] = show_spread(results.by_seed(name, f"test_{metric}").values(), 4)
        row["seconds per step"] = show_spread(
            results.by_seed(name, "step_seconds").values(), 3, missing=_DASH
        )
        row["final weights"] = _mean_weights(results, name)
        rows.append(row)
    return pd.DataFrame(rows)


def class_table(results: Results) -> pd.DataFrame:
    """Return the test IoU of each class for each variant, mean over the seeds; the rarest first.

    Args:
        results: results of the comparison.

    Returns:
        The table; it is empty for two classes, and has at most 12 classes.  A variant is left out
        if one of its runs has no figures of these classes.
    """
    rows = []
    for name in results.rates:
        found = [(folder.result() or {}).get("test", {}) for folder in results.folders_of(name)]
        shares = [json_number(share) for share in found[0].get("class_share", ())]
        # Earlier versions did not write the figures of each class.
        if len(shares) < 3 or any(len(one.get("class_IoU", ())) != len(shares) for one in found):
            continue
        means = np.mean([[json_number(iou) for iou in one["class_IoU"]] for one in found], axis=0)
        order = sorted(range(len(shares)), key=shares.__getitem__)[:_MOST_CLASSES]
        columns = {f"{i} ({shares[i]:.1%})": show_number(means[i], ".3f") for i in order}
        rows.append({"variant": name, **columns})
    return pd.DataFrame(rows)


def run_table(results: Results) -> pd.DataFrame:
    """Return the metrics of every finished run at the chosen learning rate of its variant.

    Args:
        results: results of the comparison.
    """
    columns = {
        **{f"test_{metric}": metric for metric in METRICS},
        "step_seconds": "seconds per step",
    }
    return pd.DataFrame(
        {
            "variant": name,
            "seed": str(int(row.seed)),
            **{title: show_number(float(row[column]), ".4f") for column, title in columns.items()},
        }
        for name in results.rates
        for _, row in results.done(name).iterrows()
    )


def _mean_weights(results: Results, name: str) -> str:
    found = [(folder.result() or {}).get("weights", {}) for folder in results.folders_of(name)]
    numbers = [{term: json_number(weight) for term, weight in row.items()} for row in found]
    means = pd.DataFrame(numbers).mean()
    return ", ".join(f"{term} {weight:.3g}" for term, weight in means.items()) or _DASH


def show_spread(values: Iterable[float], digits: int, missing: str = _UNDEFINED) -> str:
    """Return mean and standard deviation as text.

    Args:
        values: one value per run, at least one; NaN if it is undefined.
        digits: number of digits after the point.
        missing: the text if one of the values is NaN.

    Example:
        >>> show_spread([0.5, 0.75], 2), show_spread([0.5], 2), show_spread([0.5, float("nan")], 2)
        ('0.62 ± 0.18', '0.50', 'undefined')
    """
    array = np.array(list(values))
    if np.isnan(array).any():
        return missing
    mean = f"{array.mean():.{digits}f}"
    return f"{mean} ± {array.std(ddof=1):.{digits}f}" if len(array) > 1 else mean


def difference_table(differences: Mapping[str, Difference]) -> pd.DataFrame:
    """Return the paired difference of each variant to the baseline, with its tests.

    Args:
        differences: differences of each variant to the baseline, as shares; the table has points.
    """
    return pd.DataFrame(
        {
            "variant": name,
            "finding": _finding(d),
            "pairs": str(len(d.seeds)),
            "mean, points": _mean(d),
            "95 % interval": show_interval(d),
            "p (t)": show_number(d.p_t, ".3g"),
            "p (t, Holm)": show_number(d.p_t_holm, ".3g"),
            "p (Wilcoxon)": show_number(d.p_wilcoxon, ".3g"),
            "p (Wilcoxon, Holm)": show_number(d.p_wilcoxon_holm, ".3g"),
            "smallest gap, points": show_number(_POINTS * d.gap, ".2f"),
        }
        for name, d in differences.items()
    )


def interval_table(differences: Mapping[str, Difference]) -> pd.DataFrame:
    """Return the paired difference of each variant to the baseline, without tests.

    Args:
        differences: differences of each variant to the baseline, as shares; the table has points.
    """
    return difference_table(differences)[["variant", "pairs", "mean, points", "95 % interval"]]


def _mean(difference: Difference) -> str:
    if difference.seeds and math.isnan(difference.mean):
        return _UNDEFINED
    return show_number(_POINTS * difference.mean, "+.2f")


def _finding(difference: Difference) -> str:
    if math.isnan(difference.p_t):
        return _DASH
    return show_finding(difference.is_significant, difference.mean)


def show_interval(difference: Difference) -> str:
    """Return the interval of a difference in points, or a dash if there is none."""
    low, high = (_POINTS * end for end in (difference.low, difference.high))
    return _DASH if math.isnan(low) else f"[{low:.2f}, {high:.2f}]"


def show_finding(is_seen: bool, difference: float) -> str:
    """Return whether a difference is seen, and its sign.

    Args:
        is_seen: whether a test finds it.
        difference: positive if a variant is better than the baseline.
    """
    if not is_seen:
        return "not seen"
    return "▲ better" if difference > 0 else "▼ worse"


def show_number(value: float, form: str) -> str:
    """Return a number in a format, or a dash if it is NaN."""
    return _DASH if math.isnan(value) else format(value, form)


def rate_table(results: Results) -> pd.DataFrame:
    """Return the mIoU of each variant at each learning rate.

    Args:
        results: results of the comparison.
    """
    rows = []
    for (name, rate), own in results.table.groupby(["variant", "learning_rate"], sort=False):
        done = own[own.status == "done"]
        chosen = results.rates.get(str(name)) == rate
        row = {"variant": str(name), "learning rate": f"{rate:g}", "runs": str(len(done))}
        for part in ("validation", "test"):
            values = done[f"{part}_mIoU"]
            row[f"{part} mIoU"] = show_spread(values, 4) if len(values) else _DASH
        rows.append({**row, "chosen": "chosen" if chosen else ""})
    return pd.DataFrame(rows)


def runs_worth(plan: Plan, variant: Variant) -> int:
    """Return the number of trainings that a variant needs for each seed.

    Args:
        plan: the comparison.
        variant: one of its variants.
    """
    source = runs_worth(plan, plan.variant(variant.source)) if variant.source else 0
    return (len(plan.lr_grid) if plan.lr_grid else 1) + source


def fixed_mixes(plan: Plan) -> list[Variant]:
    """Return the variants with fixed coefficients, which together form a grid search.

    Args:
        plan: the comparison.
    """
    return [v for v in plan.variants if v.kind == "coef" and v.script is None]


def cost_table(results: Results) -> pd.DataFrame:
    """Return the trainings and minutes that each approach needs for one seed.

    Args:
        results: results of the comparison.
    """
    plan = results.plan
    approaches = [(variant.name, [variant]) for variant in plan.variants]
    mixes = fixed_mixes(plan)
    if len(mixes) > 1:
        approaches.append((f"grid search over {len(mixes)} fixed mixes", mixes))
    return pd.DataFrame(
        {
            "approach": name,
            "runs' worth": str(sum(runs_worth(plan, variant) for variant in variants)),
            "minutes": show_number(sum(_minutes(results, variant) for variant in variants), ".1f"),
        }
        for name, variants in approaches
    )


def _minutes(results: Results, variant: Variant) -> float:
    own = results.table[results.table.variant == variant.name]
    own_seconds = own.groupby("learning_rate").wall_seconds.mean().sum(min_count=1)
    source = _minutes(results, results.plan.variant(variant.source)) if variant.source else 0
    return float(own_seconds) / 60 + source
