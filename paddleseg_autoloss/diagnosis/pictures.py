"""The picture of a diagnosis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_autoloss.diagnosis.advice import MOST_PAIRS
from paddleseg_autoloss.diagnosis.numbers import Diagnosis, LossFigures
from paddleseg_autoloss.escaping import escape_math
from paddleseg_autoloss.files import replace_file
from paddleseg_autoloss.fonts import choose_fonts

__all__ = ["plot_diagnosis"]


def plot_diagnosis(diagnosis: Diagnosis, path: str | Path) -> None:
    """Draw gradient norms and cosines over the iterations, and the shares of the update.

    Args:
        diagnosis: the figures.
        path: the PNG file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 4.8), dpi=100, layout="constrained")
    norms, cosines, shares = figure.subplots(1, 3)
    _plot_norms(norms, diagnosis)
    _plot_cosines(cosines, diagnosis)
    _plot_shares(shares, diagnosis.losses)
    for axes in (norms, cosines, shares):
        axes.grid(alpha=0.3)
    for axes in (norms, cosines):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    choose_fonts(figure)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _iterations(diagnosis: Diagnosis) -> np.ndarray:
    return np.arange(diagnosis.steps) + diagnosis.skipped + 1


def _plot_norms(axes: Any, diagnosis: Diagnosis) -> None:
    for index in np.flatnonzero(diagnosis.has_gradient):
        name, norms = diagnosis.terms[index].name, diagnosis.norms[:, index]
        axes.plot(_iterations(diagnosis), norms, color=f"C{index}", label=escape_math(name))
    axes.set(title="gradient norm, without the coefficient", xlabel="iteration", yscale="log")


def _plot_cosines(axes: Any, diagnosis: Diagnosis) -> None:
    names = [term.name for term in diagnosis.terms]
    for pair in diagnosis.known_pairs[:MOST_PAIRS]:
        angles = diagnosis.cosines[:, names.index(pair.first), names.index(pair.second)]
        label = escape_math(pair.names.replace(", ", ",\n"))
        axes.plot(_iterations(diagnosis), angles, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(title="cosine (below 0: conflict)", xlabel="iteration", ylim=(-1.05, 1.05))


def _plot_shares(axes: Any, losses: list[LossFigures]) -> None:
    for index, loss in enumerate(losses):
        quartiles = [100 * loss.share.low, 100 * loss.share.high]
        name = escape_math(loss.name)
        axes.barh(name, 100 * loss.share.value, height=0.5, color=f"C{index}")
        axes.plot(quartiles, [name] * 2, color="black")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(title="share of the update", xlabel="% (line: middle half of the steps)")
