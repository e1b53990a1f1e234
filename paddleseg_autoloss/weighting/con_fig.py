"""Conflict-free inverse gradients by Liu et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.imtl_g import equal_projections

__all__ = ["ConFIGWeighting"]


class ConFIGWeighting(GramianWeighting):
    r"""The update at equal angles to all gradients (ConFIG, Liu et al. 2024).

    With :math:`u_i = g_i / \lVert g_i \rVert`, the direction has the same positive inner product
    with all of them, and the length is what the gradients give along it together:

    .. math::
        v = [u_1, \dots, u_K]^{-T} 1, \qquad
        d = \Big( \sum_i \Big\langle g_i, \frac{v}{\lVert v \rVert} \Big\rangle \Big)
            \frac{v}{\lVert v \rVert}

    with the Moore-Penrose inverse.  It lies in the span of the gradients:
    :math:`v = \sum_i x_i u_i`, :math:`x = C^{+} 1` with the cosines C, so d follows from the
    Gramian.

    Q. Liu, M. Chu, N. Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", ICLR 2025, arXiv:2408.11104, with equal weights of the directions.  Weights can be
    negative from three losses on.  For gradients of one length that are orthogonal or parallel they
    are all 1: the scale of the losses' sum.

    Deviations:
        Eigenvalues of C below :math:`10^{-5}`, which single precision cannot tell from 0, count as
        0.  Where v is 0 (two opposite gradients), so is d; the weights are then the limit, the mean
        of the :math:`\lVert g_j \rVert` over :math:`\lVert g_i \rVert`.  Linearly dependent
        gradients that allow no common angle get the least-squares solution, which can conflict with
        some of them.  A loss without gradient takes no part and gets weight 0; 1 if none has one.

    Args:
        num_losses: K, the number of losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import ConFIGWeighting
        >>> weighting = ConFIGWeighting(2)  # lengths 3 and 1, mean 2
        >>> weights = weighting(paddle.ones([2]), paddle.to_tensor([[9.0, -1.0], [-1.0, 1.0]]))
        >>> [round(w, 4) for w in weights.tolist()]  # 2/3, 2/1
        [0.6667, 2.0]
    """

    may_be_negative = True

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, shape [K]."""
        lengths = np.sqrt(np.diag(gramian))
        some = lengths > 0
        if not some.any():
            return np.ones(len(gramian))
        lengths = lengths[some]
        x, projections = equal_projections(gramian[np.ix_(some, some)])
        # |v|^2 is x C x, the sum of x; the limit for v = 0 has equal x and projections.
        size = lengths @ projections if projections.any() else lengths.sum()
        weights = np.zeros(len(gramian))
        weights[some] = x * size / (x.sum() * lengths)
        return weights
