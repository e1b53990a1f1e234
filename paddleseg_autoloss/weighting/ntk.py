"""Weights from the neural tangent kernel, as in PaddleScience."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.weighting.norm_balance import NormBalanceWeighting

__all__ = ["NTKWeighting"]


class NTKWeighting(NormBalanceWeighting):
    r"""Weights that scale all gradients to the sum of their lengths (NTK, Wang et al. 2022).

    .. math:: w_i = \frac{\sum_j \lVert g_j \rVert}{\lVert g_i \rVert}

    After S. Wang, X. Yu, P. Perdikaris, "When and why PINNs fail to train: A neural tangent kernel
    perspective", Journal of Computational Physics 449 (2022).  No weight is negative.  Their
    inverses sum to 1, so the weights sum to :math:`K^2` or more: each is K if all lengths are
    equal.  That is K times the scale of the losses' sum.

    Deviations:
        The lengths are used as in PaddleScience.  The paper uses the traces of the kernels instead,
        which are sums over per-sample gradients.  A loss with zero gradient keeps its weight, which
        would become infinite; it is 1 at the start.

    Args:
        num_losses: K, the number of losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import NTKWeighting
        >>> gramian = paddle.to_tensor([[9.0, 0.0], [0.0, 1.0]])
        >>> weights = NTKWeighting(2)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # 4/3, 4/1
        [1.3333, 4.0]
    """

    config_name = "NTK"
    sums_to = "K^2 or more"
    scale = "K^2"

    def __init__(self, num_losses: int) -> None:
        super().__init__(num_losses, momentum=0.0)

    def target(self, norms: np.ndarray) -> np.ndarray:
        """Return the target weights for gradients of these lengths."""
        return norms.sum() / norms
