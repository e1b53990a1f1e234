"""Automatic weighting by Liebel and Koerner."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_lr_mult, checked_number
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import LossWeighting

__all__ = ["AutoWeighting"]


class AutoWeighting(LossWeighting):
    r"""Learned weights with a positive regulariser (Liebel and Koerner 2018).

    .. math:: \sum_i \frac{1}{2 c_i^2} L_i + \ln(1 + c_i^2)

    L. Liebel, M. Koerner, "Auxiliary Tasks in Multi-task Learning", arXiv:1805.06334, the combined
    loss of section 3.2.  The regulariser is never negative, so the total stays positive for
    non-negative losses, unlike Kendall's ``log(sigma)``.  For a constant loss the parameter
    converges to :math:`c^2 = (L + \sqrt{L^2 + 8 L}) / 4`, so a small loss gets about the weight
    :math:`1 / \sqrt{2 L}`.  The weights have no fixed sum.

    Deviations:
        :math:`1 / (2 c^2)` has a pole at 0: one step near it makes c so large that the weight of
        the loss stays near 0 forever.  Below :math:`c^2 = \delta^2`, :math:`\delta = 0.1`, the
        weight is extended by its tangent in :math:`c^2`,
        :math:`(2 - c^2 / \delta^2) / (2 \delta^2)`, minus :math:`c (\delta^2 - c^2)`, which is at
        most a thousandth and prevents c from staying at 0.  This weight is at most about 100, its
        slope is at most :math:`1 / \delta^3`, and it moves c away from 0 as long as
        :math:`L > 2 \delta^4`.  Only a loss below that, 2e-4, moves c near 0.  If such a loss grows
        again, one step of SGD can move c by the learning rate times :math:`L / \delta^3`, and it
        takes many steps to undo this; Adam is safe, because its steps do not depend on the slope.
        For all possible losses, the weight is positive and at most 100.001.

        A negative loss would move its weight to that bound.  While a loss is negative, its c does
        not change.

    Args:
        num_losses: K, the number of losses.
        init: initial value of every c, not 0.
        lr_mult: learning rate of c relative to the optimizer's, positive.

    Attributes:
        c: the learned parameters, shape [K].

    Raises:
        ConfigError: ``init`` is 0 or ``lr_mult`` is not positive.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import AutoWeighting
        >>> weighting = AutoWeighting(2)
        >>> weighting(paddle.to_tensor([1.0, 0.5])).tolist()
        [0.5, 0.5]
        >>> round(float(weighting.penalty()), 4)  # 2 ln 2
        1.3863
    """

    config_name = "AutoWeightedLoss"
    parameter_name = "c"
    loss_range = "non-negative"
    delta = 0.1
    parameter_range = (delta, math.inf)

    def __init__(self, num_losses: int, init: float = 1.0, lr_mult: float = 1.0) -> None:
        super().__init__(num_losses)
        self.init = checked_number("init", init)
        self.lr_mult = checked_lr_mult(lr_mult)
        if init == 0:
            raise ConfigError("init: expected a number other than 0, found 0")
        self.c = self.learnable(self.init, self.lr_mult)

    def forward(self, losses: Tensor) -> Tensor:
        """Return 1 / (2 c^2), or its tangent below ``delta``, shape [K]."""
        self.freeze_negative(losses)
        c = self.unfrozen()
        square = c * c
        below = nn.functional.relu(self.delta**2 - square)
        return 0.5 / square.clip(min=self.delta**2) + below * (0.5 / self.delta**4 - c)

    @classmethod
    def is_at_bound(cls, value: float) -> bool:
        """Return whether a c, whose sign does not count, is at most ``delta``."""
        return super().is_at_bound(abs(value))

    def penalty(self) -> Tensor:
        """Return the sum of ln(1 + c^2), 0-D."""
        c = self.unfrozen()
        return paddle.log1p(c * c).sum()
