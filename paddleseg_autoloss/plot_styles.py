"""The colours, markers and line styles of all pictures.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which red-green blind
people can tell apart.  Colours alone are not enough for ten curves, or on a grey print, so each
curve has a marker too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = [
    "BETTER",
    "CLASS_COLORS",
    "LINE_COLORS",
    "MEAN",
    "SINGLE",
    "WORSE",
    "class_color",
    "label_iterations",
    "line_style",
    "mark_every",
    "set_scale",
    "shortened",
]

_BLACK, _ORANGE = "#000000", "#E69F00"
_BLUE, _VERMILLION, _GREEN = "#0072B2", "#D55E00", "#009E73"
_PURPLE, _SKY, _YELLOW = "#CC79A7", "#56B4E9", "#F0E442"

#: Colours of curves on white; yellow is too light for that.
LINE_COLORS = (_BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE, _SKY, _BLACK)
#: Colours of classes on images; black is the outline of all of them.
CLASS_COLORS = (_YELLOW, _SKY, _VERMILLION, _GREEN, _PURPLE, _ORANGE, _BLUE)
_LINE_STYLES: tuple[Any, ...] = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p")
#: A curve has about this number of markers.
_MARKS = 8
#: Widest name in a picture, in characters, and its most lines.
_NAME_WIDTH, _NAME_LINES = 26, 2
#: Powers of ten within which a symmetric logarithmic axis shows numbers next to 0.
_DECADES = 3

#: What is better or worse than the baseline.
BETTER, WORSE = _BLUE, _VERMILLION
#: The mean of several runs, and a single run.
MEAN, SINGLE = _BLUE, "#999999"


def line_style(index: int) -> dict[str, Any]:
    """Return the arguments of Matplotlib's ``plot`` for one of many curves.

    Args:
        index: number of the curve, counted from 0.

    Example:
        >>> line_style(1)
        {'color': '#D55E00', 'linestyle': '-', 'marker': 's', 'markersize': 4.5}
        >>> len({str(line_style(index)) for index in range(77)})
        77
    """
    return {
        "color": LINE_COLORS[index % len(LINE_COLORS)],
        "linestyle": _LINE_STYLES[index // len(LINE_COLORS) % len(_LINE_STYLES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 4.5,
    }


def mark_every(index: int, points: int) -> tuple[int, int]:
    """Return Matplotlib's ``markevery`` for a curve, so that markers of two curves lie apart.

    Args:
        index: number of the curve, counted from 0.
        points: number of points of the curve.

    Example:
        >>> mark_every(0, 80), mark_every(1, 80), mark_every(1, 4)
        ((0, 10), (3, 10), (0, 1))
    """
    step = max(1, points // _MARKS)
    return (3 * index % step, step)


def class_color(index: int) -> tuple[str, bool]:
    """Return the colour of a class on an image, and whether its contour is dotted.

    Args:
        index: number of the class, from 1 on; class 0 has no contour.

    Example:
        >>> class_color(1), class_color(8)
        (('#F0E442', False), ('#F0E442', True))
    """
    turn, color = divmod(index - 1, len(CLASS_COLORS))
    return CLASS_COLORS[color], turn % 2 == 1


def shortened(name: str, width: int = _NAME_WIDTH) -> str:
    r"""Return a name in at most two lines, so that it leaves room for the picture.

    Args:
        name: any text.
        width: most characters of a line.

    Example:
        >>> shortened("a name of some length", width=12)
        'a name of\nsome length'
    """
    return "\n".join(textwrap.wrap(name, width, max_lines=_NAME_LINES, placeholder=" …"))


def label_iterations(axes: Any) -> None:
    """Name the x axis "iteration", and mark whole numbers on it.

    Args:
        axes: a panel of Matplotlib.

    Example:
        >>> from matplotlib.figure import Figure
        >>> axes = Figure().subplots()
        >>> _ = axes.plot([10, 11, 12], [0.5, 0.4, 0.4])
        >>> label_iterations(axes)
        >>> axes.get_xticks().tolist()
        [9.0, 10.0, 11.0, 12.0, 13.0]
    """
    axes.set_xlabel("iteration")
    axes.xaxis.get_major_locator().set_params(integer=True)


def set_scale(axes: Any, values: Sequence[float]) -> None:
    """Choose the scale of the y axis: logarithmic if the values span more than a factor of ten.

    If some of the values are not positive, the scale is linear next to 0.

    Args:
        axes: Matplotlib's axes, with all their curves.
        values: any numbers; NaN and infinity do not count.

    Example:
        >>> from matplotlib.figure import Figure
        >>> def scale(values):
        ...     axes = Figure().subplots()
        ...     set_scale(axes, values)
        ...     return axes.get_yscale()
        >>> scale([0.2, 1.0]), scale([0.01, 1.0]), scale([0.0, 0.01, 1.0])
        ('linear', 'log', 'symlog')
    """
    found = np.asarray(values, dtype=float)
    found = found[np.isfinite(found)]
    sizes = np.abs(found[found != 0])
    if not sizes.size or sizes.max() <= 10 * sizes.min():
        return
    if found.min() > 0:
        _set_log_scale(axes)
    else:
        near_zero = max(sizes.min(), sizes.max() / 10**_DECADES)
        axes.set_yscale("symlog", linthresh=float(near_zero))
        axes.yaxis.set_major_formatter("{x:g}")


def _set_log_scale(axes: Any) -> None:
    """Make the y axis logarithmic, with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1.0, 2.0, 5.0) if high < 10**_DECADES * low else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
