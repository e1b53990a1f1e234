"""Multi-objective gradient correction by Fernando et al."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.base import JacobianWeighting, inner_products
from paddleseg_autoloss.weighting.simplex import onto_simplex

__all__ = ["MoCoWeighting"]


class MoCoWeighting(JacobianWeighting):
    r"""Multi-objective gradient correction (MoCo, Fernando et al. 2023).

    The weights of MGDA, which come from the gradients of one mini-batch, are biased.  MoCo tracks
    every gradient over time.  In each step, the weights take one projected step towards the
    shortest combination of the tracked gradients:

    .. math::
        y_i &\leftarrow y_i - \beta_t (y_i - g_i) \\
        \lambda &\leftarrow \Pi_\Delta \left( \lambda - \gamma_t (Y Y^T + \rho I) \lambda \right) \\
        d &= \sum_i \lambda_i y_i

    where the :math:`y_i` are the rows of Y, :math:`\beta_t = \beta / t^{\sigma_\beta}`,
    :math:`\gamma_t = \gamma / t^{\sigma_\gamma}`, and :math:`\Pi_\Delta` is the Euclidean
    projection onto the simplex.

    H. Fernando, H. Shen, M. Liu, S. Chaudhury, K.  Murugesan, T. Chen, "Mitigating Gradient Bias in
    Multi-objective Learning: A Provably Convergent Approach", ICLR 2023, algorithm 1.  The
    displayed weights are :math:`\lambda`.  They are never negative, begin at 1/K and sum to 1: d
    has the scale of the mean of the losses.

    Deviations:
        The tracked gradients begin with the first gradients and not with 0.  :math:`Y Y^T` is
        divided by the mean of its diagonal, so the scale of the gradients does not matter, also in
        relation to :math:`\rho`; with :math:`\rho = 0`, :math:`\lambda` converges to the same
        weights.  LibMTL uses a softmax instead of the projection, which converges to other weights,
        and gives every gradient the length :math:`L_i`, which is another problem.  The default
        values are those of LibMTL.

    Args:
        num_losses: K, the number of losses.
        beta: how fast gradients are tracked, from 0 to 1.
        beta_sigma: exponent by which beta decays, at least 0.
        gamma: how fast the weights change, at least 0.
        gamma_sigma: exponent by which gamma decays, at least 0.
        rho: how strongly the weights are pulled towards 1/K, at least 0.

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import MoCoWeighting
        >>> jacobian = paddle.to_tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> update, weights = MoCoWeighting(2).update(paddle.ones([2]), jacobian)
        >>> [round(w, 4) for w in weights.tolist()]  # 1/2 - (0.09, 0.01), projected
        [0.46, 0.54]
        >>> [round(d, 4) for d in update.tolist()]
        [1.38, 0.54]
    """

    config_name = "MoCo"
    sums_to = "1"
    scale = "mean"
    update_is_weighted_sum = True
    matrices = ("tracked",)

    def __init__(
        self,
        num_losses: int,
        beta: float = 0.5,
        beta_sigma: float = 0.5,
        gamma: float = 0.1,
        gamma_sigma: float = 0.5,
        rho: float = 0.0,
    ) -> None:
        super().__init__(num_losses)
        self.beta = checked_range("beta", beta, least=0, most=1)
        self.beta_sigma = checked_range("beta_sigma", beta_sigma, least=0)
        self.gamma = checked_range("gamma", gamma, least=0)
        self.gamma_sigma = checked_range("gamma_sigma", gamma_sigma, least=0)
        self.rho = checked_range("rho", rho, least=0)
        uniform = np.full(num_losses, 1 / num_losses)
        self.register_buffer("lmbda", paddle.to_tensor(uniform, place=paddle.CPUPlace()))

    @paddle.no_grad()
    def update(self, losses: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return d, shape [n], and lambda, shape [K]."""
        self.prepare(jacobian.shape[1])
        step = self.next_step()
        beta = 1.0 if step == 1 else self.beta / step**self.beta_sigma
        self.tracked.scale_(1 - beta)
        self.tracked.add_(jacobian * beta)
        products = inner_products(self.tracked)
        size = np.trace(products) / self.num_losses
        relative = products / size if size > 0 else products
        lmbda = self.lmbda.numpy()
        slope = relative @ lmbda + self.rho * lmbda
        lmbda = onto_simplex(lmbda - self.gamma / step**self.gamma_sigma * slope)
        self.lmbda.set_value(lmbda)
        weights = paddle.to_tensor(lmbda, dtype="float32")
        return weights @ self.tracked, weights
