"""Weights that give all gradients the same length, as in PaddleScience."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddleseg_autoloss.checks import checked_length, checked_number, checked_range
from paddleseg_autoloss.weighting.base import GramianWeighting

__all__ = ["NormBalanceWeighting"]


class NormBalanceWeighting(GramianWeighting):
    r"""Weights that give all weighted gradients the same length.

    .. math::
        w_i \leftarrow m \, w_i + (1 - m) \frac{\text{mean}_j \lVert g_j \rVert}{\lVert g_i \rVert}

    The gradient-norm balancing of S. Wang, S. Sankaran, H. Wang, P. Perdikaris, "An Expert's Guide
    to Training Physics-informed Neural Networks", arXiv:2308.08468, with the mean instead of the
    sum.  PaddleScience calls this method GradNorm.

    Deviations:
        A loss with zero gradient keeps its weight, which would become infinite, and is left out of
        the mean.

    Args:
        num_losses: K, the number of losses.
        momentum: m, from 0 to 1.
        init_weights: the first weights, one for each loss; all 1 by default.

    Raises:
        ConfigError: ``momentum`` is out of its range or ``init_weights`` has another length.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import NormBalanceWeighting
        >>> gramian = paddle.to_tensor([[9.0, 0.0], [0.0, 1.0]])
        >>> weights = NormBalanceWeighting(2, momentum=0.0)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # 2/3, 2/1
        [0.6667, 2.0]
    """

    def __init__(
        self,
        num_losses: int,
        momentum: float = 0.9,
        init_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_losses)
        self.momentum = checked_range("momentum", momentum, least=0, most=1)
        self.init_weights = init_weights
        weights = [1.0] * num_losses if init_weights is None else init_weights
        weights = checked_length("init_weights", weights, num_losses)
        weights = [checked_number("init_weights", weight) for weight in weights]
        self.register_memory("weight", np.array(weights))

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, shape [K]."""
        norms = np.sqrt(np.diag(gramian))
        some = norms > 0
        weight = self.weight.numpy()
        if some.any():
            target = self.target(norms[some])
            weight[some] = self.momentum * weight[some] + (1 - self.momentum) * target
        self.weight.set_value(weight)
        return weight

    def target(self, norms: np.ndarray) -> np.ndarray:
        """Return the target weights for gradients of these lengths."""
        return norms.mean() / norms
