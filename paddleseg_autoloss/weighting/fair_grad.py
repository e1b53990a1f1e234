"""Fair resource allocation by Ban and Ji."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import directions, fair_shares

__all__ = ["FairGradWeighting"]


class FairGradWeighting(GramianWeighting):
    r"""Weights for an :math:`\alpha`-fair share of the progress (FairGrad, Ban and Ji 2024).

    Among all updates in a ball, d maximises the total utility of the gains,
    :math:`\sum_i \langle g_i, d \rangle^{1 - \alpha} / (1 - \alpha)`.  The solution is
    :math:`d = \sum_i w_i g_i` with

    .. math:: G w = w^{-1/\alpha}, \qquad w > 0

    for each element.  With :math:`\alpha = 1`, d has the direction of Nash-MTL. A larger
    :math:`\alpha` favours the loss that gains least; as :math:`\alpha` goes to 0, all weights go to
    1.

    H. Ban, K.  Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024 (arXiv:2402.15638),
    algorithm 1.  The weights are positive and have no fixed sum.  The length of d is
    :math:`\sqrt{K}` for :math:`\alpha = 1`, for gradients of any length; in general it grows like
    their length to the power :math:`(1 - \alpha) / (1 + \alpha)`.  So the training converges only
    if the learning rate decreases.  For :math:`\alpha \le 1`,
    :math:`\lVert d \rVert^{1 + \alpha} \le \sum_i \lVert g_i \rVert^{1 - \alpha}`; for
    :math:`\alpha > 1` there is no bound, and the more the losses conflict, the longer d is.

    Deviations:
        The equation is solved exactly at any scale of the gradients, by Newton's method.  The
        authors use a least-squares solver, which stops early if the gradients are small.  Their
        code multiplies d by K and limits the length of the gradient of the shared parameters to 1;
        LibMTL, TorchJD and this implementation do neither.  If the losses are Pareto stationary,
        there is no solution: eigenvalues of the cosine matrix below :math:`10^{-8}` are set to
        :math:`10^{-8}`, which bounds the weights, and d is close to 0.  A loss with zero gradient
        is left out and gets the weight 0.

    Args:
        num_losses: K, the number of losses.
        alpha: the kind of fairness, from 0.1 to 10: 1 is proportional fairness, 2 minimises the
            potential delay, and large values approach max-min fairness.

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
            # These are the weights times the lengths for orthogonal gradients.
            sizes = lengths ** ((1 - self.alpha) / (1 + self.alpha))
            weights[some] = fair_shares(cosines, sizes, self.alpha) / lengths
        return weights
