"""Penalty-based boundary intersection by Zhang and Li."""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import checked_preference, checked_range, checked_reference
from paddleseg_autoloss.weighting.objective import ObjectiveWeighting, deviations, polar

__all__ = ["PBIWeighting"]


class PBIWeighting(ObjectiveWeighting):
    r"""Penalty-based boundary intersection (PBI, Zhang and Li 2007).

    The losses, counted from a reference point z, should be small and, because of a penalty,
    proportional to a preference r, which is uniform by default:

    .. math::
        f = d_1 + \theta d_2, \qquad d_1 = (L - z) \cdot \hat r, \quad
        d_2 = \lVert L - z - d_1 \hat r \rVert, \qquad
        w = \hat r + \theta \frac{L - z - d_1 \hat r}{d_2}

    where :math:`\hat r` is r divided by its length.  By default f is :math:`\sqrt K` times the sum
    of the losses' mean and :math:`\theta` times their standard deviation.  A loss with a larger
    preference is allowed to be larger.

    Q. Zhang, H. Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", IEEE
    Transactions on Evolutionary Computation 2007.  The weights are treated as constants in
    differentiation; with a uniform preference they sum to :math:`\sqrt K`.  They are often
    negative: training then increases a loss that is far below its share; a head that is trained by
    this loss only becomes worse.  The gradient has :math:`\sqrt K` times the scale of the losses'
    mean.

    Deviations:
        The paper has many preferences, one for each of its solutions; here there is one.  A
        difference of at most 1e-6 of the largest loss counts as 0: :math:`d_2` then has no
        gradient, and the weights are :math:`\hat r`.  They are the same if a loss is not finite.

    Args:
        num_losses: K, the number of losses.
        theta: penalty on the difference of the losses, at least 0; for values above
            :math:`1 / \sqrt{K - 1}` weights can be negative, with unequal preferences sooner.
        weights: the preference r, K numbers of at least 0, in the order of the losses, not all 0;
            only their ratios matter.  By default all losses are alike.
        reference: the reference point z, K numbers in the order of the losses: a lower bound of
            each, by default 0.

    Raises:
        ConfigError: ``theta`` is negative, ``weights`` is no preference, or ``reference`` is no
            list of K numbers.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import PBIWeighting
        >>> weighting = PBIWeighting(4, theta=0.5)
        >>> losses = paddle.to_tensor([3.0, 1.0, 3.0, 1.0])
        >>> weighting(losses).tolist()
        [0.75, 0.25, 0.75, 0.25]
        >>> float(weighting.total(losses, weighting(losses)))  # 4 + 0.5 * 2
        5.0
    """

    config_name = "PBI"
    loss_range = "non-negative"
    sums_to = "sqrt(K)"
    scale = "sqrt(K)"
    may_be_negative = True

    def __init__(
        self,
        num_losses: int,
        theta: float = 5.0,
        weights: Sequence[float] | None = None,
        reference: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_losses)
        self.theta = checked_range("theta", theta, least=0)
        self.weights = weights
        self.reference = reference
        preference = checked_preference("weights", weights, num_losses)
        unit = [r / math.hypot(*preference) for r in preference]
        least = checked_reference("reference", reference, num_losses)
        self.register_buffer("unit", paddle.to_tensor(unit, dtype="float32"), persistable=False)
        self.register_buffer("least", paddle.to_tensor(least, dtype="float32"), persistable=False)

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the derivatives, shape [K], detached."""
        _, rest = self._split(losses)
        _, direction = polar(rest)
        weights = self.unit + self.theta * direction
        return paddle.where(losses.isfinite().all(), weights, self.unit)

    def objective(self, losses: Tensor) -> Tensor:
        """Return d1 + theta d2, 0-D."""
        d1, rest = self._split(losses)
        d2, _ = polar(rest)
        return d1 + self.theta * d2

    @property
    def lower_bounds(self) -> Tensor:
        """The reference point, shape [K]."""
        return self.least

    def _split(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Return d1, 0-D, and the part of the losses across the preference, shape [K]."""
        losses = losses - self.least
        if self.weights is None:
            return math.sqrt(self.num_losses) * losses.mean(), deviations(losses)
        d1 = (losses * self.unit).sum()
        return d1, deviations(losses, d1 * self.unit)
