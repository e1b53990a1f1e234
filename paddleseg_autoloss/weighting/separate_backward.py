"""A backward pass for each loss, each with its own learning rate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddleseg_autoloss.checks import checked_lr_mult, one_for_each
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import GramianWeighting

__all__ = ["SeparateBackwardWeighting"]


class SeparateBackwardWeighting(GramianWeighting):
    r"""A separate backward pass for each loss, with a learning-rate multiplier :math:`m_i`.

    .. math:: d = \sum_i m_i g_i

    Is it better to add the losses up, or to call ``backward`` on each?  With multipliers of 1 and
    one joint step both are the same, because the gradient of a sum is the sum of the gradients.
    They differ if each loss has an optimizer step of its own.  With ``step: each`` the optimizer
    steps K times per iteration, in the order of the losses.  Each step uses one :math:`g_i` and the
    learning rate times :math:`m_i`; all K gradients are computed at the parameters from before the
    first step.  Adam then divides every loss's gradient by the same running magnitude, and momentum
    has an effect from one loss to the next.

    The weights are the multipliers; by default they sum to K.  In a joint step a multiplier scales
    the gradient; Adam removes a factor that all losses have in common.

    Args:
        num_losses: K, the number of losses.
        lr_mult: learning rate of each loss relative to the optimizer's, positive: one number for
            all losses, or a list with one for each.
        step: ``"joint"``: one optimizer step for all losses; ``"each"``: one step for each loss,
            one after the other.

    Raises:
        ConfigError: ``lr_mult`` has the wrong length or a value that is not positive, or ``step``
            is neither.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import SeparateBackwardWeighting
        >>> weighting = SeparateBackwardWeighting(2, lr_mult=[1, 0.5])
        >>> weighting(paddle.ones([2]), paddle.eye(2)).tolist()
        [1.0, 0.5]
    """

    config_name = "SeparateBackward"
    sums_to = "K"

    def __init__(
        self, num_losses: int, lr_mult: float | Sequence[float] = 1.0, step: str = "joint"
    ) -> None:
        super().__init__(num_losses)
        self.lr_mult = [checked_lr_mult(m) for m in one_for_each("lr_mult", lr_mult, num_losses)]
        if step not in ("joint", "each"):
            raise ConfigError(f"step: expected joint or each, found {step!r}")
        self.step = step
        self.substep_rates = self.lr_mult if step == "each" else None

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the multipliers, shape [K]."""
        return np.array(self.lr_mult)
