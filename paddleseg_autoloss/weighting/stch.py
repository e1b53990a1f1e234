"""Smooth Tchebycheff scalarization by Lin et al."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import (
    checked_integer,
    checked_preference,
    checked_range,
    checked_reference,
)
from paddleseg_autoloss.weighting.objective import (
    ObjectiveWeighting,
    logarithm,
    masked_softmax,
    reciprocal,
    usable,
)

__all__ = ["STCHWeighting"]


class STCHWeighting(ObjectiveWeighting):
    r"""Smooth Tchebycheff scalarization (STCH, Lin et al. 2024).

    The method minimises a smooth maximum of the ratios of the losses to the nadir z, which are
    their means over a warm-up.  The loss with the largest ratio gets most of the weight.  With the
    preferences :math:`\lambda_i`, by default 1:

    .. math::
        f = K \mu \log \sum_i \exp \frac{\lambda_i \log (L_i / z_i)}{\mu}, \qquad
        w_i = \frac{K \lambda_i}{L_i} \, \text{softmax}_i \frac{\lambda_i \log (L_i / z_i)}{\mu}

    In the warm-up the function is :math:`f = \sum_i \lambda_i \log L_i`, with
    :math:`w_i = \lambda_i / L_i`.  If there is a reference point, L is the difference from it.

    X. Lin, X. Zhang, Z. Yang, F. Liu, Z. Wang, Q. Zhang, "Smooth Tchebycheff Scalarization for
    Multi-Objective Optimization", ICML 2024 (arXiv:2402.19078), in the form of the authors' code
    for networks, which uses logarithms.  The weights are treated as constants in differentiation,
    never negative, and have no fixed sum; the gradient has the scale of the losses' sum.  The total
    can be negative.

    Deviations:
        The authors' warm-up is a number of epochs (in LibMTL 4, and the mean is over one more);
        here it is a number of iterations, and the mean is over all of them.  Their preferences are
        uniform, and in the warm-up there are none; here :math:`\lambda` has the mean 1, and the
        warm-up has the limit of f for a large :math:`\mu`.  TorchJD has no logarithms, nadir or
        warm-up: its f of the values :math:`\log (L_i / z_i)` with the preferences
        :math:`\lambda_i / K` and :math:`\mu / K` is this f divided by :math:`K^2`.  A loss that is
        not above 1e-8 has no usable logarithm: it gets the weight 0, and the others are weighted
        without it.  A loss whose mean over the warm-up is not above 1e-8 is compared with 1.

    Args:
        num_losses: K, the number of losses.
        mu: smoothness of the maximum, at least 0.001; a small one gives all weight to the worst
            loss, a large one gives the weights of the warm-up.
        warmup: iterations until the nadir is known, at least 1.
        weights: the preferences :math:`\lambda`, K numbers of at least 0, in the order of the
            losses, not all 0; only their ratios matter.  By default all losses are alike.
        reference: the ideal point of the paper, K numbers in the order of the losses: a lower bound
            of each, by default 0.

    Raises:
        ConfigError: an argument is out of its range, ``weights`` is no preference, or ``reference``
            is no list of K numbers.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import STCHWeighting
        >>> weighting = STCHWeighting(2, warmup=1)
        >>> weighting(paddle.to_tensor([2.0, 1.0])).tolist()
        [0.5, 1.0]
        >>> weights = weighting(paddle.to_tensor([1.0, 1.0]))  # L / z is 0.5 and 1
        >>> [round(w, 4) for w in weights.tolist()]
        [0.6667, 1.3333]
    """

    config_name = "STCH"
    loss_range = "positive"

    def __init__(
        self,
        num_losses: int,
        mu: float = 1.0,
        warmup: int = 1000,
        weights: Sequence[float] | None = None,
        reference: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_losses)
        self.mu = checked_range("mu", mu, least=1e-3)
        self.warmup = checked_integer("warmup", warmup, least=1)
        self.weights = weights
        self.reference = reference
        lmbda = checked_preference("weights", weights, num_losses)
        least = checked_reference("reference", reference, num_losses)
        self.register_buffer("lmbda", paddle.to_tensor(lmbda, dtype="float32"), persistable=False)
        self.register_buffer("least", paddle.to_tensor(least, dtype="float32"), persistable=False)
        self.register_buffer("step", paddle.to_tensor(0, dtype="int64"))
        self.register_buffer("losses_sum", paddle.zeros([num_losses]))

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the weights, shape [K], detached."""
        losses = losses - self.least
        step = self.step + 1
        warm = step <= self.warmup
        losses_sum = paddle.where(warm, self.losses_sum + losses, self.losses_sum)
        self.remember(losses, step=step, losses_sum=losses_sum)
        shares = self.num_losses * masked_softmax(self._logits(losses), usable(losses))
        shares = paddle.where(warm, paddle.ones_like(shares), shares)
        return self.lmbda * shares * reciprocal(losses)

    def objective(self, losses: Tensor) -> Tensor:
        """Return the smooth maximum, or in the warm-up the sum of the logarithms, 0-D."""
        losses = losses - self.least
        mask, logits = usable(losses), self._logits(losses)
        logits = paddle.where(mask, logits, paddle.full_like(logits, -1e30))
        maximum = self.num_losses * self.mu * logits.logsumexp()
        maximum = paddle.where(mask.any(), maximum, paddle.zeros_like(maximum))
        logarithms = (self.lmbda * logarithm(losses)).sum()
        return paddle.where(self.step <= self.warmup, logarithms, maximum)

    @property
    def lower_bounds(self) -> Tensor:
        """The reference point, shape [K]."""
        return self.least

    def _logits(self, losses: Tensor) -> Tensor:
        """Return what is in the exponential function, from losses minus the reference point."""
        ratios = logarithm(losses) - logarithm(self.losses_sum / self.warmup)
        return self.lmbda * ratios / self.mu
