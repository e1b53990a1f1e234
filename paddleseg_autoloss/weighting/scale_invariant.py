"""The sum of the logarithms of the losses."""

from __future__ import annotations

import paddle
from paddle import Tensor

from paddleseg_autoloss.weighting.objective import ObjectiveWeighting, logarithm, reciprocal

__all__ = ["ScaleInvariantWeighting"]


class ScaleInvariantWeighting(ObjectiveWeighting):
    r"""The sum of the logarithms of the losses (SI, Navon et al. 2022).

    A factor of a loss only adds a constant to its logarithm, so the units of the losses do not
    matter:

    .. math:: f = \sum_i \log L_i, \qquad w_i = \frac{1}{L_i}

    This is the scale-invariant baseline of A. Navon, A. Shamsian, I. Achituve, H. Maron, K.
    Kawaguchi, G. Chechik, E. Fetaya, "Multi-Task Learning as a Bargaining Game", ICML 2022.  The
    weights are treated as constants in differentiation, never negative, and have no fixed sum; the
    gradient has the scale of the losses' sum.  The total can be negative.

    Deviations:
        A loss that is not above 1e-8 has no usable logarithm: it gets the weight 0, and the others
        are weighted without it.

    Args:
        num_losses: K, the number of losses.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import ScaleInvariantWeighting
        >>> weighting = ScaleInvariantWeighting(2)
        >>> losses = paddle.to_tensor([2.0, 0.5])
        >>> weighting(losses).tolist()
        [0.5, 2.0]
        >>> float(weighting.total(losses, weighting(losses)))  # log 2 + log 0.5
        0.0
    """

    config_name = "ScaleInvariant"
    loss_range = "positive"

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the reciprocals, shape [K], detached."""
        return reciprocal(losses)

    def objective(self, losses: Tensor) -> Tensor:
        """Return the sum of the logarithms, 0-D."""
        return logarithm(losses).sum()
