"""The gradient balance of impartial multi-task learning, by Liu et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.weighting.base import GramianWeighting

__all__ = ["IMTLGWeighting", "equal_projections", "impartial"]


class IMTLGWeighting(GramianWeighting):
    r"""The update that has equal projections onto all gradients (IMTL-G, Liu et al. 2021).

    No loss shall be served better than another: with :math:`u_i = g_i / \lVert g_i \rVert`,

    .. math::
        d = \sum_i \alpha_i g_i, \qquad \langle d, u_i \rangle = \langle d, u_j \rangle, \qquad
        \sum_i \alpha_i = 1

    which is :math:`\alpha \propto G^{+} (\lVert g_1 \rVert, \dots, \lVert g_K \rVert)^T`.

    L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao, W. Zhang, "Towards Impartial
    Multi-task Learning", ICLR 2021, gradient balance.  For two losses
    :math:`\alpha_i \propto 1 / \lVert g_i \rVert`; from three on weights can be negative.  They sum
    to 1, the scale of the losses' mean, but a loss whose gradient is much shorter than the others'
    takes most of that, and d becomes as short as its gradient.

    Deviations:
        The sum that :math:`\alpha` is divided by can be 0 or negative, where the paper's weights
        become infinite or make every loss ascend.  It is at least a tenth of
        :math:`\sum_i |\alpha_i|` here, so that d always keeps its direction and the sizes of the
        weights sum to at most 10.  The inverse is the pseudo-inverse of the cosines, whose
        eigenvalues below :math:`10^{-5}` single precision cannot tell from 0.  Where no d has a
        projection other than 0 (two opposite gradients), :math:`\alpha_i \propto 1 / \lVert g_i
        \rVert`, the limit.  A loss without gradient gets weight 0, but 1 / K if none has one.

    Args:
        num_losses: K, the number of losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import IMTLGWeighting
        >>> weighting = IMTLGWeighting(2)  # lengths 3 and 1
        >>> weighting(paddle.ones([2]), paddle.to_tensor([[9.0, -1.0], [-1.0, 1.0]])).tolist()
        [0.25, 0.75]
    """

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
    lengths = np.sqrt(np.diag(gramian))
    some = lengths > 0
    if not some.any():
        return np.full(len(gramian), 1 / len(gramian))
    alpha = np.zeros(len(gramian))
    alpha[some] = equal_projections(gramian[np.ix_(some, some)])[0] / lengths[some]
    return alpha / max(alpha.sum(), 0.1 * np.abs(alpha).sum())


def equal_projections(gramian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return x with :math:`\sum_i x_i u_i` in equal projection onto all, and the projections.

    The least-squares solution where there is no other; all 1, and projections of 0, where even that
    is 0.

    Args:
        gramian: inner products of gradients, none of them 0, shape [K, K].
    """
    lengths = np.sqrt(np.diag(gramian))
    values, vectors = np.linalg.eigh(gramian / np.outer(lengths, lengths))
    kept = vectors[:, values > 1e-5]
    along = kept.sum(axis=0)
    if along @ along < 1e-10:
        return np.ones(len(gramian)), np.zeros(len(gramian))
    return kept @ (along / values[values > 1e-5]), kept @ along
