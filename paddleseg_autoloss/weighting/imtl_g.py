"""The gradient balance of impartial multi-task learning, by Liu et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import LEAST_EIGENVALUE, certainty, directions

__all__ = ["IMTLGWeighting", "impartial"]

#: The square of what rounding can make of a 0 in a sum over an eigenvector, with a margin.
_ROUNDING = 1e-6


class IMTLGWeighting(GramianWeighting):
    r"""The update that has equal projections onto all gradients (IMTL-G, Liu et al. 2021).

    No loss shall be served better than another: with :math:`u_i = g_i / \lVert g_i \rVert`,

    .. math::
        d = \sum_i \alpha_i g_i, \qquad \langle d, u_i \rangle = \langle d, u_j \rangle, \qquad
        \sum_i \alpha_i = 1

    which is :math:`\alpha \propto G^{-1} (\lVert g_1 \rVert, \dots, \lVert g_K \rVert)^T`, or
    :math:`\alpha_i \lVert g_i \rVert = x_i` with :math:`x \propto C^{-1} 1` and the cosines C.

    L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao, W. Zhang, "Towards Impartial
    Multi-task Learning", ICLR 2021, gradient balance.  For two losses
    :math:`\alpha_i \propto 1 / \lVert g_i \rVert`; from three on weights can be negative.  They sum
    to 1, the scale of the losses' mean, but a loss whose gradient is much shorter than the others'
    takes most of that, and d becomes as short as its gradient.

    Deviations:
        The sum that :math:`\alpha` is divided by can be 0 or negative, where the paper's weights
        become infinite or make every loss ascend.  It is at least a tenth of
        :math:`\sum_i |\alpha_i|` here, so that d always keeps its direction and the sizes of the
        weights sum to at most 10.  Hence :math:`\lVert d \rVert \le 10 \rho \max_i \lVert g_i
        \rVert` with :math:`\rho \le 1` the distance from 0 to the plane through all
        :math:`u_i`, but for eigenvalues of C below :math:`10^{-8}`, which are raised to that.

        Linearly dependent gradients allow no projection but 0, so d goes to 0 with :math:`\rho`.
        Gradients that become parallel are the exception: the limit of the paper's d depends on how
        they do.  It is that of equal gradients here, which share a weight.  In single precision
        that begins where two are a thousandth apart; d changes fast there but does not jump.
        A loss without gradient gets weight 0, but 1 / K if none has one; d jumps there, as
        the direction of a gradient does.

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
    """Return a positive multiple of C^-1 1 or, where C is singular, of its limit, shape [m].

    Args:
        cosines: C, of gradients that are not 0, shape [m, m].
    """
    values, vectors = np.linalg.eigh(cosines)
    sums = vectors.sum(axis=0)
    doubt = 1 - certainty(values)
    # Parallel gradients have a sum of 0 there, which a small eigenvalue must not magnify.
    square = doubt @ sums**2
    counted = 1 - doubt * _ROUNDING / (_ROUNDING + square)
    return vectors @ (counted * sums / np.maximum(values, LEAST_EIGENVALUE))
