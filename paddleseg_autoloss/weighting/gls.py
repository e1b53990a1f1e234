"""Geometric loss strategy by Chennupati et al."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddleseg_autoloss.weighting.objective import (
    ObjectiveWeighting,
    logarithm,
    reciprocal,
    usable,
)

__all__ = ["GLSWeighting"]


class GLSWeighting(ObjectiveWeighting):
    r"""The geometric mean of the losses (GLS, Chennupati et al. 2019).

    The units of the losses do not matter: decreasing any loss by the same percentage has the same
    effect:

    .. math:: f = \Big(\prod_i L_i\Big)^{1 / K}, \qquad w_i = \frac{f}{K L_i}

    S. Chennupati, G. Sistu, S. Yogamani, S. A. Rawashdeh, "MultiNet++: Multi-Stream Feature
    Aggregation and Geometric Loss Strategy for Multi-Task Learning", CVPR Workshops 2019.  The
    weights are treated as constants in differentiation, never negative, and have no fixed sum (it
    is 1 if all losses are equal); the gradient has the scale of the losses' mean.

    Deviations:
        The mean is taken in logarithms, so that it does not underflow.  A loss that is not above
        1e-8 has no usable logarithm: it gets the weight 0, and the others are weighted without it;
        K is then the number of the others.

    Args:
        num_losses: K, the number of losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import GLSWeighting
        >>> weighting = GLSWeighting(2)
        >>> losses = paddle.to_tensor([2.0, 0.5])
        >>> weights = weighting(losses)
        >>> weights.tolist()
        [0.25, 1.0]
        >>> float(weighting.total(losses, weights))  # sqrt(2 * 0.5)
        1.0
    """

    config_name = "GLS"
    loss_range = "positive"
    scale = "mean"

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return f / (K L_i), shape [K], detached."""
        return self.objective(losses) * reciprocal(losses) / _count(losses)

    def objective(self, losses: Tensor) -> Tensor:
        """Return the geometric mean, 0-D; 1 if no loss has a logarithm."""
        return (logarithm(losses).sum() / _count(losses)).exp()


def _count(losses: Tensor) -> Tensor:
    return usable(losses).astype(losses.dtype).sum().clip(min=1)
