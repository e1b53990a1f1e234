"""The gradient balance of impartial multi-task learning, by Liu et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import LEAST_EIGENVALUE, certainty, directions

__all__ = ["IMTLGWeighting", "impartial"]

#: The square of the rounding error of a sum over an eigenvector, with a margin.
_ROUNDING = 1e-6


class IMTLGWeighting(GramianWeighting):
    r"""The update that has equal projections onto all gradients (IMTL-G, Liu et al. 2021).

    No loss should improve more than another: with :math:`u_i = g_i / \lVert g_i \rVert`,

    .. math::
        d = \sum_i \alpha_i g_i, \qquad \langle d, u_i \rangle = \langle d, u_j \rangle, \qquad
        \sum_i \alpha_i = 1

    which is :math:`\alpha \propto G^{-1} (\lVert g_1 \rVert, \dots, \lVert g_K \rVert)^T`, or
    :math:`\alpha_i \lVert g_i \rVert = x_i` with :math:`x \propto C^{-1} 1` and the cosines C.

    L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao, W. Zhang, "Towards Impartial
    Multi-task Learning", ICLR 2021, gradient balance.  For two losses
    :math:`\alpha_i \propto 1 / \lVert g_i \rVert`; with three or more losses, weights can be
    negative.  They sum to 1, the scale of the losses' mean.  But a loss whose gradient is much
    shorter than the others gets most of the weight, and d becomes as short as this gradient.

    Deviations:
        The sum by which :math:`\alpha` is divided can be 0 or negative; the paper's weights then
        become infinite or increase every loss.  Here the divisor is at least a tenth of
        :math:`\sum_i |\alpha_i|`.  So d always keeps its direction, and the absolute values of the
        weights sum to at most 10.  It follows that
        :math:`\lVert d \rVert \le 10 \rho \max_i \lVert g_i \rVert` where :math:`\rho \le 1` is the
        distance from 0 to the plane through all :math:`u_i`, except that eigenvalues of C below
        :math:`10^{-8}` are set to :math:`10^{-8}`.

        For linearly dependent gradients the equal projections can only be 0, so d goes to 0 with
        :math:`\rho`.  Gradients that become parallel are an exception: the limit of the paper's d
        depends on how they become parallel.  Here it is the limit for equal gradients, which share
        a weight.  In single precision this begins when the difference of two unit vectors is a
        thousandth; d changes fast there but does not jump.  A loss with zero gradient gets weight
        0; if all gradients are zero, all weights are 1 / K. d jumps when a gradient becomes zero,
        because the direction of this gradient jumps.

    Args:
        num_losses: K, the number of losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import IMTLGWeighting
        >>> weighting = IMTLGWeighting(2)  # lengths 3 and 1
        >>> weighting(paddle.ones([2]), paddle.to_tensor([[9.0, -1.0], [-1.0, 1.0]])).tolist()
        [0.25, 0.75]
    """

    config_name = "IMTLG"
    sums_to = "1 or less"
    scale = "mean"
    may_be_negative = True

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, shape [K]."""
        return impartial(gramian)


def impartial(gramian: np.ndarray) -> np.ndarray:
    """Return alpha, the weights of IMTL-G, shape [K].

    Args:
        gramian: inner products of the gradients, shape [K, K].
    """
    some, lengths, cosines = directions(gramian)
    if not len(some):
        return np.full(len(gramian), 1 / len(gramian))
    alpha = np.zeros(len(gramian))
    alpha[some] = _solution(cosines) / lengths
    return alpha / max(alpha.sum(), 0.1 * np.abs(alpha).sum())


def _solution(cosines: np.ndarray) -> np.ndarray:
    """Return a positive multiple of C^-1 1 or, if C is singular, of its limit, shape [m].

    Args:
        cosines: C, of gradients that are not 0, shape [m, m].
    """
    values, vectors = np.linalg.eigh(cosines)
    sums = vectors.sum(axis=0)
    doubt = 1 - certainty(values)
    # For parallel gradients this sum is 0, and a small eigenvalue must not amplify its rounding
    # error.
    square = doubt @ sums**2
    counted = 1 - doubt * _ROUNDING / (_ROUNDING + square)
    return vectors @ (counted * sums / np.maximum(values, LEAST_EIGENVALUE))
