"""Impartial multi-task learning by Liu et al., both balances."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_lr_mult
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.imtl_g import impartial

__all__ = ["IMTLWeighting"]


class IMTLWeighting(GramianWeighting):
    r"""Learned scales of the losses and balanced gradients (IMTL, Liu et al. 2021).

    IMTL-L learns a scale :math:`e^{s_i}` of every loss.  IMTL-G balances the gradients of the
    scaled losses:

    .. math::
        \min_s \sum_i e^{s_i} L_i - s_i, \qquad
        d = \sum_i \alpha_i e^{s_i} g_i, \qquad
        \langle d, g_i \rangle / \lVert g_i \rVert \text{ the same for all } i, \qquad
        \sum_i \alpha_i = 1

    L. Liu, Y. Li, Z. Kuang, J.-H. Xue, Y. Chen, W. Yang, Q. Liao, W. Zhang, "Towards Impartial
    Multi-task Learning", ICLR 2021, hybrid balance.  The first formula determines s only; it scales
    a constant loss to 1, :math:`e^{s_i} = 1 / L_i`.  The balance of the gradients does not depend
    on their lengths.  So if all losses depend on all parameters, s changes the length of d and not
    its direction.  The weights are :math:`\alpha_i e^{s_i}`; they can be negative and have no fixed
    sum.  With :math:`s = 0`, as at the start, they are those of IMTL-G and have the scale of the
    losses' mean.

    Deviations:
        The paper does not bound s, so for a loss near 0 it would grow without limit.  Above
        ``s_max``, :math:`e^s` is extended by its tangent, up to 1.5 :math:`e^{s_{max}}`, and the
        penalty :math:`(s - s_{max})^2` is added, which stops s within 1/2 of ``s_max`` even for a
        loss that is exactly 0.  Below ``s_min`` the scale is constant, :math:`e^{s_{min}}`.
        Between the bounds the formula is unchanged.  For all possible losses, :math:`e^{s_i}` is at
        least 0.0009 and at most 1645, and the absolute values of the :math:`\alpha_i` sum to at
        most 10.  While a loss is negative, its s does not change.  With ``update_interval``, s
        learns only in the steps that update the weights.  The other deviations are those of
        `IMTLGWeighting`.

    Args:
        num_losses: K, the number of losses.
        lr_mult: learning rate of s relative to the optimizer's, positive.

    Attributes:
        s: the learned log scales, shape [K].

    Raises:
        ConfigError: ``lr_mult`` is not positive.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import IMTLWeighting
        >>> weighting = IMTLWeighting(2)
        >>> gramian = paddle.to_tensor([[9.0, -1.0], [-1.0, 1.0]])  # lengths 3 and 1
        >>> weighting(paddle.to_tensor([0.5, 4.0]), gramian).tolist()
        [0.25, 0.75]
        >>> weighting.penalty().backward()
        >>> weighting.s.grad.tolist()  # e^s L - 1
        [-0.5, 3.0]
    """

    config_name = "IMTL"
    parameter_name = "s"
    loss_range = "non-negative"
    scale = "mean"
    may_be_negative = True
    s_min = -7.0
    s_max = 7.0
    parameter_range = (s_min, s_max)

    def __init__(self, num_losses: int, lr_mult: float = 1.0) -> None:
        super().__init__(num_losses)
        self.lr_mult = checked_lr_mult(lr_mult)
        self.s = self.learnable(0.0, self.lr_mult)
        self._losses: np.ndarray | None = None

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, shape [K]."""
        self._losses = losses
        self.freeze_negative(paddle.to_tensor(losses, dtype="float32"))
        scales = self._scales(self.unfrozen()).numpy().astype("float64")
        return scales * impartial(gramian * np.outer(scales, scales))

    def penalty(self) -> Tensor | None:
        """Return 0 with the gradient of the objective with respect to s, 0-D."""
        if self._losses is None:
            return None
        losses = paddle.to_tensor(self._losses.clip(min=0), dtype="float32")
        self._losses = None
        s = self.unfrozen()
        objective = (self._scales(s) * losses - s + self._above(s) ** 2).sum()
        return objective - objective.detach()

    def _scales(self, s: Tensor) -> Tensor:
        above = self._above(s)
        # clip() has another slope at its lower bound in Paddle 2 than in Paddle 3.
        bounded = s - above + nn.functional.relu(self.s_min - s)
        return paddle.exp(bounded) * (1 + above.clip(max=0.5))

    def _above(self, s: Tensor) -> Tensor:
        return nn.functional.relu(s - self.s_max)
