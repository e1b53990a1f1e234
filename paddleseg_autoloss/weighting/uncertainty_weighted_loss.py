"""Homoscedastic uncertainty weighting by Kendall, Gal and Cipolla."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_choice, checked_lr_mult, checked_number, one_for_each
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import LossWeighting

__all__ = ["UncertaintyWeighting"]

#: Factor of exp(-s) L in each form.
_FORMS = {"classification": 1.0, "regression": 0.5}


class UncertaintyWeighting(LossWeighting):
    r"""Weights from learned task uncertainty (Kendall et al. 2018).

    With :math:`s_i = \log \sigma_i^2`, the contribution of each loss depends on its form:

    .. math::
        \text{regression:}\quad & \tfrac{1}{2} e^{-s_i} L_i + \tfrac{1}{2} s_i \\
        \text{classification:}\quad & e^{-s_i} L_i + \tfrac{1}{2} s_i

    A. Kendall, Y. Gal, R. Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene
    Geometry and Semantics", CVPR 2018, equations 7 (regression, a Gaussian likelihood) and 10
    (classification, a softmax scaled by :math:`1/\sigma^2`), written in s, which the paper
    recommends for numerical stability.

    For a constant loss, s converges to the value at which the weight is :math:`1 / (2 L)`.  This
    weight is the same in both forms; s differs by :math:`\log 2`.  In the regression form with
    squared errors :math:`\sigma^2 = e^{s}` is the variance of the residuals.  Dice, Lovasz and
    other overlap losses are not negative log likelihoods; in either form their s is only a learned
    scale, and ``classification`` is the usual choice because it starts at weight 1.  The total can
    be negative, because s can be negative; judge the training by the raw losses.  The weights have
    no fixed sum.

    Deviations:
        The paper does not bound s.  Here the weight has bounds: above ``s_max`` it is constant,
        :math:`e^{-s_{max}}`; below ``s_min`` it is extended by its tangent, up to 1.5
        :math:`e^{-s_{min}}`, and :math:`\tfrac{1}{2} (s_{min} - s)^2` is added to the penalty,
        which stops s within 1/2 of ``s_min`` even for a loss that is exactly 0.  Between the bounds
        the formula is unchanged.  For all possible losses, the weight is at least 0.0009 and at
        most 1645, in the regression form half of that.

        A likelihood never gives a negative loss; a negative loss would move its weight to the
        bound.  While a loss is negative, its s does not change.

    Args:
        num_losses: K, the number of losses.
        form: ``"classification"`` or ``"regression"``: one for all losses, or a list with one for
            each.
        init: initial value of every s, within [s_min, s_max].
        lr_mult: learning rate of s relative to the optimizer's, positive.

    Attributes:
        s: the learned log variances, shape [K].

    Raises:
        ConfigError: ``form`` has an unknown value or the wrong length, ``init`` is out of bounds or
            ``lr_mult`` is not positive.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import UncertaintyWeighting
        >>> weighting = UncertaintyWeighting(2, form=["classification", "regression"])
        >>> weighting(paddle.to_tensor([1.0, 0.5])).tolist()
        [1.0, 0.5]
    """

    config_name = "UncertaintyWeightedLoss"
    parameter_name = "s"
    loss_range = "non-negative"
    s_min = -7.0
    s_max = 7.0
    parameter_range = (s_min, s_max)

    def __init__(
        self,
        num_losses: int,
        form: str | Sequence[str] = "classification",
        init: float = 0.0,
        lr_mult: float = 1.0,
    ) -> None:
        super().__init__(num_losses)
        self.form = form
        self.init = checked_number("init", init)
        self.lr_mult = checked_lr_mult(lr_mult)
        if not self.s_min <= init <= self.s_max:
            raise ConfigError(
                f"init: expected a number in [{self.s_min}, {self.s_max}], found {init!r}"
            )
        self.s = self.learnable(self.init, self.lr_mult)
        self.register_buffer("factor", _form_factors(form, num_losses), persistable=False)

    def forward(self, losses: Tensor) -> Tensor:
        """Return exp(-s) or exp(-s) / 2 by form, bounded, shape [K]."""
        self.freeze_negative(losses)
        s = self.unfrozen()
        below = self._below(s)
        # clip() has another slope at its lower bound in Paddle 2 than in Paddle 3.
        bounded = (s + below).clip(max=self.s_max)
        return self.factor * paddle.exp(-bounded) * (1 + below.clip(max=0.5))

    def penalty(self) -> Tensor:
        """Return the sum of s / 2 and of the penalty below ``s_min``, 0-D."""
        s = self.unfrozen()
        return 0.5 * (s + self._below(s) ** 2).sum()

    def _below(self, s: Tensor) -> Tensor:
        return nn.functional.relu(self.s_min - s)


def _form_factors(form: str | Sequence[str], num_losses: int) -> Tensor:
    forms = one_for_each("form", form, num_losses)
    factors = [_FORMS[checked_choice("form", name, [*_FORMS])] for name in forms]
    return paddle.to_tensor(factors, dtype="float32")
