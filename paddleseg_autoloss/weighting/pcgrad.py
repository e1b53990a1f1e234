"""Gradient surgery by Yu et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.draws import Draws

__all__ = ["PCGradWeighting"]


class PCGradWeighting(GramianWeighting):
    r"""Projecting conflicting gradients (PCGrad, Yu et al. 2020).

    Every gradient starts as :math:`g_i^{PC} = g_i`.  For the other losses j in random order: if the
    two conflict, :math:`\langle g_i^{PC}, g_j \rangle < 0`, it is projected onto the normal plane
    of :math:`g_j`:

    .. math::
        g_i^{PC} \leftarrow g_i^{PC}
            - \frac{\langle g_i^{PC}, g_j \rangle}{\lVert g_j \rVert^2} g_j,
        \qquad d = \sum_i g_i^{PC}

    T. Yu, S. Kumar, A. Gupta, S. Levine, K.  Hausman, C. Finn, "Gradient Surgery for Multi-Task
    Learning", NeurIPS 2020, algorithm 1.  The projections are combinations of the gradients, so
    weights computed only from the Gramian give the same d.  No weight is below 1; without conflict
    all are 1, and they sum to K.  A projection makes no gradient longer, so d is at most as long as
    the sum of their lengths.  A loss with zero gradient changes nothing.

    Deviations:
        none.  Some other implementations also project a gradient onto its own normal plane (j = i);
        the paper does not.

    Args:
        num_losses: K, the number of losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import PCGradWeighting
        >>> gramian = paddle.to_tensor([[18.0, -22.0], [-22.0, 38.0]])
        >>> weights = PCGradWeighting(2)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # 1 + 22/18, 1 + 22/38
        [2.2222, 1.5789]
    """

    config_name = "PCGrad"
    sums_to = "K or more"

    def __init__(self, num_losses: int) -> None:
        super().__init__(num_losses)
        self.draws = Draws()

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, at least 1 each, shape [K]."""
        random = self.draws.next()
        count = len(gramian)
        projected = np.eye(count)
        for i, coefficients in enumerate(projected):
            for j in random.permutation(count):
                inner = gramian[j] @ coefficients
                if j != i and inner < 0 < gramian[j, j]:
                    coefficients[j] -= inner / gramian[j, j]
        return projected.sum(axis=0)
