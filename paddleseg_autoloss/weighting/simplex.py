"""The simplex: weights that are not negative and sum to 1."""

from __future__ import annotations

import numpy as np

__all__ = ["onto_simplex"]


def onto_simplex(point: np.ndarray) -> np.ndarray:
    """Return the point of the simplex that is closest to a given point, shape [K].

    It is ``max(point - threshold, 0)``, where the threshold makes the sum 1.

    Args:
        point: shape [K]; if a number of it is not finite, the result is NaN.

    Examples:
        >>> import numpy as np
        >>> from paddleseg_autoloss.weighting.simplex import onto_simplex
        >>> onto_simplex(np.array([1.5, 0.7, -2.0])).round(4).tolist()
        [0.9, 0.1, 0.0]
    """
    if not np.isfinite(point).all():
        return np.full(len(point), np.nan)
    # A constant changes nothing, and large numbers would leave no digits for the 1.
    point = point - point.max()
    descending = np.sort(point)[::-1]
    thresholds = (np.cumsum(descending) - 1) / np.arange(1, len(point) + 1)
    (above,) = np.nonzero(descending > thresholds)
    return np.maximum(point - thresholds[above[-1]], 0)
