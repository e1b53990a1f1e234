"""Learning to reweight by Ren et al."""

from __future__ import annotations

from typing import Any

import numpy as np

from paddleseg_autoloss.checks import checked_choice
from paddleseg_autoloss.weighting.base import AlignmentWeighting

__all__ = ["L2RWWeighting"]


class L2RWWeighting(AlignmentWeighting):
    r"""Weights in proportion to the alignments of one look (L2RW, Ren et al. 2018).

    A loss gets weight as far as its gradient :math:`g_i` serves the gradient :math:`g_v` of the
    target on held-out data, and none if it does harm:

    .. math::
        w_i = K \, \frac{\max(r_i, 0)}{\sum_j \max(r_j, 0)}

    M. Ren, W. Zeng, B. Yang, R. Urtasun, "Learning to Reweight Examples for Robust Deep Learning",
    ICML 2018 (arXiv:1803.09050), equations 5 to 7 of the approximation with one step from weights
    of 0.  It remembers nothing, so the weights have the noise of a single look.

    Deviations:
        The paper weighs the examples of a batch; here the losses take their place.  Its weights sum
        to 1, here to K.  If all alignments are negative, the paper takes no step; here the weights
        stay.  The paper has :math:`r_i = a_i` and no ``scaling``, which are ``rating: product`` and
        ``scaling: none``; the defaults are ours, see `AutoLambdaWeighting`.

    Args:
        num_losses: K, the number of losses.
        target: what you want to improve: ``"mIoU"``, ``"Jaccard"``, ``"Dice"``,
            ``"CrossEntropy"``, or a loss of PaddleSeg, as a mapping with ``type`` and its
            arguments.
        scaling: ``"optimizer"`` or ``"none"``, see `AutoLambdaWeighting`.
        rating: ``"cosine"`` or ``"product"``, see `AutoLambdaWeighting`.
        floor: the least share of each loss, from 0 to 1 / K.

    Attributes:
        shares: the weights divided by K, shape [K].

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import numpy as np
        >>> from paddleseg_autoloss.weighting import L2RWWeighting
        >>> weighting = L2RWWeighting(3, floor=0)
        >>> gramian = np.eye(4)
        >>> gramian[0, 1:] = gramian[1:, 0] = [0.3, 0.1, -0.2]  # the third loss does harm
        >>> weighting.solve(gramian).round(4).tolist()
        [2.25, 0.75, 0.0]
    """

    config_name = "L2RW"

    def __init__(
        self,
        num_losses: int,
        target: Any = "mIoU",
        scaling: str = "optimizer",
        rating: str = "cosine",
        floor: float = 0.02,
    ) -> None:
        checked_choice("rating", rating, ["cosine", "product"])
        super().__init__(num_losses, target, scaling, rating, floor)

    def next_shares(self, ratings: np.ndarray) -> np.ndarray:
        """Return the shares of this look, shape [K]."""
        useful = np.maximum(ratings, 0)
        return useful / useful.sum() if useful.sum() > 0 else self.shares.numpy()
