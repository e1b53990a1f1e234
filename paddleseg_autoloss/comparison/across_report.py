"""The report on several comparisons: one table across data sets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from paddleseg_autoloss.comparison.across import Across, DataSet, Pair
from paddleseg_autoloss.comparison.mean_ranks import critical_difference, least_visible_distance
from paddleseg_autoloss.comparison.pictures import difference_panels
from paddleseg_autoloss.comparison.results import METRICS
from paddleseg_autoloss.comparison.statistics import LEVEL, Difference
from paddleseg_autoloss.comparison.tables import (
    show_finding,
    show_interval,
    show_number,
    show_spread,
)
from paddleseg_autoloss.documents import (
    Banner,
    Chart,
    Code,
    Document,
    Heading,
    Items,
    Paragraph,
    Table,
)
from paddleseg_autoloss.escaping import escape_cell
from paddleseg_autoloss.files import write_file

__all__ = [
    "findings",
    "mean_table",
    "points_table",
    "rank_table",
    "say_what_it_can_show",
    "write_across",
]

_METRIC = METRICS[0]
_POINTS = 100
#: Smaller p values are not shown as numbers: they say more than figures of so few runs can.
_LEAST_P = 0.001


def write_across(across: Across, folder: Path, command: str) -> None:
    """Write ``across.csv``, ``report.md`` and ``report.html``.

    Args:
        across: the comparisons.
        folder: where to write them.
        command: the command line.
    """
    document = Document("Across data sets: " + ", ".join(d.name for d in across.data_sets))
    _add_warning(document, across)
    document.add(Paragraph(_describe_scope(across)))
    document.add(Heading("What it says"), Paragraph(_describe_test(across)))
    document.add(Paragraph(say_what_it_can_show(across)), Items(findings(across)))
    document.add(
        Heading("Mean ranks"), Table(rank_table(across)), Paragraph(_explain_ranks(across))
    )
    document.add(Heading(f"{_METRIC} on each data set, in points against {across.baseline}"))
    document.add(Table(points_table(across)), Paragraph(_POINTS_TEXT), _chart(across))
    document.add(Heading(f"{_METRIC} on each data set"), Table(mean_table(across)))
    document.add(Paragraph(_MEANS_TEXT), Heading("How it was made"), Code(command))
    document.write(folder)
    table = _long_table(across)
    for column in ("data set", "variant"):
        table[column] = table[column].map(escape_cell)
    write_file(folder / "across.csv", table.to_csv(index=False))


_POINTS_TEXT = (
    "Points are hundredths; in brackets the 95 % confidence interval over the seeds of this data "
    "set (paired t, not corrected). ▲ better and ▼ worse: seen after Holm's correction for all "
    "variants on this data set. These intervals speak of this data set, and not of others."
)
_MEANS_TEXT = (
    "Mean and standard deviation over the seeds; in brackets the learning rate, which was chosen "
    "on the validation images."
)


def _add_warning(document: Document, across: Across) -> None:
    found = [
        f"{name} on {data_set.name} (seed {', '.join(map(str, seeds))})"
        for data_set in across.data_sets
        for name in across.variants
        if (seeds := [s for s in data_set.collapsed[name] if s in across.seeds[data_set.name]])
    ]
    if found:
        document.add(
            Banner(
                "Some networks predict at most one class correctly: they have learned nothing, and "
                f"their ranks say nothing about the losses. They are: {'; '.join(found)}."
            )
        )


def _describe_scope(across: Across) -> str:
    sets = [f"{name} ({_count(len(seeds), 'seed')})" for name, seeds in across.seeds.items()]
    text = (
        f"{len(across.variants)} variants on {len(sets)} data sets: {', '.join(sets)}. Figures are "
        f"{_METRIC} on the test images, each variant at its own learning rate, as in the reports "
        "of the comparisons."
    )
    if any(data_set.tuned != across.baseline for data_set in across.data_sets):
        chosen = ", ".join(f"{d.tuned} on {d.name}" for d in across.data_sets)
        text += f" {across.baseline} is the best by the validation images: {chosen}."
    if across.left_out:
        lacking = [f"{name} (not on {', '.join(sets)})" for name, sets in across.left_out.items()]
        text += f" Left out, because a data set lacks them: {'; '.join(lacking)}."
    return text + _describe_dropped(across)


def _describe_dropped(across: Across) -> str:
    """Name the runs that do not count, because another variant lacks their seed."""
    parts = []
    for data_set in across.data_sets:
        seeds_of: dict[str, list[int]] = {}
        for seed, lacking in across.dropped(data_set).items():
            reason = ", ".join(f"{name}: {why}" for name, why in lacking.items())
            seeds_of.setdefault(reason, []).append(seed)
        parts += [
            f"seed {', '.join(map(str, seeds))} on {data_set.name} ({reason})"
            for reason, seeds in seeds_of.items()
        ]
    if not parts:
        return ""
    return (
        " A seed counts on a data set only if every variant has a figure for it. Left out with all "
        f"their runs: {'; '.join(parts)}."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _show_p(p: float) -> str:
    return f"below {_LEAST_P:g}" if p < _LEAST_P else show_number(p, ".3g")


def _is_p(p: float) -> str:
    """Return a p value as part of a sentence."""
    return f"p is {_show_p(p)}"


def _describe_test(across: Across) -> str:
    if any(across.collapsed.values()):
        return (
            f"Whether the variants differ over these {len(across.data_sets)} data sets was not "
            "tested, because a network has learned nothing."
        )
    test = across.test
    verdict = "differ" if test.p < LEVEL else "do not visibly differ"
    return (
        f"Over these {len(across.data_sets)} data sets the variants {verdict}: Friedman's "
        f"chi-square is {test.chi_square:.2f}, {_is_p(test.p)} by permutation (the smallest "
        f"possible {_is_p(test.least_p)}). F of Iman and Davenport is {test.f:.2f} with "
        f"{test.degrees[0]} and {test.degrees[1]} degrees of freedom, {_is_p(test.p_f)} by the F "
        "distribution, which holds for many data sets only."
    )


def say_what_it_can_show(across: Across) -> str:
    """Return the sentences on what so many data sets can show at most."""
    sets, count = across.ranks.shape
    tests = sum(not math.isnan(pair.p) for pair in across.pairs.values())
    if not tests:
        return f"No variant was compared with {across.baseline} over the data sets."
    least = least_visible_distance(across.ranks, tests)
    corrected = f" times {tests} by Holm's correction" if tests > 1 else ""
    needed = next(n for n in itertools.count(1) if tests * 2 / 2**n < LEVEL)
    alone = (
        f"Two variants by themselves cannot be told apart by {sets} data sets: even if one is "
        f"better on all of them, p is 2/2^{sets} = {2 / 2**sets:.3g}{corrected} (sign test and "
        f"Wilcoxon). So no variant is called better or worse here; that takes {needed} data sets "
        "or more."
    )
    texts = [alone] if sets < needed else []
    what = "to be a hint" if sets < needed else "to be seen"
    if math.isinf(least):
        texts.append(
            f"{sets} data sets{_with_ties(across)} cannot show that a variant differs from "
            f"{across.baseline}, whatever the figures are. Add data sets; more seeds do not help "
            "here."
        )
    else:
        texts.append(
            f"With {count} variants ranked together, a mean rank must be at least {least:.2f} away "
            f"from that of {across.baseline} {what} after Holm's correction; the largest possible "
            f"distance{_with_ties(across)} is {np.ptp(across.ranks, axis=1).mean():.3g}."
        )
    return " ".join(texts)


def _with_ties(across: Across) -> str:
    has_ties = any(len(np.unique(row)) < len(row) for row in across.ranks)
    return " with these ties" if has_ties else ""


def findings(across: Across) -> list[str]:
    """Return a sentence on each variant."""
    return [f"{name}: {_describe_pair(across, name, pair)}" for name, pair in across.pairs.items()]


def _describe_pair(across: Across, name: str, pair: Pair) -> str:
    found = {key: differences[name] for key, differences in across.on_each.items()}
    single = [f"{_word(d)} on {key}" for key, d in found.items() if d.is_significant]
    return (
        f"{_describe_verdict(across, pair)} (mean rank {pair.rank:.2f}, ahead on {pair.better} of "
        f"{len(found)}); on these data sets, over the seeds: {_describe_average(pair.here, found)}"
        f"{''.join(f', {text}' for text in single)}"
    )


def _describe_verdict(across: Across, pair: Pair) -> str:
    if math.isnan(pair.p):
        return "not compared over the data sets"
    word = "better" if pair.distance > 0 else "worse"
    if pair.is_seen:
        return f"{word} over the data sets"
    if pair.has_hint:
        return (
            f"a hint that it is {word} over the data sets, but no more: of the mean ranks "
            f"{_is_p(pair.p_holm)}, but of it and {across.baseline} by themselves "
            f"{_is_p(pair.p_alone_holm)} (Wilcoxon, Holm)"
        )
    return "no difference over the data sets seen"


def _describe_average(average: Difference, on_each: Mapping[str, Difference]) -> str:
    if math.isnan(average.p_t):
        return f"nothing was tested on average, because {_why_untested(on_each)}"
    return f"on average {_word(average)}{_in_points(average)}"


def _why_untested(on_each: Mapping[str, Difference]) -> str:
    return ", ".join(_why(key, d) for key, d in on_each.items() if math.isnan(d.p_t))


def _why(key: str, difference: Difference) -> str:
    if difference.collapsed:
        return f"a network on {key} has learned nothing"
    if difference.sd == 0:
        return f"the spread on {key} is zero"
    return f"{key} has {_count(len(difference.seeds), 'seed')}"


def _word(difference: Difference) -> str:
    if not difference.is_significant:
        return "no difference seen"
    return "better" if difference.mean > 0 else "worse"


def _in_points(difference: Difference) -> str:
    return f" ({_POINTS * difference.mean:+.1f} points {show_interval(difference)})"


def rank_table(across: Across) -> pd.DataFrame:
    """Return the mean rank of each variant, the best first, and its tests against the baseline."""
    ranks = dict(zip(across.variants, across.ranks.mean(axis=0)))
    rows = []
    for name in sorted(ranks, key=lambda name: ranks[name]):
        row = {"variant": name, "mean rank": f"{ranks[name]:.2f}"}
        pair = across.pairs.get(name)
        rows.append(row | (dict.fromkeys(_PAIR_COLUMNS, "-") if pair is None else _cells(pair)))
    return pd.DataFrame(rows)


_PAIR_COLUMNS = (
    "finding", "ahead on", "p (ranks)", "p (ranks, Holm)", "p (Wilcoxon)", "p (Wilcoxon, Holm)",
    "mean, points", "95 % interval, data sets", "95 % interval, seeds", "p (seeds, Holm)",
)  # fmt: skip


def _cells(pair: Pair) -> dict[str, str]:
    points, here = pair.points, pair.here
    cells = (
        _finding(pair),
        f"{pair.better} of {len(points.values)}",
        _show_p(pair.p),
        _show_p(pair.p_holm),
        _show_p(pair.p_alone),
        _show_p(pair.p_alone_holm),
        show_number(_POINTS * points.mean, "+.2f"),
        show_interval(points),
        show_interval(here),
        _show_p(here.p_t_holm),
    )
    return dict(zip(_PAIR_COLUMNS, cells))


def _finding(pair: Pair) -> str:
    if math.isnan(pair.p):
        return "-"
    if pair.has_hint and not pair.is_seen:
        return f"hint: {'better' if pair.distance > 0 else 'worse'}"
    return show_finding(pair.is_seen, pair.distance)


def _explain_ranks(across: Across) -> str:
    sets, count = across.ranks.shape
    return (
        "The variants are ranked on each data set by their mean over the seeds; 1 is the best. A "
        "data set counts once, however many seeds it has. A finding needs two p values below "
        f"{LEVEL:g}. p (ranks, Holm) is the exact probability of such a distance of mean ranks "
        f"from {across.baseline} if all variants are alike, with the ties that were found, after "
        "Holm's correction. It is too small for two variants that vary more than the others, so "
        "it alone is a hint. p (Wilcoxon, Holm) is that of the two by themselves, exact too. A "
        f"variant is not compared if, on a data set, a network of it or of {across.baseline} has "
        "learned nothing. Points are hundredths, the mean over the data sets. Two "
        "questions have two intervals. What is to be expected on another data set? The interval "
        "over data sets and Wilcoxon's test take each data set as one number. Is there a "
        "difference on these data sets? The interval over seeds and its p take the data sets as "
        "given, and only the seeds as chance. Nemenyi's critical difference for all pairs is "
        f"{critical_difference(count, sets):.2f} at the level {LEVEL:g}; like F it is meant for "
        "many data sets (Demšar: more than 10). See J. Demšar, Statistical Comparisons of "
        "Classifiers over Multiple Data Sets, JMLR 7, 2006."
    )


def points_table(across: Across) -> pd.DataFrame:
    """Return the difference of each variant to the baseline on each data set, in points."""
    rows = [
        [name, *(_points(found[name]) for found in across.on_each.values())]
        for name in across.pairs
    ]
    return _by_data_set(across, rows)


def _by_data_set(across: Across, rows: list[list[str]]) -> pd.DataFrame:
    # A data set may be called variant, so the columns are not the keys of a dictionary.
    return pd.DataFrame(rows, columns=["variant", *across.on_each])


def _chart(across: Across) -> Chart:
    text = "Differences on each data set with their 95 % intervals; dots: single pairs of runs"
    panels = [
        panel
        for key, found in across.on_each.items()
        for panel in difference_panels(found, across.baseline, _METRIC, title=key)
    ]
    return Chart("differences", text, panels, columns=2)


def _points(difference: Difference) -> str:
    mean = show_number(_POINTS * difference.mean, "+.2f")
    if difference.collapsed:
        return f"{mean} (collapsed)"
    if math.isnan(difference.low):
        return mean
    sign = show_finding(True, difference.mean)[0] if difference.is_significant else ""
    return f"{mean} {show_interval(difference)} {sign}".strip()


def mean_table(across: Across) -> pd.DataFrame:
    """Return the figures of each variant on each data set: mean, deviation and learning rate."""
    rows = [
        [name, *(_figures(across, d, name) for d in across.data_sets)] for name in across.variants
    ]
    return _by_data_set(across, rows)


def _figures(across: Across, data_set: DataSet, name: str) -> str:
    figures = across.figures(data_set)[name].values()
    return f"{show_spread(figures, 4)} ({data_set.rates[name]:g})"


def _long_table(across: Across) -> pd.DataFrame:
    """Return a row for each data set and variant."""
    rows = []
    for i, data_set in enumerate(across.data_sets):
        for j, (name, values) in enumerate(across.figures(data_set).items()):
            difference = across.on_each[data_set.name].get(name)
            ends = (math.nan,) * 3 if difference is None else (
                difference.mean, difference.low, difference.high
            )  # fmt: skip
            rows.append(
                {
                    "data set": data_set.name,
                    "variant": data_set.tuned if name == across.baseline else name,
                    "is baseline": name == across.baseline,
                    "learning_rate": data_set.rates[name],
                    "seeds": len(values),
                    _METRIC: across.means[i, j],
                    "sd": float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else "",
                    "rank": across.ranks[i, j],
                    **dict(zip(("difference", "low", "high"), ends)),
                }
            )
    return pd.DataFrame(rows)
