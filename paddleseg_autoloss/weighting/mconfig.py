"""Conflict-free inverse gradients with momentum by Liu et al."""

from __future__ import annotations

import functools

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import JacobianWeighting, inner_products

__all__ = ["MConFIGWeighting"]


class MConFIGWeighting(JacobianWeighting):
    r"""Conflict-free inverse gradients with momentum (M-ConFIG, Liu et al. 2024).

    ConFIG computes the direction that has the same angle, below 90 degrees, to all gradients.
    M-ConFIG computes this direction from the running means of the gradients, and divides it by its
    own running magnitude, as Adam does:

    .. math::
        m_i &\leftarrow \beta_1 m_i + (1 - \beta_1) g_i, \qquad
        \hat m_i = \frac{m_i}{1 - \beta_1^t} \\
        \hat m_g &= \Big( \sum_i \langle \hat m_i, u \rangle \Big) u, \qquad
        u \propto \left[ \frac{m_1}{\lVert m_1 \rVert}, \dots, \frac{m_K}{\lVert m_K \rVert}
            \right]^{-T} 1 \\
        m_g' &= (1 - \beta_1^t) \, \hat m_g, \qquad
        g_c = \frac{m_g' - \beta_1 m_g}{1 - \beta_1}, \qquad m_g \leftarrow m_g' \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g_c^2, \qquad
        d = \hat m_g \Big/ \sqrt{\frac{v}{1 - \beta_2^t}}

    with the pseudo-inverse of the unit vectors and u of length 1.  :math:`g_c` is the gradient
    whose running mean would be :math:`m_g`.

    Q. Liu, M. Chu, N. Thuerey, "ConFIG: Towards Conflict-free Training of Physics Informed Neural
    Networks", ICLR 2025, arXiv:2408.11104.  The displayed weights are those of the :math:`m_i` in
    :math:`m_g'`; they can be negative and have no fixed sum.  d does not have the scale of the
    losses: every coordinate is at most about 1.  So choose a learning rate as for Adam, and plain
    SGD as the optimizer.  With one loss, d is Adam's step.

    Deviations:
        The paper updates the mean of only one loss per step, in turn, to save backward passes.
        Here all gradients are available at every step and all means are updated; the authors' code
        does this too if it gets all gradients.  That code adds 1e-8 to the root.  Here a coordinate
        whose magnitude is 0 does not move.  So the scale of the gradients does not matter, as long
        as the absolute values of their coordinates are from 1e-18 to 1e18, as for Adam.  Gradients
        that are parallel in single precision count as parallel.  If exactly opposed gradients leave
        no direction, the direction is 0.  If some losses never had a gradient at a coordinate, as
        in an auxiliary head, negative weights count as 0 there: they would increase the losses of
        the head.

    Args:
        num_losses: K, the number of losses.
        beta_1: share of the past in the means, from 0 to below 1.
        beta_2: share of the past in the magnitude, from 0 to below 1.

    Raises:
        ConfigError: an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import MConFIGWeighting
        >>> jacobian = paddle.to_tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
        >>> update, weights = MConFIGWeighting(2).update(paddle.ones([2]), jacobian)
        >>> [round(d, 4) for d in update.tolist()]  # the signs at the first step
        [1.0, 1.0, 1.0]
        >>> [round(w, 4) for w in weights.tolist()]  # of ConFIG: (0.1588, 2.0706, 2.0706)
        [1.2265, 0.8441]
    """

    config_name = "MConFIG"
    scale = "its own"
    may_be_negative = True
    matrices = ("means",)
    vectors = ("mean", "magnitude")

    def __init__(self, num_losses: int, beta_1: float = 0.9, beta_2: float = 0.999) -> None:
        super().__init__(num_losses)
        self.beta_1 = checked_range("beta_1", beta_1, least=0, most=1)
        self.beta_2 = checked_range("beta_2", beta_2, least=0, most=1)
        for name, beta in (("beta_1", self.beta_1), ("beta_2", self.beta_2)):
            if beta == 1:
                raise ConfigError(f"{name}: expected a number below 1, found 1")

    @paddle.no_grad()
    def update(self, losses: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return d, shape [n], and the weights of the means, shape [K]."""
        self.prepare(jacobian.shape[1])
        step = self.next_step()
        self.means.scale_(self.beta_1)
        self.means.add_(jacobian * (1 - self.beta_1))
        weights = paddle.to_tensor(_conflict_free(inner_products(self.means)), dtype="float32")
        self._follow(self._direction(weights))
        root = (self.magnitude / (1 - self.beta_2**step)).sqrt()
        update = self.mean / (1 - self.beta_1**step)
        return update / paddle.where(root > 0, root, paddle.ones_like(root)), weights

    def _direction(self, weights: Tensor) -> Tensor:
        """Return the combination of the means; negative weights count as 0 for auxiliary heads."""
        combination = weights @ self.means
        if bool((weights >= 0).all()):
            return combination
        # In Paddle 2, comparisons treat numbers below 1e-8 as equal to 0.
        reached = [row.abs() > 0 for row, w in zip(self.means, weights.tolist()) if w != 0]
        everywhere = functools.reduce(paddle.logical_and, reached)
        return paddle.where(everywhere, combination, weights.clip(min=0) @ self.means)

    def _follow(self, mean: Tensor) -> None:
        """Update the mean, and the magnitude of the gradient that would have led to it."""
        gradient = (mean - self.beta_1 * self.mean) / (1 - self.beta_1)
        self.magnitude.scale_(self.beta_2)
        self.magnitude.add_(gradient * gradient * (1 - self.beta_2))
        # An infinite magnitude would stop its coordinate forever.
        self.magnitude.clip_(max=3e38)
        self.mean.set_value(mean)


def _conflict_free(gramian: np.ndarray) -> np.ndarray:
    """Return the weights of ConFIG, shape [K]; the weight of a zero row is 0."""
    weights = np.zeros(len(gramian))
    lengths = np.sqrt(np.diag(gramian))
    some = lengths > 0
    if not some.any():
        return weights
    lengths = lengths[some]
    cosines = gramian[np.ix_(some, some)] / np.outer(lengths, lengths)
    # The inner products were summed in single precision.
    solution = np.linalg.pinv(cosines, rcond=1e-6, hermitian=True).sum(axis=1)
    # The squared length of the combination of unit vectors is 1 or more unless they are opposed.
    square = solution @ cosines @ solution
    if square > 1e-6:
        projections = cosines @ solution / np.sqrt(square)
        length = lengths @ projections
        weights[some] = length * solution / (lengths * np.sqrt(square))
    return weights
