"""Gradient normalisation by Chen et al."""

from __future__ import annotations

import math

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_lr_mult, checked_range
from paddleseg_autoloss.weighting.base import GramianWeighting

__all__ = ["GradNormWeighting"]


class GradNormWeighting(GramianWeighting):
    r"""Gradient normalisation (GradNorm, Chen et al. 2018).

    The weights w are learned so that the weighted gradients :math:`w_i g_i` get lengths that match
    the training rates of the losses:

    .. math::
        L_{grad} = \sum_i \left| w_i \lVert g_i \rVert
            - \overline{w \lVert g \rVert} \, r_i^\alpha \right|,
        \qquad r_i = \frac{L_i / L_i(0)}{\text{mean}_j \, L_j / L_j(0)}

    Z. Chen, V. Badrinarayanan, C.-Y. Lee, A. Rabinovich, "GradNorm: Gradient Normalization for
    Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018, equations 1 and 2 and algorithm
    1.  The target, which contains the mean over the losses, is treated as a constant in
    differentiation.  After every update the weights are rescaled to sum to K.

    Deviations:
        :math:`\lVert g_i \rVert` is over all parameters (or the logits); the paper uses the last
        shared layer.  A weight below 0.01 is set to 0.01.  A loss has no training rate if it was
        not positive at the first step, or while it is negative; it is then replaced by
        :math:`L_i(0)`.  While a loss is negative, its w does not change.  For all possible losses,
        the weights are positive and sum to K.  PaddleScience's method of this name is another one:
        `paddleseg_autoloss.mtl.GradNorm`.

    Args:
        num_losses: K, the number of losses.
        alpha: how strongly the training rates are made equal, at least 0.
        lr_mult: learning rate of w relative to the optimizer's, positive.

    Attributes:
        w: the learned weights, shape [K].

    Raises:
        ConfigError: ``alpha`` is negative or ``lr_mult`` is not positive.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import GradNormWeighting
        >>> weighting = GradNormWeighting(2)
        >>> weighting(paddle.ones([2]), paddle.to_tensor([[9.0, 0.0], [0.0, 1.0]])).tolist()
        [1.0, 1.0]
        >>> weighting.penalty().backward()  # lengths 3 and 1, target 2 for both
        >>> weighting.w.grad.tolist()
        [3.0, -1.0]
    """

    config_name = "GradNorm"
    parameter_name = "w"
    loss_range = "non-negative"
    sums_to = "K"
    least = 0.01
    parameter_range = (least, math.inf)

    def __init__(self, num_losses: int, alpha: float = 1.5, lr_mult: float = 1.0) -> None:
        super().__init__(num_losses)
        self.alpha = checked_range("alpha", alpha, least=0)
        self.lr_mult = checked_lr_mult(lr_mult)
        self.w = self.learnable(1.0, self.lr_mult)
        # NaN until the first call.
        self.register_buffer("initial_losses", paddle.full([num_losses], float("nan")))
        self._imbalance: Tensor | None = None

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return w, which sums to K, shape [K]."""
        values = paddle.to_tensor(losses, dtype="float32")
        norms = paddle.to_tensor(np.sqrt(gramian.diagonal()), dtype="float32")
        with paddle.no_grad():
            self._rescale()
            self.freeze_negative(values)
            started = ~self.initial_losses.isnan()
            self.initial_losses.set_value(paddle.where(started, self.initial_losses, values))
            target = (self.w * norms).mean() * self._rates(values) ** self.alpha
        self._imbalance = (self.unfrozen() * norms - target).abs().sum()
        return self.w.numpy().astype("float64")

    def _rescale(self) -> None:
        """Rescale w to the sum K; frozen weights do not change."""
        self.undo_drift()
        positive, free = self.w.clip(min=self.least), self.frozen.isnan()
        zeros = paddle.zeros_like(positive)
        room = self.num_losses - paddle.where(free, zeros, self.w).sum()
        rescaled = positive * room / paddle.where(free, positive, zeros).sum()
        self.w.set_value(paddle.where(free, rescaled, self.w))

    def _rates(self, losses: Tensor) -> Tensor:
        initial = self.initial_losses
        positive = (initial > 0) & ~self.out_of_range(losses)
        ones = paddle.ones_like(losses)
        ratio = paddle.where(positive, losses.clip(min=0), ones)
        ratio = ratio / paddle.where(positive, initial, ones)
        mean = ratio.mean()
        return paddle.where(mean > 0, ratio / mean.clip(min=1e-30), ones)

    def penalty(self) -> Tensor | None:
        r"""Return 0 with the gradient of :math:`L_{grad}` with respect to w, 0-D."""
        if self._imbalance is None:
            return None
        imbalance, self._imbalance = self._imbalance, None
        return imbalance - imbalance.detach()
