"""Dual balancing by Lin et al."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.tensors import length
from paddleseg_autoloss.weighting.base import JacobianWeighting

__all__ = ["DBMTLWeighting"]


class DBMTLWeighting(JacobianWeighting):
    r"""Dual balancing of losses and gradients (DB-MTL, Lin et al. 2023).

    The losses are balanced by their logarithms: the gradient of a logarithm does not depend on the
    scale of the loss.  The gradients are averaged over time, and all averages are scaled to the
    length of the longest one:

    .. math::
        \hat g_i(t) &= \beta_t \, \hat g_i(t-1) + (1 - \beta_t) \, \nabla \log L_i(t),
        \qquad \beta_t = \beta / t^\sigma \\
        d &= \sum_i \alpha_i \, \hat g_i, \qquad
        \alpha_i = \frac{\max_j \lVert \hat g_j \rVert}{\lVert \hat g_i \rVert}

    B. Lin, W. Jiang, F. Ye, Y. Zhang, P. Chen, Y.-C. Chen, S. Liu, I. W. Tsang, J. T. Kwok,
    "Dual-Balancing for Multi-Task Learning", arXiv:2308.12029.  The displayed weights are
    :math:`\alpha_i / L_i`, which are the factors of :math:`g_i` if the gradients do not change over
    time.  No weight is negative, and they have no fixed sum.  d has the scale of the sum of the
    logarithms: it does not change when a loss is multiplied by a number.

    Deviations:
        The averages begin with the first gradients.  LibMTL begins with 0, so its first update is
        :math:`1 - \beta` times the first gradient, and the updates grow for about ten steps.  A
        loss of 0 or less, a loss so near to 0 that the slope of its logarithm overflows, and a loss
        with zero gradient are left out of this step; their averages do not change.  Otherwise an
        average would decay, but would be scaled to the full length again.  All trainable parameters
        are balanced, including those of the heads.

    Args:
        num_losses: K, the number of losses.
        beta: share of the past average, from 0 to 1.
        sigma: how fast :math:`\beta_t` decreases, at least 0; with 0 it is always beta.

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import DBMTLWeighting
        >>> weighting = DBMTLWeighting(2)
        >>> jacobian = paddle.to_tensor([[3.0, 0.0], [0.0, 0.5]])
        >>> update, weights = weighting.update(paddle.to_tensor([1.0, 0.5]), jacobian)
        >>> update.tolist()  # (3, 0) and (0, 1), stretched to 3
        [3.0, 3.0]
        >>> weights.tolist()
        [1.0, 6.0]
    """

    config_name = "DBMTL"
    loss_range = "positive"
    update_is_weighted_sum = True
    matrices = ("average",)

    def __init__(self, num_losses: int, beta: float = 0.9, sigma: float = 0.0) -> None:
        super().__init__(num_losses)
        self.beta = checked_range("beta", beta, least=0, most=1)
        self.sigma = checked_range("sigma", sigma, least=0)
        self.register_buffer("started", paddle.zeros([num_losses], dtype="float32"))

    @paddle.no_grad()
    def update(self, losses: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return d, shape [n], and alpha / L, shape [K]."""
        self.prepare(jacobian.shape[1])
        beta = self.beta / self.next_step() ** self.sigma
        positive = losses > 1e-30
        divisor = paddle.where(positive, losses, paddle.ones_like(losses))
        slopes = _lengths(jacobian) / divisor
        # Longer gradients could sum to infinity.
        heard = (positive & (slopes > 0) & (slopes < 1e36)).astype("float32")
        kept = 1 - heard + heard * self.started * beta
        self.average.multiply_(kept.unsqueeze(1))
        self.average.add_(jacobian * (heard * (1 - self.started * beta) / divisor).unsqueeze(1))
        self.started.set_value(paddle.maximum(self.started, heard))

        lengths = _lengths(self.average) * heard
        alpha = heard * lengths.max() / paddle.where(lengths > 0, lengths, paddle.ones_like(losses))
        alpha = alpha.clip(max=3e38)
        return alpha @ self.average, (alpha / divisor).clip(max=3e38)


def _lengths(matrix: Tensor) -> Tensor:
    # On a CPU, a sum along an axis has an error of a thousandth; the sum of a vector does not.
    return paddle.stack([length(row) for row in matrix])
