"""The plain sum of the losses."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddleseg_autoloss.weighting.base import LossWeighting

__all__ = ["SumWeighting"]


class SumWeighting(LossWeighting):
    r"""The sum of the losses, every weight 1: :math:`\sum_i L_i`.

    The baseline of every comparison of weighting methods.  The weights sum to K.

    Args:
        num_losses: K, the number of losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import SumWeighting
        >>> SumWeighting(2)(paddle.to_tensor([0.5, 0.25])).tolist()
        [1.0, 1.0]
    """

    config_name = "Sum"
    sums_to = "K"

    def forward(self, losses: Tensor) -> Tensor:
        """Return ones, shape [K]."""
        return paddle.ones_like(losses)
