"""Conflict-free inverse gradients by Liu et al."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddleseg_autoloss.checks import checked_preference
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import LEAST_EIGENVALUE, certainty, directions

__all__ = ["ConFIGWeighting"]


class ConFIGWeighting(GramianWeighting):
    r"""The update at equal angles to all gradients (ConFIG, Liu et al. 2024).

    With :math:`u_i = g_i / \lVert g_i \rVert`, the direction has positive inner products with all
    of them, in proportion to the preferences p, which are equal by default.  The length is the sum
    of the projections of all gradients onto it:

    .. math::
        v = [u_1, \dots, u_K]^{-T} p, \qquad
        d = \Big( \sum_i \Big\langle g_i, \frac{v}{\lVert v \rVert} \Big\rangle \Big)
            \frac{v}{\lVert v \rVert}

    with the Moore-Penrose inverse.  The direction is in the span of the gradients:
    :math:`v = \sum_i x_i u_i`, :math:`x = C^{+} p` with the cosines C, so d follows from the
    Gramian.

    Q. Liu, M. Chu, N. Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", ICLR 2025, arXiv:2408.11104, equation 2.  With three or more losses, or unequal
    preferences, weights can be negative.  If the gradients have the same length and are orthogonal
    or parallel, and the preferences are equal, all weights are 1: the scale of the losses' sum.

    Deviations:
        The paper's pseudo-inverse jumps when gradients become linearly dependent.  Just before, d
        is almost 0, or has a direction in which the gradients still differ.  After that, d is the
        least-squares solution, which can conflict with some gradients.  Single precision cannot
        separate the two cases.  So here d changes from one to the other without a jump, while the
        smallest eigenvalue of C falls below :math:`10^{-5}`.  In any case
        :math:`\lVert d \rVert \le \sum_i \lVert g_i \rVert`.  If v is 0 (two opposite gradients), d
        is 0, and the weights are their limit, with equal preferences the mean of the
        :math:`\lVert g_j \rVert` over :math:`\lVert g_i \rVert`.  A loss with zero gradient is left
        out and gets weight 0; if all gradients are zero, all weights are 1. d jumps when a gradient
        becomes zero, because the direction of this gradient jumps.

    Args:
        num_losses: K, the number of losses.
        pref_vector: how important each loss is: K numbers of at least 0, in the order of the
            losses, not all 0; only their ratios matter.  By default all losses are alike.

    Raises:
        ConfigError: ``pref_vector`` is not such a list.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import ConFIGWeighting
        >>> weighting = ConFIGWeighting(2)  # lengths 3 and 1, mean 2
        >>> weights = weighting(paddle.ones([2]), paddle.to_tensor([[9.0, -1.0], [-1.0, 1.0]]))
        >>> [round(w, 4) for w in weights.tolist()]  # 2/3, 2/1
        [0.6667, 2.0]
    """

    config_name = "ConFIG"
    may_be_negative = True

    def __init__(self, num_losses: int, pref_vector: Sequence[float] | None = None) -> None:
        super().__init__(num_losses)
        self.pref_vector = pref_vector
        self._preference = np.array(checked_preference("pref_vector", pref_vector, num_losses))

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, shape [K]."""
        weights = np.zeros(len(gramian))
        some, lengths, cosines = directions(gramian)
        if not len(some):
            return np.ones(len(gramian))
        preference = self._preference[some]
        if not preference.any():
            return weights
        values, vectors = np.linalg.eigh(cosines)
        sums = certainty(values) * (vectors * preference[:, None]).sum(axis=0)
        if sums @ sums < 1e-10:
            # This is the limit: x is in proportion to the preferences.
            size = (lengths * preference).sum() / (preference * preference).sum()
            weights[some] = preference * size / lengths
            return weights
        x = vectors @ (sums / np.maximum(values, LEAST_EIGENVALUE))
        projections = cosines @ x
        weights[some] = x * (lengths @ projections) / (x @ projections) / lengths
        return weights
