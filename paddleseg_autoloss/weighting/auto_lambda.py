"""Auto-lambda by Liu et al."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from paddleseg_autoloss.checks import checked_choice, checked_preference
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import AlignmentWeighting, checked_rate, with_floor

__all__ = ["AutoLambdaWeighting"]


class AutoLambdaWeighting(AlignmentWeighting):
    r"""Weights that descend a target on held-out data (Auto-lambda, Liu et al. 2022).

    A step with the weights w and the learning rate :math:`\eta` changes the target
    :math:`L_v` of a held-out batch, to first order, by

    .. math::
        L_v \Big( \theta - \eta \sum_i w_i P g_i \Big) - L_v(\theta)
            \approx -\eta \sum_i w_i a_i, \qquad a_i = \langle g_v, P g_i \rangle

    :math:`g_v` and :math:`g_i` are the gradients of the target and of the losses.  So losses with a
    large alignment :math:`a_i` get more weight, by exponentiated gradient on the shares s:

    .. math::
        s_i \leftarrow \frac{s_i e^{\beta r_i}}{\sum_j s_j e^{\beta r_j}}, \qquad w = K s

    Every look at a held-out batch takes one such step; between looks the weights stay.  The rating
    :math:`r_i` of one look is noisy, and its sign changes; the shares are the average of all looks,
    the slower the smaller :math:`\beta`.

    S. Liu, S. James, A. J. Davison, E. Johns, "Auto-Lambda: Disentangling Dynamic Task
    Relationships", TMLR 2022 (arXiv:2202.03091).  The weights are treated as constants in
    differentiation, never negative, and sum to K, so only their proportion is learned.

    If the target is one of the losses, or nearly so, the answer may be trivial: with Dice as a loss
    and as the target, Dice gets all the weight that ``floor`` leaves.  This is right if Dice is
    what you evaluate and Dice alone trains well; otherwise set another target or a larger floor.

    Deviations:
        By default the inner products are taken directly, at the parameters before the step.  The
        authors get them from the losses at two points beside the parameters: :math:`g_v` is taken
        after a step that is undone again, the losses around the parameters before it.
        ``alignment: differences`` has this the other way round, to need no further step:
        :math:`g_v` is taken before the step, the losses around the parameters after it, and the new
        weights count from the next step.  To first order in :math:`\eta` all of these are the same.
        Where a GPU computes with TF32, differences have fewer digits.

        The authors' weights start at 0.1 and are moved by Adam, with no constraint; here they are
        equal at first, or what ``init`` says, and have a constant sum, because their sum only acts
        as a learning rate.

        Two options are not from the paper and are the defaults.  ``scaling: optimizer``: the paper
        has P = 1, as for a step of SGD; Adam divides every number of a gradient by the root of its
        second moment, so P does too.  ``rating: cosine``: the paper has :math:`r_i = a_i`, whose
        scale depends on the network and on the course of training; a cosine has none, so one
        :math:`\beta` serves all.

    Args:
        num_losses: K, the number of losses.
        target: what you want to improve: ``"mIoU"`` (Lovasz-Softmax), ``"Jaccard"`` (the smooth
            Jaccard index), ``"Dice"``, ``"CrossEntropy"``, or a loss of PaddleSeg, as a mapping
            with ``type`` and its arguments.  It rates the first output of the network.
        lr: :math:`\beta`, at least 0; by default 1.  With ``rating: product`` it has no default,
            because the scale of :math:`a_i` depends on the network and on its training.
        scaling: P: ``"optimizer"`` for the second moments of Adam and the multipliers of the
            learning rates, or ``"none"``.
        rating: :math:`r_i`: ``"product"`` for :math:`a_i`; ``"cosine"`` for
            :math:`a_i / (\lVert g_v \rVert \lVert g_i \rVert)`, with
            :math:`\lVert x \rVert^2 = \langle x, P x \rangle`; ``"direction"`` for the derivative
            of the cosine of :math:`g_v` and :math:`\sum_i s_i g_i` with respect to
            :math:`\log s_i`.
        alignment: where :math:`a_i` comes from: ``"gradients"``, with K - 1 more backward passes in
            a look; or ``"differences"`` of the losses, with two forward passes in their place,
            whatever K is.  Differences give inner products only, not the lengths of the gradients,
            so they need ``rating: product``: on CrackForest the shares jumped between 0.02 and 0.96
            with ``lr: 1``, and moved smoothly with 0.1.
        floor: the least share of each loss, from 0 to 1 / K.
        init: the weights to begin with: K numbers of at least 0, of which the proportion counts, in
            the order of the losses; by default equal ones.  The weights of the first steps can
            count for the whole training, so begin with a mix that did well before, such as the best
            one of a grid.

    Attributes:
        shares: s, shape [K].

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import numpy as np
        >>> from paddleseg_autoloss.weighting import AutoLambdaWeighting
        >>> weighting = AutoLambdaWeighting(2, lr=0.5)
        >>> gramian = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])  # only the first loss serves
        >>> weighting.solve(gramian).round(4).tolist()
        [1.2449, 0.7551]
    """

    config_name = "AutoLambda"

    def __init__(
        self,
        num_losses: int,
        target: Any = "mIoU",
        lr: float | None = None,
        scaling: str = "optimizer",
        rating: str = "cosine",
        alignment: str = "gradients",
        floor: float = 0.02,
        init: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_losses, target, scaling, rating, floor)
        self.alignment = checked_choice("alignment", alignment, ["gradients", "differences"])
        if alignment == "differences" and rating != "product":
            raise ConfigError(
                "rating: expected product with alignment: differences, which gives no lengths of "
                f"gradients, found {rating}; set rating: product, and lr to suit it"
            )
        self.lr = checked_rate(lr, rating, default=1.0)
        self.init = init
        if init is not None:
            shares = np.array(checked_preference("init", init, num_losses)) / num_losses
            self.shares.set_value(with_floor(shares, self.floor))

    def next_shares(self, ratings: np.ndarray) -> np.ndarray:
        """Return the shares after a step of exponentiated gradient, shape [K]."""
        return softmax(np.log(self.shares.numpy().clip(1e-12)) + self.lr * ratings)
