"""Multi-objective gradient with double sampling by Chen et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.double_sampling import DoubleSamplingWeighting

__all__ = ["MoDoWeighting"]


class MoDoWeighting(DoubleSamplingWeighting):
    r"""Multi-objective gradient with double sampling (MoDo, Chen et al. 2023).

    MGDA minimises :math:`\lVert J^T \lambda \rVert` over the simplex with the gradients of one
    batch, whose noise counts as length: a loss with noisy gradients gets too little weight.  MoDo
    takes steps towards the minimiser for the mean gradients instead.  Each needs two independent
    batches, because the mean of :math:`J_1 J_2^T` is the Gramian of the mean gradients:

    .. math::
        \lambda &\leftarrow
            \Pi_\Delta \left( \lambda - \gamma (J_1 J_2^T + \rho I) \lambda \right) \\
        d &= J_3^T \lambda

    where :math:`\Pi_\Delta` is the Euclidean projection onto the simplex.

    L. Chen, H. Fernando, Y. Ying, T. Chen, "Three-Way Trade-Off in Multi-Objective Learning:
    Optimization, Generalization and Conflict-Avoidance", NeurIPS 2023 (arXiv:2305.20057), algorithm
    1.  The weights are never negative, begin at 1/K and sum to 1: d has the scale of the mean of
    the losses.  Like MGDA it gives most of the weight to the loss with the smallest gradient.

    Deviations:
        The paper takes three batches in every step, which cost three forward and 3 K backward
        passes.  Here a step has the batch of PaddleSeg's loop, and costs K backward passes: batches
        1 and 2, 3 and 4, ... are :math:`J_1` and :math:`J_2`, so the weights move in every second
        step, and each batch is also the :math:`J_3` of its own step, with weights that know earlier
        batches only.  The network takes one step between :math:`J_1` and :math:`J_2`, so their
        product has an error in proportion to the learning rate: of the noise of a batch, a few
        percent at common rates and a third at a large one, with the other sign (``docs/cost.md``).
        :math:`J_1 J_2^T` is divided by the running mean of the squared lengths of the gradients in
        earlier pairs, so :math:`\gamma` and :math:`\rho` do not depend on the scale of the
        gradients.  Therefore the weights move for the first time after the fourth step.  The
        default values are those of the authors' script for MNIST, LibMTL's are 0.001 and 0.1; there
        the product is not divided.

    Args:
        num_losses: K, the number of losses.
        gamma: how fast the weights change, at least 0.
        rho: how strongly the weights are pulled towards 1/K, at least 0.

    Attributes:
        w: the weights :math:`\lambda`, shape [K].

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import MoDoWeighting
        >>> weighting = MoDoWeighting(2)
        >>> jacobian = paddle.to_tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> for _ in range(5):
        ...     update, weights = weighting.update(paddle.ones([2]), jacobian)
        >>> [round(w, 4) for w in weights.tolist()]  # 1/2 - 0.1 (9, 1) / 5 / 2, projected
        [0.46, 0.54]
    """

    config_name = "MoDo"

    def __init__(self, num_losses: int, gamma: float = 0.1, rho: float = 0.0) -> None:
        super().__init__(num_losses)
        self.gamma = checked_range("gamma", gamma, least=0)
        self.rho = checked_range("rho", rho, least=0)

    def moved(self, w: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Return the weights after a step of gradient descent, shape [K]."""
        return w - self.gamma * (products @ w + self.rho * w)
