"""Relative loss balancing with random lookback by Bischof and Kraus."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import LossWeighting
from paddleseg_autoloss.weighting.draws import Draws

__all__ = ["RelobraloWeighting"]


class RelobraloWeighting(LossWeighting):
    r"""Relative loss balancing with random lookback (ReLoBRaLo, Bischof and Kraus 2021).

    Losses that decreased less than others get a larger weight.  They are compared with the previous
    step and, at random, with the first step:

    .. math::
        \lambda^{bal}_i(t, t') &= K \, \text{softmax}_i \frac{L_i(t)}{\tau L_i(t') + \epsilon} \\
        \lambda^{hist}_i &= \rho \lambda_i(t-1) + (1 - \rho) \lambda^{bal}_i(t, 0) \\
        \lambda_i(t) &= \alpha \lambda^{hist}_i + (1 - \alpha) \lambda^{bal}_i(t, t-1)

    where :math:`\rho` is drawn at every step: 1 with probability :math:`\beta`, otherwise 0.

    R. Bischof, M. Kraus, "Multi-Objective Loss Balancing for Physics-Informed Deep Learning",
    arXiv:2110.09813, section 3.  At the first step all weights are 1.  They are treated as
    constants in differentiation, never negative, and sum to K.

    Deviations:
        The defaults are PaddleScience's; the authors' code has alpha 0.999 and beta 1.  A step
        whose losses are not all finite does not change the stored state and gets the previous
        weights.

    Args:
        num_losses: K, the number of losses.
        alpha: share of the past weights, from 0 to 1.
        beta: probability of comparing with the previous step and not with the first, from 0 to 1.
        tau: temperature, at least 0; small values favour the loss that decreased least, and 0
            favours the largest loss.
        eps: prevents a division by 0 for a loss of 0.

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import RelobraloWeighting
        >>> weighting = RelobraloWeighting(2, alpha=0.0)
        >>> weighting(paddle.to_tensor([1.0, 1.0])).tolist()
        [1.0, 1.0]
        >>> weights = weighting(paddle.to_tensor([0.5, 1.0]))  # 2 softmax(0.5, 1)
        >>> [round(w, 4) for w in weights.tolist()]
        [0.7551, 1.2449]
    """

    config_name = "Relobralo"
    loss_range = "non-negative"
    sums_to = "K"

    def __init__(
        self,
        num_losses: int,
        alpha: float = 0.95,
        beta: float = 0.99,
        tau: float = 1.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(num_losses)
        self.alpha = checked_range("alpha", alpha, least=0, most=1)
        self.beta = checked_range("beta", beta, least=0, most=1)
        self.tau = checked_range("tau", tau, least=0)
        self.eps = checked_range("eps", eps, least=0)
        if self.tau == self.eps == 0:
            raise ConfigError("tau: expected a number above 0 where eps is 0, found 0")
        self.draws = Draws()
        # NaN until the first call whose losses are finite.
        self.register_buffer("losses_init", paddle.full([num_losses], float("nan")))
        self.register_buffer("losses_prev", paddle.full([num_losses], float("nan")))
        self.register_buffer("lmbda", paddle.ones([num_losses]))

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return lambda, shape [K], detached."""
        looks_back = self.draws.next().random() >= self.beta
        started = ~self.losses_init.isnan().any()
        hist = self._balance(losses, self.losses_init) if looks_back else self.lmbda
        lmbda = self.alpha * hist + (1 - self.alpha) * self._balance(losses, self.losses_prev)
        self.remember(
            losses,
            lmbda=paddle.where(started, lmbda, self.lmbda),
            losses_init=paddle.where(started, self.losses_init, losses),
            losses_prev=losses,
        )
        return self.lmbda.clone()

    def _balance(self, losses: Tensor, reference: Tensor) -> Tensor:
        return self.num_losses * nn.functional.softmax(losses / (self.tau * reference + self.eps))
