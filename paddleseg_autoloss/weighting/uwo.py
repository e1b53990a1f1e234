"""Optimal uncertainty weighting by Kirchdorfer et al."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddleseg_autoloss.weighting.base import LossWeighting
from paddleseg_autoloss.weighting.objective import reciprocal

__all__ = ["UWOWeighting"]


class UWOWeighting(LossWeighting):
    r"""Inverse losses as weights (UW-O, Kirchdorfer et al. 2024).

    The optimal weight of uncertainty weighting has a closed form and need not be learned:

    .. math:: w_i = \frac{1}{L_i}

    L. Kirchdorfer, C. Elich, S. Kutsche, H. Stuckenschmidt, L. Schott, J. M. Köhler, "Analytical
    Uncertainty-Based Loss Weighting in Multi-Task Learning", GCPR 2024 (arXiv:2408.07985).  The
    weights are treated as constants in differentiation, never negative, and have no fixed sum; the
    gradient has the scale of the losses' sum.  The weighted sum is always K: judge the training by
    the raw losses.  The gradient is that of `ScaleInvariantWeighting`, whose total is more
    informative.

    Deviations:
        A loss that is not above 1e-8 has no usable reciprocal: it gets the weight 0, and the others
        are weighted without it.  In the paper's form, :math:`1 / (L_i + 10^{-8})`, it would get a
        weight of about 1e8.

    Args:
        num_losses: K, the number of losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import UWOWeighting
        >>> UWOWeighting(3)(paddle.to_tensor([2.0, 0.5, 0.0])).tolist()
        [0.5, 2.0, 0.0]
    """

    config_name = "UWO"
    loss_range = "positive"

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the reciprocals, shape [K], detached."""
        return reciprocal(losses)
