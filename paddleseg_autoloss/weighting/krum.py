"""Krum by Blanchard et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_integer
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import GramianWeighting

__all__ = ["KrumWeighting"]


class KrumWeighting(GramianWeighting):
    r"""The mean of the gradients that lie closest to others (Krum, Blanchard et al. 2017).

    The rule was made against workers that send wrong gradients; here each loss is a worker.  The
    score of a gradient is the sum of its squared distances to the :math:`K - f - 2` gradients that
    are closest to it.  The m gradients with the smallest scores are averaged:

    .. math::
        s(i) = \sum_{j \text{ close to } i} \lVert g_i - g_j \rVert^2, \qquad
        d = \frac{1}{m} \sum_{i \text{ of least } s} g_i

    P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer, "Machine Learning with Adversaries:
    Byzantine Tolerant Gradient Descent", NeurIPS 2017, Krum and, for m > 1, Multi-Krum.  The
    weights are 1 / m and 0; they sum to 1, the scale of the losses' mean.  Losses of different
    units have distant gradients even if no gradient is wrong.  So use this method for losses of one
    kind, such as those of several heads.

    Deviations:
        none for the scores; TorchJD does not square the distances.  The paper proves its bounds for
        :math:`K \ge 2 f + 3`; here, as in TorchJD, K must be at least f + 3.  Scores that agree to
        six digits count as equal, and the first of these losses is selected; with three losses, two
        scores are always equal.  Gradients whose distance is below a thousandth of their lengths
        have distance 0.  As in the paper, d jumps when another gradient gets the smallest score; it
        is never longer than the longest gradient.

    Args:
        num_losses: K, the number of losses, at least ``n_byzantine`` + 3.
        n_byzantine: f, how many gradients may be wrong, at least 0.
        n_selected: m, how many gradients to average, from 1 to K.

    Raises:
        ConfigError: there are too few losses or an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import KrumWeighting
        >>> rows = paddle.to_tensor([[1.0, 0.0], [9.0, 9.0], [1.0, 1.0], [0.0, 2.0]])
        >>> weighting = KrumWeighting(4, n_byzantine=1, n_selected=2)
        >>> weighting(paddle.ones([4]), rows @ rows.T).tolist()  # scores 1, 128, 1, 2
        [0.5, 0.0, 0.5, 0.0]
    """

    config_name = "Krum"
    sums_to = "1"
    scale = "mean"
    least_losses = 3

    def __init__(self, num_losses: int, n_byzantine: int = 0, n_selected: int = 1) -> None:
        super().__init__(num_losses)
        self.n_byzantine = checked_integer("n_byzantine", n_byzantine, least=0)
        self.n_selected = checked_integer("n_selected", n_selected, least=1)
        if n_byzantine + 3 > num_losses:
            raise ConfigError(
                f"n_byzantine: expected at most {num_losses - 3} of {num_losses} losses, "
                f"found {n_byzantine}"
            )
        if n_selected > num_losses:
            raise ConfigError(f"n_selected: expected at most {num_losses}, found {n_selected}")

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, 1 / m or 0 each, shape [K]."""
        count = len(gramian)
        squares = np.diag(gramian)
        sums = squares + squares[:, None]
        distances = sums - 2 * gramian
        distances[distances <= 1e-6 * sums] = 0
        # The first number in every sorted row is the distance of a gradient to itself.
        scores = np.sort(distances, axis=1)[:, 1 : count - self.n_byzantine - 1].sum(axis=1)
        rounded = np.round(np.log(np.maximum(scores, np.finfo(float).tiny)), 6)
        weights = np.zeros(count)
        weights[np.argsort(rounded, kind="stable")[: self.n_selected]] = 1 / self.n_selected
        return weights
