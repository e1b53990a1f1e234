"""The loss balance of impartial multi-task learning by Liu et al."""

from __future__ import annotations

from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_lr_mult
from paddleseg_autoloss.weighting.base import LossWeighting

__all__ = ["IMTLLWeighting"]


class IMTLLWeighting(LossWeighting):
    r"""Learned scales that make the losses equal (IMTL-L, Liu et al. 2021).

    .. math:: \sum_i e^{s_i} L_i - s_i

    L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao, W. Zhang, "Towards Impartial
    Multi-task Learning", ICLR 2021.  For a constant loss, s converges to the value at which the
    weight :math:`e^{s_i}` is :math:`1 / L_i`, so every scaled loss is 1.  The weights are positive
    and have no fixed sum; the gradient has the scale of the losses' sum.  The total can be
    negative, because s can be positive; judge the training by the raw losses.

    Deviations:
        The paper does not bound s.  Here the weight has bounds: below ``s_min`` it is constant,
        :math:`e^{s_{min}}`; above ``s_max`` it is extended by its tangent, up to 1.5
        :math:`e^{s_{max}}`, and :math:`(s - s_{max})^2` is added to the penalty, which stops s
        within 1/2 of ``s_max`` even for a loss that is 0.  Between the bounds the formula is
        unchanged.  For all possible losses, the weight is at least 0.0009 and at most 1645.

        A negative loss would move its weight to the bound.  While a loss is negative, its s does
        not change.

    Args:
        num_losses: K, the number of losses.
        lr_mult: learning rate of s relative to the optimizer's, positive.

    Attributes:
        s: the learned logarithms of the weights, shape [K], initially 0.

    Raises:
        ConfigError: ``lr_mult`` is not positive.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import IMTLLWeighting
        >>> weighting = IMTLLWeighting(2)
        >>> losses = paddle.to_tensor([2.0, 0.5])
        >>> weighting(losses).tolist()
        [1.0, 1.0]
        >>> weighting.total(losses, weighting(losses)).backward()
        >>> weighting.s.grad.tolist()  # L - 1
        [1.0, -0.5]
    """

    config_name = "IMTLL"
    parameter_name = "s"
    loss_range = "non-negative"
    s_min = -7.0
    s_max = 7.0
    parameter_range = (s_min, s_max)

    def __init__(self, num_losses: int, lr_mult: float = 1.0) -> None:
        super().__init__(num_losses)
        self.lr_mult = checked_lr_mult(lr_mult)
        self.s = self.learnable(0.0, self.lr_mult)

    def forward(self, losses: Tensor) -> Tensor:
        """Return exp(s), bounded, shape [K]."""
        self.freeze_negative(losses)
        s = self.unfrozen()
        bounded = s.clip(self.s_min, self.s_max)
        return bounded.exp() * (1 + self._above(s).clip(max=0.5))

    def penalty(self) -> Tensor:
        """Return minus the sum of s, plus the penalty above ``s_max``, 0-D."""
        s = self.unfrozen()
        return (self._above(s) ** 2 - s).sum()

    def _above(self, s: Tensor) -> Tensor:
        return nn.functional.relu(s - self.s_max)
