"""The coordinate-wise trimmed mean by Yin et al."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_integer
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import JacobianWeighting, nearest_weights

__all__ = ["TrimmedMeanWeighting"]

#: Number of coordinates that are processed at once; temporary memory is several times as large.
_CHUNK = 2**20


class TrimmedMeanWeighting(JacobianWeighting):
    r"""The mean of the gradients without the extremes (trimmed mean, Yin et al. 2018).

    At every coordinate the b largest and the b smallest of the K gradients are left out, so no
    single loss can dominate the update:

    .. math::
        d_k = \frac{1}{K - 2 b} \sum_{i=b+1}^{K-b} g_{(i) k}

    where :math:`g_{(1) k} \le \dots \le g_{(K) k}` are the sorted gradients at coordinate k.

    D. Yin, Y. Chen, K.  Ramchandran, P. Bartlett, "Byzantine-Robust Distributed Learning: Towards
    Optimal Statistical Rates", ICML 2018, definition 2.  d has the scale of the mean of the losses,
    and at every coordinate it is between the gradients.  The displayed weights are those whose
    combination of the gradients is closest to d; some may be negative, and they have no fixed sum.

    Deviations:
        In the paper every gradient has a value for every parameter.  Here only the losses of an
        auxiliary head depend on its parameters.  The zeros of the other losses would be the middle
        values, and the head would never train.  So a loss whose gradient is exactly 0 at a
        coordinate is ignored there.  Of the m gradients that are not 0, b are left out on each
        side, or fewer so that at least one is left; the mean of the rest is multiplied by m / K.

    Args:
        num_losses: K, the number of losses, at least 2 b + 1.
        trim: b, the number of the largest and also of the smallest gradients that are left out.

    Raises:
        ConfigError: ``trim`` is negative or leaves no gradient.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import TrimmedMeanWeighting
        >>> jacobian = paddle.to_tensor([[1.0, 5.0], [2.0, -9.0], [700.0, 6.0]])
        >>> update, _ = TrimmedMeanWeighting(3).update(paddle.ones([3]), jacobian)
        >>> update.tolist()  # the medians
        [2.0, 5.0]
    """

    config_name = "TrimmedMean"
    scale = "mean"
    may_be_negative = True
    least_losses = 3

    def __init__(self, num_losses: int, trim: int = 1) -> None:
        super().__init__(num_losses)
        self.trim = checked_integer("trim", trim, least=0)
        if num_losses < 2 * trim + 1:
            raise ConfigError(
                f"trim: expected at most {(num_losses - 1) // 2} with {num_losses} losses, "
                f"found {trim}"
            )

    @paddle.no_grad()
    def update(self, losses: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return d, shape [n], and the weights that are closest to it, shape [K]."""
        starts = range(0, jacobian.shape[1], _CHUNK)
        update = paddle.concat([self._mean(jacobian[:, k : k + _CHUNK]) for k in starts])
        return update, nearest_weights(jacobian, update)

    def _mean(self, jacobian: Tensor) -> Tensor:
        rows = _in_order(list(jacobian))
        voters = paddle.zeros_like(rows[0])
        for row in rows:
            # In Paddle 2, comparisons treat numbers below 1e-8 as equal to 0.
            voters.add_((row.abs() > 0).astype("float32"))
        low = ((voters - 1) / 2).floor().clip(min=0, max=self.trim)
        high = voters - low
        total = paddle.zeros_like(voters)
        for before, row in enumerate(rows):
            # Zeros are in the middle: among the numbers that are not 0, a negative one has the same
            # number before it, and a positive one the same number after it.
            behind = len(rows) - before
            negative = (row < 0) & (low <= before) & (before < high)
            positive = (row > 0) & (low < behind) & (behind <= high)
            total.add_(paddle.where(negative | positive, row, paddle.zeros_like(row)))
        return total / (high - low).clip(min=1) * (voters / len(rows))


def _in_order(rows: list[Tensor]) -> list[Tensor]:
    """Return rows with the same numbers, sorted at every coordinate.

    For a few long rows this is many times faster than Paddle's sort.
    """
    for end in range(len(rows) - 1, 0, -1):
        for i in range(end):
            rows[i], rows[i + 1] = (
                paddle.minimum(rows[i], rows[i + 1]),
                paddle.maximum(rows[i], rows[i + 1]),
            )
    return rows
