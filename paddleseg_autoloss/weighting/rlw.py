"""Random loss weighting by Lin et al."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_choice
from paddleseg_autoloss.weighting.base import LossWeighting
from paddleseg_autoloss.weighting.draws import Draws

__all__ = ["RLWWeighting"]


class RLWWeighting(LossWeighting):
    r"""Random weights, drawn at every step (RLW, Lin et al. 2022).

    This is a baseline: a useful method should be better.

    .. math::
        \text{normal:}\quad & w = \text{softmax}(z), \quad z \sim N(0, I) \\
        \text{dirichlet:}\quad & w \sim \text{Dirichlet}(1, \dots, 1)

    B. Lin, F. Ye, Y. Zhang, I. W. Tsang, "Reasonable Effectiveness of Random Weighting: A Litmus
    Test for Multi-Task Learning", TMLR 2022 (arXiv:2111.10603).  The weights are never negative and
    sum to 1, so the gradient has the scale of the losses' mean.  They do not depend on the losses:
    permuting the losses does not permute the weights.

    Deviations:
        none.

    Args:
        num_losses: K, the number of losses.
        distribution: ``"normal"``, or ``"dirichlet"``, which is uniform over all weights that sum
            to 1.

    Raises:
        ConfigError: ``distribution`` is neither.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import RLWWeighting
        >>> weights = RLWWeighting(3)(paddle.ones([3]))
        >>> round(float(weights.sum()), 4)
        1.0
    """

    config_name = "RLW"
    sums_to = "1"
    scale = "mean"

    def __init__(self, num_losses: int, distribution: str = "normal") -> None:
        super().__init__(num_losses)
        self.distribution = checked_choice("distribution", distribution, ["normal", "dirichlet"])
        self.draws = Draws()

    def forward(self, losses: Tensor) -> Tensor:
        """Return the draw, shape [K]."""
        random = self.draws.next()
        if self.distribution == "dirichlet":
            weights = random.dirichlet(np.ones(self.num_losses))
        else:
            exponentials = np.exp(random.standard_normal(self.num_losses))
            weights = exponentials / exponentials.sum()
        return paddle.to_tensor(weights, dtype="float32")
