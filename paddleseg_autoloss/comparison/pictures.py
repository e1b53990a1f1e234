"""The charts and images of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from paddleseg_autoloss.comparison.results import METRICS, Results
from paddleseg_autoloss.comparison.statistics import Difference
from paddleseg_autoloss.contours import classes_in, draw_contours
from paddleseg_autoloss.documents import Notes, Panel, Tile
from paddleseg_autoloss.documents.panels import thinned
from paddleseg_autoloss.errors import DataError
from paddleseg_autoloss.escaping import escape_math
from paddleseg_autoloss.plot_styles import (
    BETTER,
    MEAN,
    SINGLE,
    WORSE,
    class_color,
    label_iterations,
    line_style,
    set_scale,
    shortened,
)

__all__ = [
    "class_key",
    "curve_panels",
    "difference_panels",
    "run_panels",
    "sample_rows",
    "weight_panels",
]

_POINTS = 100
#: Largest difference of equal weights, which comes from rounding.
_ROUNDING = 1e-6
#: Points of all single runs of a chart together, and of one mean.
_MOST_POINTS, _MOST_OF_MEAN = 20_000, 40
#: Characters of a line below a panel.
_LABEL_WIDTH = 60


def run_panels(results: Results) -> list[Panel]:
    """Show every run as a dot, with mean and standard deviation, for each metric."""
    columns = [*(f"test_{metric}" for metric in METRICS), "step_seconds"]
    titles = [*METRICS, "seconds per step"]
    names = [variant.name for variant in results.variants]
    return [
        Panel(title, partial(_draw_runs, results, names, column), _height(len(names)), True)
        for title, column in zip(titles, columns)
    ]


def _draw_runs(
    results: Results, names: Sequence[str], column: str, axes: Any, notes: Notes
) -> None:
    _name_rows(axes, names)
    for row, name in enumerate(names):
        values = results.by_seed(name, column)
        known = {seed: value for seed, value in values.items() if np.isfinite(value)}
        dots = axes.plot(list(known.values()), [row + 0.18] * len(known), "o", color=MEAN, ms=5)
        notes.add(dots[0], [f"{name}, seed {seed}: {value:.4f}" for seed, value in known.items()])
        _draw_spread(axes, row - 0.12, pd.Series(values), f"{name}: mean", notes)
    # Numbers with four digits and more would touch each other.
    axes.locator_params(axis="x", nbins=5)


def _draw_spread(axes: Any, row: float, values: pd.Series, text: str, notes: Notes) -> None:
    if values.isna().any():
        return
    mean, sd = values.mean(), values.std()
    text += f" {mean:.4f}"
    if len(values) > 1:
        axes.plot([mean - sd, mean + sd], [row, row], "-", marker="|", color="black", lw=1.2)
        text += f" ± {sd:.4f}"
    notes.add(axes.plot(mean, row, "D", color="black", ms=4)[0], [text])


def difference_panels(
    differences: Mapping[str, Difference], baseline: str, metric: str, title: str | None = None
) -> list[Panel]:
    """Show the paired differences to the baseline, in points, with their 95 % intervals.

    A difference that is seen has a filled triangle, which points to the right if it is better and
    to the left if it is worse; any other mean has an empty diamond.

    Args:
        differences: differences of each variant to the baseline, as shares.
        baseline: name of the baseline.
        metric: name of the metric.
        title: title of the panel; by default the metric.
    """
    draw = partial(_draw_differences, differences, f"{metric}, points above {baseline}")
    return [Panel(title or metric, draw, _height(len(differences)), True)]


def _draw_differences(
    differences: Mapping[str, Difference], label: str, axes: Any, notes: Notes
) -> None:
    _name_rows(axes, list(differences))
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel(escape_math(shortened(label, _LABEL_WIDTH)))
    for row, (name, difference) in enumerate(differences.items()):
        pairs = dict(zip(difference.seeds, _POINTS * np.array(difference.values)))
        known = {seed: value for seed, value in pairs.items() if np.isfinite(value)}
        dots = axes.plot(list(known.values()), [row + 0.2] * len(known), "o", color=SINGLE, ms=4)
        notes.add(dots[0], [f"{name}, seed {seed}: {v:+.2f} points" for seed, v in known.items()])
        if np.isfinite(difference.mean):
            _draw_interval(axes, row, name, difference, notes)


def _draw_interval(axes: Any, row: int, name: str, difference: Difference, notes: Notes) -> None:
    mean, low, high = (_POINTS * x for x in (difference.mean, difference.low, difference.high))
    style = {"marker": "D", "color": "black", "markerfacecolor": "white"}
    if difference.is_significant:
        style = {"marker": ">", "color": BETTER} if mean > 0 else {"marker": "<", "color": WORSE}
    text = f"{name}: {mean:+.2f} points"
    if np.isfinite(low):
        axes.plot([low, high], [row, row], "-", marker="|", color=style["color"], lw=2)
        text += f" [{low:.2f}, {high:.2f}]"
    notes.add(axes.plot(mean, row, linestyle="", markersize=7, **style)[0], [text])


def curve_panels(results: Results) -> list[Panel]:
    """Show the mIoU on the validation images over the iterations, one panel per variant."""
    every = {
        variant.name: [folder.validation_curve() for folder in results.folders_of(variant.name)]
        for variant in results.variants
    }
    curves = {name: found for name, found in every.items() if any(found)}
    values = [v for found in curves.values() for curve in found for v in curve.values()]
    limits = (min(values, default=0), max(values, default=1))
    most = _most_points(sum(map(len, curves.values())))
    return [
        Panel(name, partial(_draw_curves, found, limits, most)) for name, found in curves.items()
    ]


def _draw_curves(
    curves: Sequence[Mapping[int, float]],
    limits: tuple[float, float],
    most: int,
    axes: Any,
    notes: Notes,
) -> None:
    for curve in filter(None, curves):
        _plot(axes, list(curve.items()), most, color=SINGLE, lw=0.8)
    mean = pd.DataFrame(curves).mean().sort_index()
    line = _plot(axes, list(mean.items()), _MOST_OF_MEAN, color=MEAN, lw=2, marker="o", ms=3)
    _note_values(notes, line, "validation mIoU")
    margin = 0.05 * (limits[1] - limits[0]) or 0.05
    label_iterations(axes)
    axes.set_ylim(limits[0] - margin, limits[1] + margin)


def weight_panels(results: Results) -> list[Panel]:
    """Show the weights over the iterations, one panel per variant whose weights change."""
    histories = {name: found for name in results.rates if (found := _weights(results, name))}
    terms = {name: list(pd.concat(found).term.unique()) for name, found in histories.items()}
    lines = sum(len(terms[name]) * len(found) for name, found in histories.items())
    return [
        Panel(name, partial(_draw_weights, found, terms[name], _most_points(lines)), 3.0)
        for name, found in histories.items()
    ]


def _weights(results: Results, name: str) -> list[pd.DataFrame]:
    """Return the histories of a variant's weights, or nothing if no weight changes."""
    found = [history for f in results.folders_of(name) if (history := f.weights()) is not None]
    ranges = [np.ptp(rows.weight) for history in found for _, rows in history.groupby("term")]
    changing = max(ranges, default=0) > _ROUNDING
    return found if changing else []


def _draw_weights(
    found: Sequence[pd.DataFrame], terms: Sequence[str], most: int, axes: Any, notes: Notes
) -> None:
    every = pd.concat(found)
    for index, term in enumerate(terms):
        style = line_style(index)
        for history in found:
            own = history[history.term == term]
            points = list(zip(own.iteration, own.weight))
            _plot(axes, points, most, color=style["color"], lw=0.8, alpha=0.4)
        mean = every[every.term == term].groupby("iteration").weight.mean()
        label = escape_math(shortened(term))
        line = _plot(axes, list(mean.items()), _MOST_OF_MEAN, label=label, lw=2, **style)
        line.set_markersize(4)
        _note_values(notes, line, term)
    label_iterations(axes)
    axes.set_ylabel("weight")
    set_scale(axes, every.weight)
    axes.legend(fontsize="x-small")


def _most_points(lines: int) -> int:
    return max(10, _MOST_POINTS // max(lines, 1))


def _plot(axes: Any, points: Sequence[tuple[int, float]], most: int, **style: Any) -> Any:
    array = thinned(np.array(points, dtype=float).reshape(-1, 2), most)
    return axes.plot(array[:, 0], array[:, 1], **style)[0]


def _note_values(notes: Notes, line: Any, name: str) -> None:
    points = np.stack(line.get_data(), axis=1)
    texts = [f"{name}, iteration {x:.0f}: {y:.4g}" for x, y in points if np.isfinite(y)]
    notes.add(line, texts)


def sample_rows(samples: Mapping[str, Mapping[str, np.ndarray]]) -> list[list[Tile]]:
    """Show images with the contours of the ground truth and of the variants' predictions.

    Args:
        samples: for each variant the arrays of its ``samples.npz``.

    Raises:
        DataError: an array is missing.
    """
    first: Mapping[str, np.ndarray] = next(iter(samples.values()), {})
    rows = []
    for number in (name.removeprefix("image") for name in first if name.startswith("image")):
        image = first[f"image{number}"]
        try:
            masks = {"truth": first[f"truth{number}"]}
            masks |= {name: arrays[f"prediction{number}"] for name, arrays in samples.items()}
        except KeyError as error:
            raise DataError(
                f"samples.npz of {', '.join(samples)}: expected the array {error} in each, found "
                "none; evaluate the runs again, or use --no_samples"
            ) from error
        tiles = [Tile(name, draw_contours(image, mask)) for name, mask in masks.items()]
        rows.append([Tile("image", image), *tiles])
    return rows


def class_key(
    samples: Mapping[str, Mapping[str, np.ndarray]],
) -> list[tuple[str, str, bool]]:
    """Return name, colour and kind of line of each class in the masks of `sample_rows`."""
    masks = [mask for arrays in samples.values() for mask in arrays.values() if mask.ndim == 2]
    found = sorted({index for mask in masks for index in classes_in(mask)})
    return [(f"class {index}", *class_color(index)) for index in found]


def _height(rows: int) -> float:
    return 1.2 + 0.42 * rows


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    labels = [escape_math(shortened(name)) for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize="small")
    axes.set_ylim(len(names) - 0.5, -0.5)
