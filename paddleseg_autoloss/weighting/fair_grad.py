"""Fair resource allocation by Ban and Ji."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import directions, fair_shares

__all__ = ["FairGradWeighting"]


class FairGradWeighting(GramianWeighting):
    r"""Weights for an :math:`\alpha`-fair share of the progress (FairGrad, Ban and Ji 2024).

    Over a ball of updates, d maximises the total utility of the gains,
    :math:`\sum_i \langle g_i, d \rangle^{1 - \alpha} / (1 - \alpha)`.  It is
    :math:`d = \sum_i w_i g_i` with

    .. math:: G w = w^{-1/\alpha}, \qquad w > 0

    element by element.  With :math:`\alpha = 1` it has the direction of Nash-MTL.  A larger
    :math:`\alpha` favours the loss that gains least; towards 0 all weights become 1.

    H. Ban, K. Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024 (arXiv:2402.15638),
    algorithm 1.  The weights are positive and sum to nothing in particular.  The length of d is
    :math:`\sqrt{K}` for :math:`\alpha = 1`, however long the gradients are; in general it grows as
    their length to the power :math:`(1 - \alpha) / (1 + \alpha)`.  So the learning rate has to fall
    for the training to settle.  For :math:`\alpha \le 1`, :math:`\lVert d \rVert^{1 + \alpha} \le
    \sum_i \lVert g_i \rVert^{1 - \alpha}`; for :math:`\alpha > 1` there is no bound, and d becomes
    longer the more the losses conflict.

    Deviations:
        The equation is solved exactly at any scale of the gradients, by Newton's method, where the
        authors call a least-squares solver that stops early on small ones.  Their code multiplies d
        by K and caps the length of the gradient of the shared parameters at 1; LibMTL and TorchJD
        do neither, nor does this.  Where the losses are Pareto stationary there is no solution:
        eigenvalues of the cosines below :math:`10^{-8}` are raised to that, which bounds the
        weights, and d is close to 0.  A loss without gradient takes no part and gets the weight 0.

    Args:
        num_losses: K, the number of losses.
        alpha: the kind of fairness, from 0.1 to 10: 1 is proportional, 2 minimises the potential
            delay, and large values approach the largest minimum.

    Raises:
        ConfigError: ``alpha`` is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import FairGradWeighting
        >>> gramian = paddle.to_tensor([[4.0, 0.0], [0.0, 0.25]])  # lengths 2 and 1/2
        >>> weights = FairGradWeighting(2)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # 4 w = 1 / w, w / 4 = 1 / w
        [0.5, 2.0]
    """

    config_name = "FairGrad"
    scale = "its own"

    def __init__(self, num_losses: int, alpha: float = 1.0) -> None:
        super().__init__(num_losses)
        self.alpha = checked_range("alpha", alpha, least=0.1, most=10)

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, not negative, shape [K]."""
        weights = np.zeros(len(gramian))
        some, lengths, cosines = directions(gramian)
        if len(some):
            # The weights times the lengths, where the gradients are orthogonal.
            sizes = lengths ** ((1 - self.alpha) / (1 + self.alpha))
            weights[some] = fair_shares(cosines, sizes, self.alpha) / lengths
        return weights
