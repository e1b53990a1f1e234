"""OL-AUX by Lin et al."""

from __future__ import annotations

from typing import Any

import numpy as np

from paddleseg_autoloss.checks import checked_integer
from paddleseg_autoloss.weighting.base import AlignmentWeighting, checked_rate
from paddleseg_autoloss.weighting.simplex import onto_simplex

__all__ = ["OLAUXWeighting"]


class OLAUXWeighting(AlignmentWeighting):
    r"""Weights from alignments summed over several looks (OL-AUX, Lin et al. 2019).

    Each loss is rated by how well its gradient :math:`g_i` serves the gradient :math:`g_v` of the
    target on held-out data.  After N looks the weights follow the sum of the ratings:

    .. math::
        s \leftarrow \Pi \Big( s + \beta \sum_{j=1}^N r(j) \Big), \qquad w = K s

    :math:`\Pi` is the projection on the shares that are not negative and sum to 1.

    X. Lin, H. S. Baweja, G. Kantor, D. Held, "Adaptive Auxiliary Task Weighting for Reinforcement
    Learning", NeurIPS 2019.

    Deviations:
        In the paper the target is the main loss of the training itself, with the weight 1, and the
        weights of the auxiliary losses have no constraint; here the target is held out of training
        and is not a term, and only the proportion of the weights is learned.  The paper takes the
        gradient of the target after the step; here it is taken before it, at the parameters of
        :math:`g_i`.  The paper has :math:`r_i = a_i` and no ``scaling``, which are ``rating:
        product`` and ``scaling: none``; the defaults are ours, see `AutoLambdaWeighting`.

    Args:
        num_losses: K, the number of losses.
        target: what you want to improve: ``"mIoU"``, ``"Jaccard"``, ``"Dice"``,
            ``"CrossEntropy"``, or a loss of PaddleSeg, as a mapping with ``type`` and its
            arguments.
        looks: N, looks from one update of the weights to the next, at least 1.
        lr: :math:`\beta`, at least 0; by default 0.2, with ``rating: product`` none, see
            `AutoLambdaWeighting`.
        scaling: ``"optimizer"`` or ``"none"``, see `AutoLambdaWeighting`.
        rating: ``"direction"``, ``"cosine"`` or ``"product"``, see `AutoLambdaWeighting`.
        floor: the least share of each loss, from 0 to 1 / K.

    Attributes:
        shares: s, shape [K].
        summed: the sum of the ratings since the last update, shape [K].
        num_looks: number of looks so far.

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import numpy as np
        >>> from paddleseg_autoloss.weighting import OLAUXWeighting
        >>> weighting = OLAUXWeighting(2, looks=2, lr=0.1, rating="cosine")
        >>> gramian = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])  # only the first loss serves
        >>> [weighting.solve(gramian).round(4).tolist() for _ in range(2)]
        [[1.0, 1.0], [1.2, 0.8]]
    """

    config_name = "OLAUX"

    def __init__(
        self,
        num_losses: int,
        target: Any = "mIoU",
        looks: int = 5,
        lr: float | None = None,
        scaling: str = "optimizer",
        rating: str = "cosine",
        floor: float = 0.02,
    ) -> None:
        super().__init__(num_losses, target, scaling, rating, floor)
        self.looks = checked_integer("looks", looks, least=1)
        self.lr = checked_rate(lr, rating, default=0.2)
        self.register_memory("summed", np.zeros(num_losses))
        self.register_memory("num_looks", 0)

    def next_shares(self, ratings: np.ndarray) -> np.ndarray:
        """Return the shares, which change after every N looks, shape [K]."""
        shares, summed = self.shares.numpy(), self.summed.numpy() + ratings
        count = int(self.num_looks) + 1
        if count % self.looks == 0:
            shares = onto_simplex(shares + self.lr * summed)
            summed = np.zeros_like(summed)
        self.num_looks.set_value(np.asarray(count))
        self.summed.set_value(summed)
        return shares
