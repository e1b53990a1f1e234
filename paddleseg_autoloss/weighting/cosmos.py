"""The objective of COSMOS by Ruchte and Grabocka."""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_preference, checked_range
from paddleseg_autoloss.weighting.objective import EPS, ObjectiveWeighting, deviations, polar

__all__ = ["COSMOSWeighting"]


class COSMOSWeighting(ObjectiveWeighting):
    r"""The mean minus the cosine between losses and preference (COSMOS, Ruchte and Grabocka 2021).

    The losses should be small and, because of the cosine, proportional to a preference r, by
    default :math:`r_i = 1 / K`:

    .. math::
        f = r \cdot L - \lambda \cos(r, L), \qquad
        w = r - \lambda \frac{\hat r - \cos(r, L) \hat L}{\lVert L \rVert}

    where a hat means that a vector is divided by its length.

    M. Ruchte, J. Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning",
    ICDM 2021 (arXiv:2103.13392).  The weights are treated as constants in differentiation.  They
    can be negative: training then increases a loss that is far below the others; a head that is
    trained by this loss only becomes worse.  They have no fixed sum (it is 1 if the losses are
    proportional to r); the gradient has the scale of the losses' mean.  The cosine does not depend
    on the size of the losses, so its influence grows as the losses become smaller.

    Deviations:
        The paper draws a random r for every batch, which is also an input of the network, to learn
        the whole Pareto front at once; here r does not change.  A difference of at most 1e-6 of
        the largest loss counts as 0.  The preferences are divided by their sum, so they do not
        change the scale; TorchJD takes them as they are.  If the length of L is at most 1e-8 or not
        finite, the weights are r.

    Args:
        num_losses: K, the number of losses.
        lamda: weight :math:`\lambda` of the cosine, at least 0.  The authors use 0.01 to 8,
            depending on the data; their default is 2.
        weights: the preference r, K numbers of at least 0, in the order of the losses, not all 0;
            only their ratios matter.  By default all losses are alike.

    Raises:
        ConfigError: ``lamda`` is negative, or ``weights`` is no preference.

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

    def __init__(
        self, num_losses: int, lamda: float = 2.0, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(num_losses)
        self.lamda = checked_range("lamda", lamda, least=0)
        self.weights = weights
        preference = checked_preference("weights", weights, num_losses)
        unit = [p / math.hypot(*preference) for p in preference]
        r = [p / num_losses for p in preference]
        self.register_buffer("r", paddle.to_tensor(r, dtype="float32"), persistable=False)
        self.register_buffer("unit", paddle.to_tensor(unit, dtype="float32"), persistable=False)

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the derivatives, shape [K], detached."""
        size, direction = polar(losses)
        # This uses what is left across r, because the difference in the formula cancels if the
        # losses are almost proportional to r.
        cosine, rest = self._split(direction)
        slope = self.unit * rest.square().sum() - cosine * rest
        weights = self.r - self.lamda * slope / size
        known = losses.isfinite().all() & (size > EPS)
        return paddle.where(known, weights, self.r)

    def objective(self, losses: Tensor) -> Tensor:
        """Return the mean minus lambda times the cosine, 0-D."""
        _, direction = polar(losses)
        if self.weights is None:
            cosine = direction.sum() / math.sqrt(self.num_losses)
            return losses.mean() - self.lamda * cosine
        return (self.r * losses).sum() - self.lamda * (self.unit * direction).sum()

    def _split(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosine, 0-D, and the part of the direction across r, shape [K]."""
        if self.weights is None:
            return 1 / math.sqrt(self.num_losses) * direction.sum(), deviations(direction)
        cosine = (self.unit * direction).sum()
        return cosine, deviations(direction, cosine * self.unit)
