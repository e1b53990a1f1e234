"""Penalty-based boundary intersection by Zhang and Li."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.objective import ObjectiveWeighting, deviations, polar

__all__ = ["PBIWeighting"]


class PBIWeighting(ObjectiveWeighting):
    r"""Penalty-based boundary intersection (PBI, Zhang and Li 2007).

    The losses should be small and, because of a penalty, proportional to a preference r, which is
    uniform here:

    .. math::
        f = d_1 + \theta d_2, \qquad d_1 = L \cdot \hat r, \quad
        d_2 = \lVert L - d_1 \hat r \rVert, \qquad
        w = \hat r + \theta \frac{L - d_1 \hat r}{d_2}, \quad \hat r_i = \frac{1}{\sqrt K}

    In other words :math:`\sqrt K` times the mean of the losses plus :math:`\theta` times their
    standard deviation.

    Q. Zhang, H. Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", IEEE
    Transactions on Evolutionary Computation 2007.  The weights are treated as constants in
    differentiation and sum to :math:`\sqrt K`.  They are often negative: training then increases a
    loss that is far below the mean; a head that is trained by this loss only becomes worse.  The
    gradient has :math:`\sqrt K` times the scale of the losses' mean.

    Deviations:
        The ideal point is 0 and the preference uniform.  Losses that differ by at most 1e-6 of the
        largest count as equal: :math:`d_2` then has no gradient, and every weight is
        :math:`1 / \sqrt K`.  The weights are the same if a loss is not finite.

    Args:
        num_losses: K, the number of losses.
        theta: penalty on the difference of the losses, at least 0; for values above
            :math:`1 / \sqrt{K - 1}` weights can be negative.

    Raises:
        ConfigError: ``theta`` is negative.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import PBIWeighting
        >>> weighting = PBIWeighting(4, theta=0.5)
        >>> losses = paddle.to_tensor([3.0, 1.0, 3.0, 1.0])
        >>> weighting(losses).tolist()
        [0.75, 0.25, 0.75, 0.25]
        >>> float(weighting.total(losses, weighting(losses)))  # 4 + 0.5 * 2
        5.0
    """

    config_name = "PBI"
    loss_range = "non-negative"
    sums_to = "sqrt(K)"
    scale = "sqrt(K)"
    may_be_negative = True

    def __init__(self, num_losses: int, theta: float = 5.0) -> None:
        super().__init__(num_losses)
        self.theta = checked_range("theta", theta, least=0)

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the derivatives, shape [K], detached."""
        _, direction = polar(deviations(losses))
        weights = 1 / math.sqrt(self.num_losses) + self.theta * direction
        uniform = paddle.full_like(losses, 1 / math.sqrt(self.num_losses))
        return paddle.where(losses.isfinite().all(), weights, uniform)

    def objective(self, losses: Tensor) -> Tensor:
        """Return d1 + theta d2, 0-D."""
        d1 = math.sqrt(self.num_losses) * losses.mean()
        d2, _ = polar(deviations(losses))
        return d1 + self.theta * d2
