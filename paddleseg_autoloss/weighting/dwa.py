"""Dynamic weight average by Liu, Johns and Davison."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.checks import checked_integer, checked_range
from paddleseg_autoloss.weighting.base import LossWeighting
from paddleseg_autoloss.weighting.objective import usable

__all__ = ["DWAWeighting"]


class DWAWeighting(LossWeighting):
    r"""Dynamic weight average (DWA, Liu et al. 2019).

    Losses that fell less than others over the last windows of iterations get a larger weight:

    .. math::
        r_i(t - 1) = \frac{\bar L_i(t - 1)}{\bar L_i(t - 2)}, \qquad
        w_i(t) = K \, \text{softmax}_i \frac{r_i(t - 1)}{T}

    where :math:`\bar L_i(t)` is the mean of loss i over window t.

    S. Liu, E. Johns, A. J. Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019,
    equation 7.  The weights are treated as constants in differentiation, are constant within a
    window, never negative, and sum to K, so the gradient has the scale of the losses' sum.  They
    are 1 in the first two windows.

    Deviations:
        The paper's window is an epoch.  Here it is a number of iterations, by default 25 as in the
        code of Navon et al. 2022.  The windows in that code overlap; these do not.  A loss whose
        mean was not above 1e-8 gets the rate 1.

    Args:
        num_losses: K, the number of losses.
        window: iterations in a window, at least 1.
        tau: the temperature T, at least 0.001; a large one makes the weights nearly equal.

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import DWAWeighting
        >>> weighting = DWAWeighting(2, window=1)
        >>> for losses in [2.0, 1.0], [1.0, 1.0], [1.0, 1.0]:
        ...     weights = weighting(paddle.to_tensor(losses))
        >>> [round(w, 4) for w in weights.tolist()]  # 2 softmax(0.5 / 2, 1 / 2)
        [0.8756, 1.1244]
    """

    config_name = "DWA"
    loss_range = "non-negative"
    sums_to = "K"

    def __init__(self, num_losses: int, window: int = 25, tau: float = 2.0) -> None:
        super().__init__(num_losses)
        self.window = checked_integer("window", window, least=1)
        self.tau = checked_range("tau", tau, least=1e-3)
        self.register_buffer("weights", paddle.ones([num_losses]))
        self.register_buffer("count", paddle.to_tensor(0, dtype="int64"))
        self.register_buffer("losses_sum", paddle.zeros([num_losses]))
        # NaN until a window is full.
        self.register_buffer("mean_prev", paddle.full([num_losses], float("nan")))

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the weights of the current window, shape [K], detached."""
        weights = self.weights.clone()
        count, losses_sum = self.count + 1, self.losses_sum + losses
        full = count >= self.window
        mean = losses_sum / self.window
        both = full & ~self.mean_prev.isnan().any()
        self.remember(
            losses,
            weights=paddle.where(both, self._balance(mean), self.weights),
            count=paddle.where(full, paddle.zeros_like(count), count),
            losses_sum=paddle.where(full, paddle.zeros_like(mean), losses_sum),
            mean_prev=paddle.where(full, mean, self.mean_prev),
        )
        return weights

    def _balance(self, mean: Tensor) -> Tensor:
        known = usable(self.mean_prev)
        ones = paddle.ones_like(mean)
        rate = mean / paddle.where(known, self.mean_prev, ones)
        # The bound prevents an overflow from becoming NaN.
        rate = paddle.where(known, rate, ones).clip(-1e30, 1e30)
        return self.num_losses * nn.functional.softmax(rate / self.tau)
