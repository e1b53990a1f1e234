"""How much of the exact update is left if the weights come from something cheaper."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["fidelity"]


def fidelity(gramian: np.ndarray, weights: np.ndarray, exact: np.ndarray) -> float:
    r"""Return the cosine of the angle between two updates, each a weighted sum of the gradients.

    With the gradients of the losses as the rows of J and their Gramian :math:`G = J J^T`,

    .. math:: \cos(J^T w, J^T w^*) = \frac{w^T G w^*}{\sqrt{w^T G w}\,\sqrt{w^{*T} G w^*}}.

    Only the Gramian is needed, not the gradients.  The size of the updates does not count.

    Args:
        gramian: the exact inner products of the gradients, finite, shape [K, K].
        weights: the weights to judge, shape [K].
        exact: the weights of the exact method, shape [K].

    Returns:
        A number from -1 to 1; 1 for the same direction, NaN if one of the updates is zero.

    Example:
        >>> import numpy as np
        >>> round(fidelity(np.diag([1.0, 4.0]), np.array([1.0, 1.0]), np.array([1.0, 0.0])), 3)
        0.447
    """
    # A common factor keeps the squares of tiny or huge gradients inside the range of a double.
    scaled = gramian / max(float(np.abs(gramian).max()), np.finfo(float).tiny)
    lengths = math.sqrt(max(float(weights @ scaled @ weights), 0.0)) * math.sqrt(
        max(float(exact @ scaled @ exact), 0.0)
    )
    return float(weights @ scaled @ exact) / lengths if lengths > 0 else math.nan
