"""SoftAdapt by Heydari, Thompson and Mehmood."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_choice, checked_number
from paddleseg_autoloss.weighting.base import LossWeighting

__all__ = ["SoftAdaptWeighting"]


class SoftAdaptWeighting(LossWeighting):
    r"""Softmax of the changes of the losses (SoftAdapt, Heydari et al. 2019).

    Losses that decreased less than others since the previous step get a larger weight:

    .. math::
        \text{original:}\quad & w_i = \text{softmax}_i (\beta s_i),
            \quad s_i = L_i(t) - L_i(t - 1) \\
        \text{normalized:}\quad & w_i = \text{softmax}_i (\beta s_i / \textstyle\sum_j |s_j|) \\
        \text{loss_weighted:}\quad & w_i = \frac{L_i e^{\beta s_i}}{\sum_j L_j e^{\beta s_j}}

    A. A. Heydari, C. A. Thompson, A. Mehmood, "SoftAdapt: Techniques for Adaptive Loss Weighting of
    Neural Networks with Multi-Part Loss Functions", arXiv:1912.12355, section 3.1.  The weights are
    treated as constants in differentiation, never negative, and sum to 1, so the gradient has the
    scale of the losses' mean.  At the first step they are 1 / K.

    Deviations:
        The slope is the difference of two steps; the authors' code also offers differences of
        higher order.  That code divides the normalized slopes by their sum, which can be 0; here
        the divisor is the sum of their absolute values.  ``loss_weighted`` accepts losses of at
        least 0, and is the same as ``original`` if no loss is positive; the other variants accept
        all losses.  A step whose losses are not all finite does not change the stored state and
        gets the weights 1 / K.

    Args:
        num_losses: K, the number of losses.
        beta: factor of the slopes; a negative one favours the losses that decrease fastest.
        variant: ``"original"``, ``"normalized"`` or ``"loss_weighted"``.

    Raises:
        ConfigError: ``beta`` is not a number or ``variant`` is none of the three.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import SoftAdaptWeighting
        >>> weighting = SoftAdaptWeighting(2, beta=1)
        >>> weighting(paddle.to_tensor([2.0, 1.0])).tolist()
        [0.5, 0.5]
        >>> weights = weighting(paddle.to_tensor([1.0, 1.0]))  # softmax(-1, 0)
        >>> [round(w, 4) for w in weights.tolist()]
        [0.2689, 0.7311]
    """

    config_name = "SoftAdapt"
    sums_to = "1"
    scale = "mean"

    def __init__(self, num_losses: int, beta: float = 0.1, variant: str = "original") -> None:
        super().__init__(num_losses)
        self.beta = checked_number("beta", beta)
        variants = ["original", "normalized", "loss_weighted"]
        self.variant = checked_choice("variant", variant, variants)
        if variant == "loss_weighted":
            self.loss_range = "non-negative"
        # NaN until the first call.
        self.register_buffer("losses_prev", paddle.full([num_losses], float("nan")))

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the weights, shape [K], detached."""
        slopes = losses - self.losses_prev
        known = slopes.isfinite().all()
        if self.variant == "normalized":
            slopes = _divide(slopes, slopes.abs().sum())
        weights = nn.functional.softmax(self.beta * slopes)
        if self.variant == "loss_weighted":
            sizes = weights * losses.clip(min=0)
            weights = paddle.where(sizes.sum() > 0, _divide(sizes, sizes.sum()), weights)
        self.remember(losses, losses_prev=losses)
        return paddle.where(known, weights, paddle.full_like(losses, 1 / self.num_losses))


def _divide(numbers: Tensor, divisor: Tensor) -> Tensor:
    return numbers / paddle.where(divisor > 0, divisor, paddle.ones_like(divisor))
