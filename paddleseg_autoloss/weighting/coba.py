"""CoBa, the convergence balancer by Gong et al."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor
from scipy.special import softmax

from paddleseg_autoloss.checks import checked_integer, checked_range
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import HeldOutLossWeighting, with_floor

__all__ = ["CoBaWeighting"]

#: Longest window: all its losses are kept in memory and in every checkpoint.
_MOST_WINDOW = 100_000


class CoBaWeighting(HeldOutLossWeighting):
    r"""Weights from the slopes of the held-out losses (CoBa, Gong et al. 2024).

    All losses should converge on held-out data at the same pace, and none should rise again.
    :math:`\alpha_i(t)` is the slope of a straight line through the last N held-out losses, each
    divided by the first one.  Losses that fall slowly get a high relative convergence score (RCS);
    losses that fall faster than they did before get a high absolute one (ACS):

    .. math::
        \text{RCS}_i &= \text{softmax}_i \Big( K \frac{\alpha_i(t)}{\sum_j |\alpha_j(t)|} \Big),
        \qquad \text{ACS}_i = \text{softmax}_i \Big( -N
            \frac{\alpha_i(t)}{\sum_{u} |\alpha_i(u)|} \Big) \\
        w &= K \, (\text{DF} \cdot \text{RCS} + (1 - \text{DF}) \cdot \text{ACS}), \qquad
        \text{DF} = \min \Big( 1, \; N \, \text{softmax}_u \Big( -\tau N
            \frac{\alpha_{\max}(u)}{\sum_{u'} |\alpha_{\max}(u')|} \Big)_{u = t} \Big)

    :math:`\alpha_{\max}` is the slope of the largest of the divided losses, and u goes over the
    last N slopes.  The divergence factor DF falls if this slope rises.

    Z. Gong, H. Yu, C. Liao, B. Liu, J. Chen, J. Li, "CoBa: Convergence Balancer for Multitask
    Finetuning of Large Language Models", EMNLP 2024 (arXiv:2410.06741).  It needs one forward pass
    of a held-out batch for each look and no gradients.  It knows no target: it balances the losses
    on held-out data.

    Deviations:
        The weights sum to K, not to 1.  The paper's DF goes over all slopes; here it goes over the
        last N, so the memory has a fixed size.  The authors' code passes the result through one
        more softmax, which is left out; its least share of 1 / (10 K) is the default here, but
        only the shares below it are raised, where the code moves all shares towards 1 / K.  In the
        code the slopes begin at the end of the warm-up, here at the second look, and the network is
        in evaluation mode in a look; here it is in training mode, as for all methods with held-out
        images.

    Args:
        num_losses: K, the number of losses.
        window: N, looks in a slope, from 2 to 100000.
        warmup: looks before the weights change, from 2 to N.
        tau: :math:`\tau`, how fast DF falls, at least 0.
        floor: the least share of each loss, from 0 to 1 / K; None for 1 / (10 K).

    Attributes:
        history: the last N held-out losses, divided by the first ones, shape [K, N].
        slopes: the last N slopes of the losses and of the largest one, shape [K + 1, N].
        first: the first held-out losses that are all above 0, shape [K].
        num_looks: number of looks so far.

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import CoBaWeighting
        >>> weighting = CoBaWeighting(2, window=2, warmup=2)
        >>> weighting(paddle.to_tensor([1.0, 4.0])).tolist()
        [1.0, 1.0]
        >>> weights = weighting(paddle.to_tensor([0.5, 4.0]))  # the first falls, the second stays
        >>> [round(w, 4) for w in weights.tolist()]
        [0.2384, 1.7616]
    """

    config_name = "CoBa"
    sums_to = "K"
    loss_range = "positive"
    least_losses = 2

    def __init__(
        self,
        num_losses: int,
        window: int = 20,
        warmup: int = 5,
        tau: float = 5.0,
        floor: float | None = None,
    ) -> None:
        super().__init__(num_losses)
        self.warmup = checked_integer("warmup", warmup, least=2)
        self.window = checked_integer("window", window, least=2, most=_MOST_WINDOW)
        if self.window < self.warmup:
            raise ConfigError(
                f"window: expected at least the {self.warmup} looks of warmup, found {self.window}"
            )
        self.tau = checked_range("tau", tau, least=0)
        self.floor = floor
        if floor is not None:
            self.floor = checked_range("floor", floor, least=0, most=1 / num_losses)
        self.register_memory("history", np.zeros([num_losses, window]))
        self.register_memory("slopes", np.zeros([num_losses + 1, window]))
        self.register_memory("first", np.zeros(num_losses))
        self.register_memory("num_looks", 0)

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the weights, shape [K], detached; losses that are not finite change nothing."""
        values = losses.numpy().astype("float64")
        if np.isfinite(values).all():
            self._note(values)
        shares = with_floor(self._shares(), self._least_share())
        return paddle.to_tensor(self.num_losses * shares, dtype="float32")

    def _note(self, losses: np.ndarray) -> None:
        looks = int(self.num_looks) + 1
        if looks == 1:
            # Nothing can be divided by a loss of 0, as of a batch whose pixels are all ignored.
            if (losses <= 0).any():
                return
            self.first.set_value(losses)
        ratios = losses / self.first.numpy()
        history = np.column_stack([self.history.numpy()[:, 1:], ratios])
        known = history[:, -min(looks, self.window) :]
        self.num_looks.set_value(np.asarray(looks))
        self.history.set_value(history)
        if looks >= 2:
            slopes = _slopes(np.vstack([known, known.max(axis=0)]))
            self.slopes.set_value(np.column_stack([self.slopes.numpy()[:, 1:], slopes]))

    def _shares(self) -> np.ndarray:
        count, looks = self.num_losses, int(self.num_looks)
        if looks < self.warmup:
            return np.full(count, 1 / count)
        slopes = self.slopes.numpy()[:, -min(looks - 1, self.window) :]
        of_losses, of_largest = slopes[:-1], slopes[-1]
        number = len(of_largest)
        now = of_losses[:, -1]
        relative = softmax(count * _part(now, np.abs(now).sum()))
        absolute = softmax(-number * _part(now, np.abs(of_losses).sum(axis=1)))
        fall = softmax(-self.tau * number * _part(of_largest, np.abs(of_largest).sum()))[-1]
        factor = min(1.0, number * fall)
        return factor * relative + (1 - factor) * absolute

    def _least_share(self) -> float:
        return 1 / (10 * self.num_losses) if self.floor is None else self.floor


def _slopes(series: np.ndarray) -> np.ndarray:
    """Return the slopes of the straight lines through some series, by least squares."""
    times = np.arange(series.shape[1]) - (series.shape[1] - 1) / 2
    return series @ times / (times @ times)


def _part(values: np.ndarray, total: np.ndarray) -> np.ndarray:
    return values / np.where(total > 0, total, 1)
