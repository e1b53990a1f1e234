"""Gradient sign dropout by Chen et al."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_range, one_for_each
from paddleseg_autoloss.weighting.base import JacobianWeighting, nearest_weights
from paddleseg_autoloss.weighting.draws import Draws

__all__ = ["GradDropWeighting"]


class GradDropWeighting(JacobianWeighting):
    r"""Gradient sign dropout (GradDrop, Chen et al. 2020).

    Every coordinate of the gradient gets a random sign, and gradients with the other sign are
    dropped at this coordinate.  The more the gradients agree, the more probable is their sign:

    .. math::
        P &= \frac{1}{2} \left( 1 + \frac{\sum_i g_i}{\sum_i |g_i|} \right) \\
        M_i &= [P > U] \, [g_i > 0] + [P < U] \, [g_i < 0] \\
        d &= \sum_i (\ell_i + (1 - \ell_i) M_i) \, g_i

    for every coordinate separately.  U is drawn from the uniform distribution on [0, 1], and
    :math:`\ell_i` are the leaks.

    Z. Chen, J. Ngiam, Y. Huang, T. Luong, H. Kretzschmar, Y. Chai, D. Anguelov, "Just Pick a Sign:
    Optimizing Deep Multitask Models with Gradient Sign Dropout", NeurIPS 2020, algorithm 1, where f
    is the identity.  At every coordinate, d has the sign of one of the gradients.  If all gradients
    agree, d is their sum.  The displayed weights are those whose combination of the gradients is
    closest to d; some may be negative, and they have no fixed sum.

    Deviations:
        The paper drops signs in the gradients with respect to an activation that the losses share,
        multiplied by the activation's sign and added up over the batch.  Here the gradients are
        those with respect to the parameters, as in TorchJD.  A coordinate at which all gradients
        are 0 stays at 0.

    Args:
        num_losses: K, the number of losses.
        leak: share of a gradient that is never dropped, from 0 to 1: one number for all losses, or
            a list with one for each loss.

    Raises:
        ConfigError: ``leak`` has the wrong length or a value out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import GradDropWeighting
        >>> jacobian = paddle.to_tensor([[1.0, -2.0, 3.0], [1.0, -1.0, -1.0]])
        >>> update, _ = GradDropWeighting(2).update(paddle.ones([2]), jacobian)
        >>> update[:2].tolist()  # no conflict
        [2.0, -3.0]
        >>> float(update[2]) in (3.0, -1.0)  # 3 with probability 3/4
        True
    """

    config_name = "GradDrop"
    may_be_negative = True

    def __init__(self, num_losses: int, leak: float | Sequence[float] = 0.0) -> None:
        super().__init__(num_losses)
        leaks = one_for_each("leak", leak, num_losses)
        self.leak = [checked_range("leak", value, least=0, most=1) for value in leaks]
        self.draws = Draws()

    @paddle.no_grad()
    def update(self, losses: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return d, shape [n], and the weights that are closest to it, shape [K]."""
        # A seed other than 0 does not change the state of Paddle's own generator.
        seed = int(self.draws.next().integers(1, 2**31 - 1))
        size = [jacobian.shape[1]]
        goes_up = _purity(jacobian) > paddle.uniform(size, "float32", min=0, max=1, seed=seed)
        update = paddle.zeros(size, dtype="float32")
        for row, leak in zip(jacobian, self.leak):
            dropped = (row > 0).logical_xor(goes_up)
            update.add_(paddle.where(dropped, row * leak, row))
        return update, nearest_weights(jacobian, update)


def _purity(jacobian: Tensor) -> Tensor:
    """Return P as the share of the positive gradients: exactly 1 or 0 if all agree."""
    positive, magnitude = (paddle.zeros([jacobian.shape[1]], dtype="float32") for _ in range(2))
    for row in jacobian:
        positive.add_(row.clip(min=0))
        magnitude.add_(row.abs())
    return positive / magnitude.clip(min=1e-38)
