"""The objective of COSMOS by Ruchte and Grabocka."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.objective import EPS, ObjectiveWeighting, deviations, polar

__all__ = ["COSMOSWeighting"]


class COSMOSWeighting(ObjectiveWeighting):
    r"""The mean minus the cosine between losses and preference (COSMOS, Ruchte and Grabocka 2021).

    The losses should be small and, because of the cosine, proportional to a preference r, which is
    uniform here:

    .. math::
        f = r \cdot L - \lambda \cos(r, L), \qquad
        w = r - \lambda \frac{\hat r - \cos(r, L) \hat L}{\lVert L \rVert}, \quad
        r_i = \frac{1}{K}

    where a hat means that a vector is divided by its length.

    M. Ruchte, J. Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning",
    ICDM 2021 (arXiv:2103.13392).  The weights are treated as constants in differentiation.  They
    can be negative: training then increases a loss that is far below the others; a head that is
    trained by this loss only becomes worse.  They have no fixed sum (it is 1 if all losses are
    equal); the gradient has the scale of the losses' mean.  The cosine does not depend on the size
    of the losses, so its influence grows as the losses become smaller.

    Deviations:
        The paper draws a random r for every batch, which is also an input of the network, to learn
        the whole Pareto front at once; here r is uniform.  Losses that differ by at most 1e-6 of
        the largest count as equal.  If the length of L is at most 1e-8 or not finite, the weights
        are r.

    Args:
        num_losses: K, the number of losses.
        lamda: weight :math:`\lambda` of the cosine, at least 0.  The authors use 0.01 to 8,
            depending on the data; their default is 2.

    Raises:
        ConfigError: ``lamda`` is negative.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import COSMOSWeighting
        >>> weighting = COSMOSWeighting(2, lamda=1)
        >>> weights = weighting(paddle.to_tensor([1.0, 0.0]))  # the second weight is negative
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
        # This uses the deviations, because the difference in the formula cancels if losses are
        # almost equal.
        deviation = deviations(direction)
        unit = 1 / math.sqrt(self.num_losses)
        slope = unit * deviation.square().sum() - unit * direction.sum() * deviation
        weights = 1 / self.num_losses - self.lamda * slope / size
        known = losses.isfinite().all() & (size > EPS)
        return paddle.where(known, weights, paddle.full_like(losses, 1 / self.num_losses))

    def objective(self, losses: Tensor) -> Tensor:
        """Return the mean minus lambda times the cosine, 0-D."""
        _, direction = polar(losses)
        cosine = direction.sum() / math.sqrt(self.num_losses)
        return losses.mean() - self.lamda * cosine
