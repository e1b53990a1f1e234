"""The objective of COSMOS by Ruchte and Grabocka."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.objective import EPS, ObjectiveWeighting, deviations, polar

__all__ = ["COSMOSWeighting"]


class COSMOSWeighting(ObjectiveWeighting):
    r"""The mean, less the cosine between losses and preference (COSMOS, Ruchte and Grabocka 2021).

    The losses are to be small and, by the cosine, in the ratio of a preference r, here equal:

    .. math::
        f = r \cdot L - \lambda \cos(r, L), \qquad
        w = r - \lambda \frac{\hat r - \cos(r, L) \hat L}{\lVert L \rVert}, \quad
        r_i = \frac{1}{K}

    where a hat means divided by the length.

    M. Ruchte, J. Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning",
    ICDM 2021 (arXiv:2103.13392).  The weights are constants for differentiation.  They can be
    negative: a loss well below the others is made to rise, and with it a head that is trained by
    that loss alone.  They sum to nothing in particular (to 1
    where all losses are equal); the gradient has the scale of the losses' mean.  The cosine does
    not know how large the losses are, so the smaller they are, the more it counts.

    Deviations:
        The paper draws r for every batch and feeds it to the network too, to learn the whole Pareto
        front at once; here r is uniform.  Losses that differ by no more than 1e-6 of the largest
        count as equal, and where L is no longer than 1e-8, or not finite, the weights are r.

    Args:
        num_losses: K, the number of losses.
        lamda: weight :math:`\lambda` of the cosine, at least 0.  The authors take 0.01 to 8
            depending on the data, and 2 unless told otherwise.

    Raises:
        ConfigError: ``lamda`` is negative.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import COSMOSWeighting
        >>> weighting = COSMOSWeighting(2, lamda=1)
        >>> weights = weighting(paddle.to_tensor([1.0, 0.0]))  # the second is made to rise
        >>> [round(w, 4) for w in weights.tolist()]  # 1 / 2 - sqrt(1 / 2)
        [0.5, -0.2071]
    """

    config_name = "COSMOS"
    loss_range = "non-negative"
    scale = "mean"
    may_be_negative = True

    def __init__(self, num_losses: int, lamda: float = 2.0) -> None:
        super().__init__(num_losses)
        self.lamda = checked_range("lamda", lamda, least=0)

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the derivatives, shape [K], detached."""
        size, direction = polar(losses)
        # Of the deviations, since the difference of the formula cancels for losses almost equal.
        deviation = deviations(direction)
        unit = 1 / math.sqrt(self.num_losses)
        slope = unit * deviation.square().sum() - unit * direction.sum() * deviation
        weights = 1 / self.num_losses - self.lamda * slope / size
        known = losses.isfinite().all() & (size > EPS)
        return paddle.where(known, weights, paddle.full_like(losses, 1 / self.num_losses))

    def objective(self, losses: Tensor) -> Tensor:
        """Return the mean less lambda times the cosine, 0-D."""
        _, direction = polar(losses)
        cosine = direction.sum() / math.sqrt(self.num_losses)
        return losses.mean() - self.lamda * cosine
