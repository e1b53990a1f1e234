"""The report on several comparisons: one table across data sets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from paddleseg_autoloss.comparison.across import Across, Pair
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

__all__ = ["mean_table", "points_table", "rank_table", "say_what_it_can_show", "write_across"]

_METRIC = METRICS[0]
_POINTS = 100


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
    document.add(Paragraph(say_what_it_can_show(across)), Items(_findings(across)))
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
    sets = [f"{name} ({len(seeds)} seeds)" for name, seeds in across.seeds.items()]
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
    return text


def _describe_test(across: Across) -> str:
    test = across.test
    verdict = "differ" if test.p < LEVEL else "do not visibly differ"
    return (
        f"Over these {len(across.data_sets)} data sets the variants {verdict}: Friedman's "
        f"chi-square is {test.chi_square:.2f}, p = {test.p:.3g} by permutation (the smallest "
        f"possible p is {test.least_p:.2g}). F of Iman and Davenport is {test.f:.2f} with "
        f"{test.degrees[0]} and {test.degrees[1]} degrees of freedom, p = {test.p_f:.3g} by the F "
        "distribution, which holds for many data sets only."
    )


def say_what_it_can_show(across: Across) -> str:
    """Return the sentences on what so many data sets can show at most."""
    sets, count = across.ranks.shape
    largest = count - 1
    least = least_visible_distance(sets, count, tests=count - 1)
    alone = (
        f"Two variants by themselves cannot be told apart by {sets} data sets: even if one is "
        f"better on all of them, p is 2/2^{sets} = {2 / 2**sets:.3g} (sign test and Wilcoxon)."
    )
    texts = [alone] if 2 / 2**sets >= LEVEL else []
    if math.isinf(least):
        texts.append(
            f"{sets} data sets cannot show that a variant differs from {across.baseline}, whatever "
            "the figures are. Add data sets; more seeds do not help here."
        )
    else:
        texts.append(
            f"With {count} variants ranked together, a mean rank must be at least {least:.2f} away "
            f"from that of {across.baseline} to be seen after Holm's correction; the largest "
            f"possible distance is {largest}."
        )
    return " ".join(texts)


def _findings(across: Across) -> list[str]:
    return [f"{name}: {_describe_pair(across, name, pair)}" for name, pair in across.pairs.items()]


def _describe_pair(across: Across, name: str, pair: Pair) -> str:
    verdict = "no difference over the data sets seen"
    if pair.p_holm < LEVEL:
        verdict = "better over the data sets" if pair.distance > 0 else "worse over the data sets"
    found = {key: differences[name] for key, differences in across.on_each.items()}
    single = [f"{_word(d)} on {key}" for key, d in found.items() if d.is_significant]
    return (
        f"{verdict} (mean rank {pair.rank:.2f}, ahead on {pair.better} of {len(found)}); on these "
        f"data sets, over the seeds: on average {_word(pair.here)}"
        f"{_in_points(pair.here)}{''.join(f', {text}' for text in single)}"
    )


def _word(difference: Difference) -> str:
    if not difference.is_significant:
        return "no difference seen"
    return "better" if difference.mean > 0 else "worse"


def _in_points(difference: Difference) -> str:
    if math.isnan(difference.low):
        return ""
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
    "finding", "ahead on", "p (ranks)", "p (ranks, Holm)", "p (Wilcoxon)", "mean, points",
    "95 % interval, data sets", "95 % interval, seeds", "p (seeds, Holm)",
)  # fmt: skip


def _cells(pair: Pair) -> dict[str, str]:
    points, here = pair.points, pair.here
    cells = (
        show_finding(pair.p_holm < LEVEL, pair.distance),
        f"{pair.better} of {len(points.values)}",
        show_number(pair.p, ".3g"),
        show_number(pair.p_holm, ".3g"),
        show_number(points.p_wilcoxon, ".3g"),
        show_number(_POINTS * points.mean, "+.2f"),
        show_interval(points),
        show_interval(here),
        show_number(here.p_t_holm, ".3g"),
    )
    return dict(zip(_PAIR_COLUMNS, cells))


def _explain_ranks(across: Across) -> str:
    sets, count = across.ranks.shape
    return (
        "The variants are ranked on each data set by their mean over the seeds; 1 is the best. A "
        "data set counts once, however many seeds it has. The finding follows from p (ranks, "
        f"Holm): the exact probability of such a distance of mean ranks from {across.baseline}, "
        "after Holm's correction. Points are hundredths, the mean over the data sets. Two "
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
    return pd.DataFrame(
        {
            "variant": name,
            **{key: _points(found[name]) for key, found in across.on_each.items()},
        }
        for name in across.pairs
    )


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
    return pd.DataFrame(
        {
            "variant": name,
            **{
                data_set.name: f"{show_spread(across.figures(data_set)[name].values(), 4)} "
                f"({data_set.rates[name]:g})"
                for data_set in across.data_sets
            },
        }
        for name in across.variants
    )


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
