"""Stochastic direction-oriented multi-objective gradient descent by Xiao et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.double_sampling import DoubleSamplingWeighting

__all__ = ["SDMGradWeighting"]


class SDMGradWeighting(DoubleSamplingWeighting):
    r"""Direction-oriented gradient descent with double sampling (SDMGrad, Xiao et al. 2023).

    MGDA, but near the mean gradient :math:`g_0 = \frac{1}{K} \sum_i g_i`: the larger
    :math:`\lambda` is, the closer is the update to it.

    .. math::
        \min_w \frac{1}{2} \lVert J^T w + \lambda g_0 \rVert^2
        \quad \text{with} \quad w_i \ge 0, \ \sum_i w_i = 1

    The weights take steps towards the minimiser for the mean gradients.  Each needs two independent
    batches, because the mean of :math:`J_1 J_2^T` is the Gramian of the mean gradients; the noise
    of one batch alone would count as length.  With the ones of shape [K] as 1:

    .. math::
        w &\leftarrow \Pi_\Delta \left( w - \alpha J_1 J_2^T \tilde{w} \right),
            \qquad \tilde{w} = w + \frac{\lambda}{K} 1 \\
        d &= \frac{1}{1 + \lambda} J_3^T \tilde{w}

    where :math:`\Pi_\Delta` is the Euclidean projection onto the simplex.

    P. Xiao, H. Ban, K. Ji, "Direction-oriented Multi-objective Learning: Simple and Provable
    Stochastic Algorithms", NeurIPS 2023 (arXiv:2305.18409), algorithm 1; the divisor
    :math:`1 + \lambda` is that of the authors' code.  The weights of the losses are
    :math:`\tilde{w} / (1 + \lambda)`.  They are at least :math:`\lambda / (K (1 + \lambda))`, begin
    at 1/K and sum to 1: d has the scale of the mean of the losses.

    Deviations:
        The authors take three batches in every step; here consecutive batches are pairs, at the
        price of K backward passes a step and of an error in proportion to the learning rate, see
        `MoDoWeighting`.
        LibMTL takes 20 steps of w with the same product, a rate of 5 and a momentum of 0.5, so w
        follows the noise of the pair; here each pair gives one step.  LibMTL divides the product by
        its own diagonal, which is biased and can be negative; here the divisor is the running mean
        of the squared lengths of the gradients in earlier pairs, so the scale of the gradients does
        not matter.  Therefore the weights move for the first time after the fourth step.  The
        default :math:`\lambda` is that of LibMTL.

    Args:
        num_losses: K, the number of losses.
        lamda: :math:`\lambda`, the weight of the mean gradient, at least 0; 0 gives MoDo.
        alpha: how fast w changes, at least 0.

    Attributes:
        w: the weights w, shape [K].

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import SDMGradWeighting
        >>> weighting = SDMGradWeighting(2, lamda=1.0)
        >>> jacobian = paddle.to_tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> for _ in range(5):
        ...     update, weights = weighting.update(paddle.ones([2]), jacobian)
        >>> [round(w, 4) for w in weighting.w.tolist()]  # 1/2 - 0.1 (9, 1) / 5, projected
        [0.42, 0.58]
        >>> [round(w, 4) for w in weights.tolist()]  # (w + 1/2) / 2
        [0.46, 0.54]
    """

    config_name = "SDMGrad"

    def __init__(self, num_losses: int, lamda: float = 0.3, alpha: float = 0.1) -> None:
        super().__init__(num_losses)
        self.lamda = checked_range("lamda", lamda, least=0)
        self.alpha = checked_range("alpha", alpha, least=0)

    def moved(self, w: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Return the weights after a step of gradient descent, shape [K]."""
        return w - self.alpha * products @ (w + self.lamda / self.num_losses)

    def factors(self, w: np.ndarray) -> np.ndarray:
        """Return the weights of the losses in the update, shape [K]."""
        return (w + self.lamda / self.num_losses) / (1 + self.lamda)
