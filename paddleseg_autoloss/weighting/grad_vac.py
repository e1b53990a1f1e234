"""Gradient Vaccine by Wang et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.draws import Draws

__all__ = ["GradVacWeighting"]


class GradVacWeighting(GramianWeighting):
    r"""Gradients rotated until they agree as much as on average (GradVac, Wang et al. 2021).

    PCGrad changes two gradients if they conflict.  GradVac changes them if they agree less than
    they did on average in the past.  Every gradient starts as :math:`g'_i = g_i`.  For the other
    losses j in random order, with :math:`\phi_{ij} = \cos(g'_i, g_j)` and its target
    :math:`\hat\phi_{ij}`, where :math:`\phi_{ij} < \hat\phi_{ij}`:

    .. math::
        g'_i \leftarrow g'_i + \frac{\lVert g'_i \rVert
            (\hat\phi_{ij} \sqrt{1 - \phi_{ij}^2} - \phi_{ij} \sqrt{1 - \hat\phi_{ij}^2})}
            {\lVert g_j \rVert \sqrt{1 - \hat\phi_{ij}^2}} \, g_j, \qquad d = \sum_i g'_i

    after which the cosine is equal to the target.  Then the target is always updated,
    :math:`\hat\phi_{ij} \leftarrow (1 - \beta) \hat\phi_{ij} + \beta \phi_{ij}`; it begins at 0.

    Z. Wang, Y. Tsvetkov, O. Firat, Y. Cao, "Gradient Vaccine: Investigating and Improving
    Multi-task Optimization in Massively Multilingual Models", ICLR 2021, algorithm 1, with the
    whole model as one group of parameters.  No weight is below 1; if no gradient is rotated, they
    sum to K, the scale of the losses' sum.  A rotation makes a gradient at most
    :math:`1 / \sqrt{1 - \hat\phi^2}` times as long, which is 7.1 at the largest target.  With
    :math:`\beta = 0` it is PCGrad.

    Deviations:
        The default of beta is that of LibMTL and TorchJD.  A target is at most 0.99: a target of 1
        would need an infinite weight.  A loss with zero gradient, and a :math:`g'_i` shorter than a
        thousandth of its summands, have no cosine: nothing is rotated and the target does not
        change.  The order of the others is random, so permuting the losses gives the same d only on
        average.

    Args:
        num_losses: K, the number of losses.
        beta: share of the current cosine in the new target, from 0 to 1.

    Raises:
        ConfigError: ``beta`` is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import GradVacWeighting
        >>> weighting = GradVacWeighting(2)
        >>> orthogonal = paddle.to_tensor([[4.0, 0.0], [0.0, 1.0]])
        >>> weights = weighting(paddle.ones([2]), paddle.to_tensor([[4.0, 1.2], [1.2, 1.0]]))
        >>> weights.tolist()  # the cosine, 0.6, is above its target, 0
        [1.0, 1.0]
        >>> weights = weighting(paddle.ones([2]), orthogonal)  # the target is 0.3 now
        >>> [round(w, 4) for w in weights.tolist()]  # 1 + 1/2 t, 1 + 2 t, t = 0.3 / sqrt(1 - 0.09)
        [1.1572, 1.629]
    """

    config_name = "GradVac"
    sums_to = "K or more"
    most_similar = 0.99

    def __init__(self, num_losses: int, beta: float = 0.5) -> None:
        super().__init__(num_losses)
        self.beta = checked_range("beta", beta, least=0, most=1)
        self.draws = Draws()
        self.register_memory("targets", np.zeros([num_losses, num_losses]))

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, at least 1 each, shape [K]."""
        rows = np.arange(len(gramian))
        others = (rows[:, None] + rows[1:]) % len(gramian)
        order = self.draws.next().permuted(others, axis=1)
        lengths = np.sqrt(np.diag(gramian))
        some = lengths > 0
        # With gradients of length 1, the scale of the gradients does not matter.
        lengths = np.where(some, lengths, 1.0)
        cosines = gramian / np.outer(lengths, lengths)
        targets = self.targets.numpy()
        # Row i contains the coefficients of g'_i; the rows do not depend on each other.
        turned, inner = np.eye(len(gramian)), cosines.copy()
        squares, sums = np.ones(len(gramian)), np.ones(len(gramian))
        for j in order.T:
            known = some & some[j] & (squares > 1e-6 * sums)
            sizes = np.sqrt(np.where(known, squares, 1.0))
            products, present = inner[rows, j], targets[rows, j]
            phi = np.maximum(np.minimum(products / sizes, 1), -1)
            target = np.minimum(present, self.most_similar)
            steps = sizes * (_tangent(target) * np.sqrt(1 - phi * phi) - phi)
            steps = np.where(known & (phi < target), steps, 0.0)
            turned[rows, j] = steps
            inner += steps[:, None] * cosines[j]
            squares += steps * (2 * products + steps)
            sums += steps * steps
            targets[rows, j] = np.where(known, present + self.beta * (phi - present), present)
        self.targets.set_value(targets)
        return lengths @ turned / lengths


def _tangent(cosines: np.ndarray) -> np.ndarray:
    """Return cos / sin, finite."""
    return cosines / np.sqrt(np.maximum(1 - cosines * cosines, 1e-12))
