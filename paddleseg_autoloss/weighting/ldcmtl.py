"""Loss discrepancy control by Xiao et al."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_lr_mult, checked_range
from paddleseg_autoloss.weighting.base import LossWeighting
from paddleseg_autoloss.weighting.objective import usable

__all__ = ["LDCMTLWeighting"]


class LDCMTLWeighting(LossWeighting):
    r"""Learned shares that keep neighbouring losses together (LDC-MTL, Xiao et al. 2025).

    Loss discrepancy control: the losses are first divided by the ratios r of their first values to
    the smallest of these, so that all start equal.  Network and shares :math:`\sigma` then minimise
    the weighted mean of these losses and the differences between neighbours:

    .. math::
        f = \sum_i \sigma_i \ell_i
            + \lambda \sum_{i=1}^{K-1} \lvert \sigma_i \ell_i - \sigma_{i+1} \ell_{i+1} \rvert,
        \qquad \ell_i = \frac{L_i}{r_i}, \quad
        r_i = \frac{L_i(0)}{\min_j L_j(0)}, \quad \sigma = \text{softmax}(\xi)

    This is the sum of the losses with the weights

    .. math::
        w_i = \frac{\sigma_i}{r_i} (1 + \lambda (s_i - s_{i-1})), \qquad
        s_i = \text{sign}(\sigma_i \ell_i - \sigma_{i+1} \ell_{i+1}), \quad s_0 = s_K = 0

    P. Xiao, C. Dong, S. Zou, K. Ji, "LDC-MTL: Balancing Multi-Task Learning through Scalable Loss
    Discrepancy Control", arXiv:2502.08585, in the form of the authors' code for NYUv2.  The order
    of three or more losses in the config matters.  No weight is negative; they have no fixed sum.
    If all losses are equal at the first step, the gradient has the scale of the losses' mean,
    otherwise of the mean of the :math:`\ell_i`.

    The mean alone would give all weight to the smallest loss, and :math:`\lambda` is what prevents
    this: two constant losses end at :math:`\sigma_1 \ell_1 = \sigma_2 \ell_2`, the larger one with
    the smaller share, if :math:`\lambda (\ell_1 + \ell_2) > \lvert \ell_1 - \ell_2 \rvert`.
    Otherwise the larger one gets the smallest possible share.

    Deviations:
        In the paper the softmax is fed by a small network on the features, so the shares depend on
        the batch; here the logits :math:`\xi` are learned directly.  Logits outside [-3, 3] count
        as -3 or 3, and the square of what is beyond is added to the total, which brings them back.
        So no share is less than 1 / 404 of another.  A first loss that is not above 1e-8 has the
        ratio 1 and is left out of the minimum.  Neighbours that differ by at most 1e-6 of the
        largest :math:`\sigma_i \ell_i` count as equal.  While a loss is negative, its :math:`\xi`
        does not change; its share changes only as far as the sum of all shares, 1, requires it.

    Args:
        num_losses: K, the number of losses.
        lamda: weight :math:`\lambda` of the differences, from 0 to 0.5; above 0.5 a weight could be
            negative.  The authors use 0.01 to 0.1, depending on the data.
        lr_mult: learning rate of :math:`\xi` relative to the optimizer's, positive.

    Attributes:
        xi: the learned logits of the shares, shape [K], initially 0.
        initial_losses: the first losses, shape [K], NaN before.

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import LDCMTLWeighting
        >>> weighting = LDCMTLWeighting(2, lamda=0.1)
        >>> weights = weighting(paddle.to_tensor([2.0, 1.0]))  # ratios 2 and 1: both losses are 1
        >>> [round(w, 4) for w in weights.tolist()]
        [0.25, 0.5]
        >>> weights = weighting(paddle.to_tensor([2.0, 0.5]))  # the second has fallen
        >>> [round(w, 4) for w in weights.tolist()]  # 1.1 and 0.9 times the weights before
        [0.275, 0.45]
    """

    config_name = "LDCMTL"
    parameter_name = "xi"
    loss_range = "non-negative"
    scale = "mean"
    xi_max = 3.0
    parameter_range = (-xi_max, xi_max)

    def __init__(self, num_losses: int, lamda: float = 0.05, lr_mult: float = 1.0) -> None:
        super().__init__(num_losses)
        self.lamda = checked_range("lamda", lamda, least=0, most=0.5)
        self.lr_mult = checked_lr_mult(lr_mult)
        self.xi = self.learnable(0.0, self.lr_mult)
        # NaN until the first call whose losses are finite.
        self.register_buffer("initial_losses", paddle.full([num_losses], float("nan")))

    def forward(self, losses: Tensor) -> Tensor:
        """Return the derivatives of f, shape [K]."""
        self.freeze_negative(losses)
        started = ~self.initial_losses.isnan().any()
        initial_losses = paddle.where(started, self.initial_losses, losses)
        self.remember(losses, initial_losses=initial_losses)
        shares = nn.functional.softmax(self.unfrozen().clip(-self.xi_max, self.xi_max))
        normalised = shares / self._ratios()
        return normalised * (1 + self.lamda * _slopes((normalised * losses).detach()))

    def penalty(self) -> Tensor:
        """Return the sum of the squares of what is beyond the bounds of the logits, 0-D."""
        return nn.functional.relu(self.unfrozen().abs() - self.xi_max).square().sum()

    def _ratios(self) -> Tensor:
        initial = self.initial_losses
        known = usable(initial)
        smallest = paddle.where(known, initial, paddle.full_like(initial, float("inf"))).min()
        return paddle.where(known, initial / smallest, paddle.ones_like(initial))


def _slopes(values: Tensor) -> Tensor:
    """Return the derivatives of the sum of absolute differences of neighbours, shape [K]."""
    extended = paddle.concat([values[:1], values, values[-1:]])
    differences = extended[:-1] - extended[1:]
    apart = differences.abs() > 1e-6 * values.abs().max()
    signs = paddle.where(apart, differences.sign(), paddle.zeros_like(differences))
    return signs[1:] - signs[:-1]
