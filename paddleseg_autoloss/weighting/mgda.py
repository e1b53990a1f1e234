"""The multiple-gradient descent algorithm by Desideri, and by Sener and Koltun."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_choice
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import directions, factor, nonnegative

__all__ = ["MGDAWeighting"]


class MGDAWeighting(GramianWeighting):
    r"""The shortest convex combination of the gradients (MGDA, Sener and Koltun 2018).

    The update is the point of the convex hull of the gradients that is closest to 0.  To first
    order, no loss increases, and all losses with a positive weight gain the same:

    .. math::
        \min_w \Big\lVert \sum_i w_i g_i \Big\rVert^2
        \quad \text{with} \quad w_i \ge 0, \ \sum_i w_i = 1

    J.-A. Desideri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization",
    Comptes Rendus Mathematique 350 (2012); O. Sener, V. Koltun, "Multi-Task Learning as
    Multi-Objective Optimization", NeurIPS 2018, equation 3 and algorithm 2.  No weight is negative
    and they sum to 1, so the update has the scale of the losses' mean or less: the more the losses
    conflict, the shorter it is.  ``level: features`` is the paper's MGDA-UB.

    Deviations:
        The minimiser is exact.  Sener and Koltun's code stops after 250 steps of the Frank-Wolfe
        algorithm; if one of two losses should have all the weight, their code gives it 0.999.  A
        loss with zero gradient would get all the weight, and the training would stop; here it is
        left out and gets the weight 0.  If all gradients are zero, all weights are 1 / K.

        With a ``normalization``, w minimises the combination of normalised gradients, but is used
        for the original losses, as in Sener and Koltun's code.  A loss may then increase.  LibMTL
        does the same for gradients of the representation (``rep_grad=True``).  For gradients of the
        shared parameters, which is LibMTL's default, its update is the combination of the
        normalised gradients, which has another length.  A negative loss is replaced by its absolute
        value.  A loss of exactly 0, whose normalised gradient is infinite, gets the weight 0.

    Args:
        num_losses: K, the number of losses.
        normalization: the divisor of the gradients before w is computed: ``"none"``, ``"l2"`` for
            their length, ``"loss"`` for the value of the loss, ``"loss+"`` for the product of both.
            With ``"none"`` the loss with the smallest gradient gets most of the weight.

    Raises:
        ConfigError: ``normalization`` is none of these.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import MGDAWeighting
        >>> gramian = paddle.to_tensor([[18.0, -22.0], [-22.0, 38.0]])
        >>> weights = MGDAWeighting(2)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # (38 + 22) / (18 + 38 + 2 * 22)
        [0.6, 0.4]
    """

    config_name = "MGDA"
    sums_to = "1"
    scale = "mean"

    def __init__(self, num_losses: int, normalization: str = "none") -> None:
        super().__init__(num_losses)
        self.normalization = checked_choice(
            "normalization", normalization, ["none", "l2", "loss", "loss+"]
        )

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, not negative, shape [K]."""
        some, lengths, cosines = directions(gramian)
        if not len(some):
            return np.full(len(gramian), 1 / len(gramian))
        # u are the weights times the normalised lengths; with them the sum of w is slope @ u.
        slope = self._divisors(losses[some], lengths) / lengths
        slope /= slope.max()
        # The point of the cone that is closest to a sum of 1 is a multiple of the minimiser.
        matrix = np.concatenate([factor(cosines), slope[None]])
        target = np.zeros(len(matrix))
        target[-1] = 1
        shares = slope * nonnegative(matrix, target)
        weights = np.zeros(len(gramian))
        weights[some] = shares / shares.sum()
        return weights

    def _divisors(self, losses: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return the divisors of the gradients, shape [m]."""
        divisors = lengths if self.normalization in ("l2", "loss+") else np.ones(len(lengths))
        if self.normalization in ("loss", "loss+") and losses.any():
            divisors = divisors * np.abs(losses)
        return divisors
