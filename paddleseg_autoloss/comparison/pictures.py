"""The pictures of a report, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from paddleseg_autoloss.comparison.results import METRICS, Results
from paddleseg_autoloss.comparison.statistics import Difference
from paddleseg_autoloss.escaping import escape_math
from paddleseg_autoloss.fonts import choose_fonts

__all__ = ["plot_curves", "plot_differences", "plot_runs", "plot_samples", "plot_weights"]

_POINTS = 100
_COLUMNS = 4
#: Largest difference of equal weights, which comes from rounding.
_ROUNDING = 1e-6
_PALETTE = [colormaps["tab20"](index) for index in range(20)]


def plot_runs(results: Results) -> bytes:
    """Draw every run as a dot, with mean and standard deviation, for each metric."""
    names = [variant.name for variant in results.variants]
    columns = [*(f"test_{metric}" for metric in METRICS), "step_seconds"]
    titles = [*METRICS, "seconds per step"]
    figure, axes = _rows_figure(len(names), len(columns))
    for one, column, title in zip(axes, columns, titles):
        for row, name in enumerate(names):
            values = list(results.by_seed(name, column).values())
            _draw_spread(one, row, values, _PALETTE[row % len(_PALETTE)])
        one.set_title(title)
    _name_rows(axes[0], names)
    return _png(figure)


def plot_differences(differences: Mapping[str, Difference], baseline: str, metric: str) -> bytes:
    """Draw the paired differences to the baseline, in points, with their 95 % intervals."""
    figure, (axes,) = _rows_figure(len(differences), 1)
    for row, difference in enumerate(differences.values()):
        values = _POINTS * np.array(difference.values)
        axes.plot(values, np.full(len(values), row + 0.18), "o", color="gray", ms=4, alpha=0.7)
        if difference.seeds:
            low, high = np.nan_to_num(
                _POINTS * np.array([difference.low, difference.high]) - 0.0, nan=np.nan
            )
            color = "tab:red" if difference.is_significant else "black"
            axes.plot([low, high], [row, row], "-|", color=color, lw=2)
            axes.plot(_POINTS * difference.mean, row, "D", color=color, ms=6)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel(escape_math(f"{metric}, points above {baseline}"))
    _name_rows(axes, list(differences))
    return _png(figure)


def plot_curves(results: Results) -> bytes:
    """Draw the mIoU on the validation images over the iterations, one panel per variant."""
    figure, axes = _panels(len(results.variants))
    for one, variant in zip(axes, results.variants):
        curves = [folder.validation_curve() for folder in results.folders_of(variant.name)]
        for curve in filter(None, curves):
            one.plot(list(curve), list(curve.values()), color="gray", lw=0.8, alpha=0.7)
        mean = pd.DataFrame(curves).mean().sort_index()
        one.plot(mean.index, mean.to_numpy(), color="tab:blue", lw=2)
        one.set_title(escape_math(variant.name), fontsize="small")
    _label(axes, "validation mIoU")
    return _png(figure)


def plot_weights(results: Results) -> bytes | None:
    """Draw the weights over the iterations, one panel per variant whose weights change."""
    histories = {name: found for name in results.rates if (found := _weights(results, name))}
    if not histories:
        return None
    figure, axes = _panels(len(histories))
    for one, (name, found) in zip(axes, histories.items()):
        every = pd.concat(found)
        for index, (term, rows) in enumerate(every.groupby("term", sort=False)):
            color = _PALETTE[2 * index % len(_PALETTE)]
            for history in found:
                own = history[history.term == term]
                one.plot(own.iteration, own.weight, color=color, lw=0.8, alpha=0.4)
            mean = rows.groupby("iteration").weight.mean()
            one.plot(mean.index, mean.to_numpy(), color=color, lw=2, label=escape_math(term))
        one.set_title(escape_math(name), fontsize="small")
        one.legend(fontsize="x-small")
    _label(axes, "weight", shared=False)
    return _png(figure)


def _weights(results: Results, name: str) -> list[pd.DataFrame]:
    """Return the histories of a variant's weights, or nothing if no weight changes."""
    found = [history for f in results.folders_of(name) if (history := f.weights()) is not None]
    ranges = [np.ptp(rows.weight) for history in found for _, rows in history.groupby("term")]
    changing = max(ranges, default=0) > _ROUNDING
    return found if changing else []


def plot_samples(samples: Mapping[str, Mapping[str, np.ndarray]]) -> bytes | None:
    """Draw images next to the ground truth and the predictions of the variants.

    Args:
        samples: for each variant the arrays of its ``samples.npz``.
    """
    first: Mapping[str, np.ndarray] = next(iter(samples.values()), {})
    numbers = [name.removeprefix("image") for name in first if name.startswith("image")]
    if not numbers:
        return None
    masks = [mask for arrays in samples.values() for mask in arrays.values() if mask.ndim == 2]
    classes = max(int(mask[mask != 255].max(initial=0)) for mask in masks) + 1
    figure = Figure(figsize=(1.5 * (len(samples) + 2), 1.75 * len(numbers)), layout="constrained")
    axes = figure.subplots(len(numbers), len(samples) + 2, squeeze=False)
    for row, number in zip(axes, numbers):
        pictures = [first[f"image{number}"], _colour_mask(first[f"truth{number}"], classes)]
        pictures += [_colour_mask(a[f"prediction{number}"], classes) for a in samples.values()]
        for one, picture in zip(row, pictures):
            one.imshow(picture)
            one.set_axis_off()
    for one, title in zip(axes[0], ["image", "truth", *samples]):
        one.set_title(escape_math("\n".join(title.split())), fontsize=7)
    return _png(figure)


def _colour_mask(mask: np.ndarray, classes: int) -> np.ndarray:
    """Return a mask in colours: the first class is black, ignored pixels are white."""
    hues = [colormaps["turbo"](value)[:3] for value in np.linspace(0.85, 0.1, max(classes - 1, 1))]
    palette = np.ones((256, 3))
    palette[0] = 0
    palette[1 : len(hues) + 1] = hues
    return palette[mask]


def _draw_spread(axes: Any, row: int, values: Sequence[float], color: Any) -> None:
    axes.plot(values, np.full(len(values), row + 0.18), "o", color=color, ms=5, alpha=0.8)
    mean, sd = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else 0
    axes.errorbar(mean, row - 0.12, xerr=sd, fmt="D", color="black", ms=4, capsize=3)


def _rows_figure(rows: int, columns: int) -> tuple[Figure, Any]:
    size = (max(7.0, 3.6 * columns), 1.4 + 0.45 * rows)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, sharey=True)[0]
    for one in axes:
        one.grid(alpha=0.3)
        one.set_ylim(rows - 0.5, -0.5)
    return figure, axes


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [escape_math(name) for name in names])


def _panels(count: int) -> tuple[Figure, list[Any]]:
    rows, columns = -(-count // _COLUMNS), min(count, _COLUMNS)
    figure = Figure(figsize=(3.4 * columns + 0.4, 2.6 * rows), dpi=100, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def _label(axes: Sequence[Any], quantity: str, shared: bool = True) -> None:
    low = min(one.get_ylim()[0] for one in axes)
    high = max(one.get_ylim()[1] for one in axes)
    for index, one in enumerate(axes):
        one.grid(alpha=0.3)
        one.set_xlabel("iteration")
        if shared:
            one.set_ylim(low, high)
        if index % _COLUMNS == 0:
            one.set_ylabel(quantity)


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    choose_fonts(figure)
    figure.savefig(stream, format="png")
    return stream.getvalue()
