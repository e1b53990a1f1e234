"""The charts of a diagnosis."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from matplotlib.transforms import offset_copy

from paddleseg_autoloss.diagnosis.advice import MOST_PAIRS
from paddleseg_autoloss.diagnosis.numbers import Diagnosis
from paddleseg_autoloss.documents import Notes, Panel
from paddleseg_autoloss.escaping import escape_math
from paddleseg_autoloss.plot_styles import label_iterations, line_style, mark_every, set_scale

__all__ = ["diagnosis_panels"]


def diagnosis_panels(diagnosis: Diagnosis) -> list[Panel]:
    """Show gradient norms and cosines over the iterations, and the shares of the update.

    Args:
        diagnosis: the figures.
    """
    pairs = min(len(diagnosis.known_pairs), MOST_PAIRS)
    # Legends stand below the axes, and have a line for each loss, and two for each pair.
    losses = len(diagnosis.losses)
    return [
        Panel(
            "gradient norm, without the coefficient",
            partial(_draw_norms, diagnosis),
            3.4 + 0.2 * losses,
        ),
        Panel("share of the update", partial(_draw_shares, diagnosis), 2 + 0.4 * losses),
        Panel("cosine (below 0: conflict)", partial(_draw_cosines, diagnosis), 3.4 + 0.4 * pairs),
    ]


def _iterations(diagnosis: Diagnosis) -> np.ndarray:
    return np.arange(diagnosis.steps) + diagnosis.skipped + 1


def _draw_curve(
    axes: Any, notes: Notes, diagnosis: Diagnosis, index: int, name: str, values: np.ndarray
) -> None:
    iterations = _iterations(diagnosis)
    label = escape_math(name.replace(", ", ",\n"))
    every = mark_every(index, len(values))
    axes.plot(iterations, values, label=label, markevery=every, **line_style(index))
    known = np.isfinite(values)
    dots = axes.plot(iterations[known], values[known], "o", ms=7, alpha=0)[0]
    notes.add(
        dots,
        [f"{name}, iteration {i}: {v:.3g}" for i, v in zip(iterations[known], values[known])],
    )


def _draw_norms(diagnosis: Diagnosis, axes: Any, notes: Notes) -> None:
    for index in np.flatnonzero(diagnosis.has_gradient):
        norms = diagnosis.norms[:, index]
        _draw_curve(axes, notes, diagnosis, index, diagnosis.terms[index].name, norms)
    label_iterations(axes)
    set_scale(axes, diagnosis.norms[:, diagnosis.has_gradient].ravel())
    _add_legend(axes)


def _draw_cosines(diagnosis: Diagnosis, axes: Any, notes: Notes) -> None:
    names = [term.name for term in diagnosis.terms]
    for index, pair in enumerate(diagnosis.known_pairs[:MOST_PAIRS]):
        angles = diagnosis.cosines[:, names.index(pair.first), names.index(pair.second)]
        _draw_curve(axes, notes, diagnosis, index, pair.names, angles)
    axes.axhline(0, color="black", linewidth=0.8)
    label_iterations(axes)
    axes.set_ylim(-1.05, 1.05)
    _add_legend(axes)


def _add_legend(axes: Any) -> None:
    """Add a legend below the numbers and the name of the x axis."""
    if axes.get_legend_handles_labels()[0]:
        below = offset_copy(axes.transAxes, axes.figure, y=-40, units="points")
        place = {"bbox_to_anchor": (0, 0), "bbox_transform": below, "borderaxespad": 0}
        axes.legend(fontsize="small", loc="upper left", **place)


def _draw_shares(diagnosis: Diagnosis, axes: Any, notes: Notes) -> None:
    for row, loss in enumerate(diagnosis.losses):
        value, low, high = (100 * x for x in (loss.share.value, loss.share.low, loss.share.high))
        color = line_style(row)["color"]
        axes.barh(row, value, height=0.5, color=color)
        axes.plot([low, high], [row, row], color="black")
        if np.isfinite(value):
            dot = axes.plot(value, row, "D", color="black", ms=4)[0]
            notes.add(dot, [f"{loss.name}: {value:.3g} % ({low:.2g}..{high:.2g})"])
    names = [escape_math(loss.name) for loss in diagnosis.losses]
    axes.set_yticks(range(len(names)), names, fontsize="small")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("% (line: middle half of the steps)")
