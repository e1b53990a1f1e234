"""Soft optimal uncertainty weighting by Kirchdorfer et al."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.base import LossWeighting
from paddleseg_autoloss.weighting.objective import masked_softmax, reciprocal, usable

__all__ = ["UWSOWeighting"]


class UWSOWeighting(LossWeighting):
    r"""Softmax of the inverse losses (UW-SO, Kirchdorfer et al. 2024).

    The optimal weight of uncertainty weighting has a closed form: 1 divided by the loss.  This
    method takes the softmax of these weights with a temperature T, so small losses get more weight:

    .. math:: w_i = \text{softmax}_i \frac{1}{T L_i}

    L. Kirchdorfer, C. Elich, S. Kutsche, H. Stuckenschmidt, L. Schott, J. M. Köhler, "Analytical
    Uncertainty-Based Loss Weighting in Multi-Task Learning", GCPR 2024 (arXiv:2408.07985).  The
    weights are treated as constants in differentiation, never negative, and sum to 1, so the
    gradient has the scale of the losses' mean.

    Deviations:
        A loss that is not above 1e-8 has no usable reciprocal: it gets the weight 0, and the others
        are weighted without it.  In the paper a loss near 0 gets all the weight.  If no loss is
        above 1e-8, all weights are 1 / K.

    Args:
        num_losses: K, the number of losses.
        tau: the temperature T, at least 0.001; a large one makes the weights nearly equal.  The
            paper tunes it for each data set: the larger the losses, the smaller it must be.

    Raises:
        ConfigError: ``tau`` is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import UWSOWeighting
        >>> weights = UWSOWeighting(2)(paddle.to_tensor([1.0, 0.5]))  # softmax(1, 2)
        >>> [round(w, 4) for w in weights.tolist()]
        [0.2689, 0.7311]
    """

    config_name = "UWSO"
    loss_range = "positive"
    sums_to = "1"
    scale = "mean"

    def __init__(self, num_losses: int, tau: float = 1.0) -> None:
        super().__init__(num_losses)
        self.tau = checked_range("tau", tau, least=1e-3)

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the softmax, shape [K], detached."""
        return masked_softmax(reciprocal(losses) / self.tau, usable(losses))
