"""The adaptive gradient descent algorithm for two losses."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_integer, checked_range
from paddleseg_autoloss.weighting.base import GramianWeighting

__all__ = ["AGDAWeighting"]


class AGDAWeighting(GramianWeighting):
    r"""Adaptive gradient descent algorithm for two losses (AGDA, Physics of Fluids 2023).

    With the smoothed losses :math:`\bar L_i`, an exponential mean with the factor :math:`\gamma`,
    and their values :math:`\bar L_i(kM)` at the latest multiple of M steps, the relative rates are

    .. math::
        \tilde L_i = \bar L_i / \bar L_i(kM), \qquad r_i = \tilde L_i / \sum_j \tilde L_j

    The length of each gradient moves towards the mean length
    :math:`E = (\lVert g_f \rVert + \lVert g_u \rVert) / 2` by the share :math:`r_i`,

    .. math::
        \bar g_i = \omega_i g_i, \qquad
        \omega_i = \frac{r_i (E - \lVert g_i \rVert) + \lVert g_i \rVert}{\lVert g_i \rVert}

    and if the two conflict, :math:`\langle \bar g_f, \bar g_u \rangle < 0`, the second is projected
    onto the normal plane of the first; d is the sum.  So the second loss must not work against the
    first loss.

    "Physics-informed neural network based on a new adaptive gradient descent algorithm for solving
    partial differential equations of flow problems", Physics of Fluids 35, 063608 (2023), equations
    16 to 18, as PaddleScience implements them.  No weight is negative; they sum to about 2.

    Deviations:
        The paper is not freely available; this follows PaddleScience's code, with these
        differences.  :math:`r_i` is the share among the losses; there it is the share among all
        past steps, which goes to 0, so the balancing ends.  :math:`\bar L_i` starts at the first
        loss instead of 0, and :math:`\bar L_i(kM)` is kept between multiples of M. A loss with zero
        gradient gets the weight 1 and is left out of E. While a smoothed loss is not positive, it
        has no rate, and both rates are 1/2.

    Args:
        num_losses: 2.
        M: number of steps between updates of the reference :math:`\bar L_i(kM)`, at least 1.
        gamma: factor of the exponential mean, from 0 to 1.

    Raises:
        ConfigError: there are not two losses, or an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import AGDAWeighting
        >>> gramian = paddle.to_tensor([[9.0, 0.0], [0.0, 1.0]])
        >>> weights = AGDAWeighting(2)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # r = 1/2: lengths 3, 1 become 2.5, 1.5
        [0.8333, 1.5]
    """

    config_name = "AGDA"
    sums_to = "about 2"
    least_losses = most_losses = 2

    def __init__(self, num_losses: int = 2, M: int = 100, gamma: float = 0.999) -> None:
        super().__init__(num_losses)
        self.M = checked_integer("M", M, least=1)
        self.gamma = checked_range("gamma", gamma, least=0, most=1)
        self.register_memory("step", np.zeros([], "int64"))
        # NaN until the first call.
        self.register_memory("smooth", np.full(2, np.nan))
        self.register_memory("smooth_kM", np.full(2, np.nan))

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, not negative, shape [2]."""
        rates = self._rates(losses)
        norms = np.sqrt(np.diag(gramian))
        if (norms == 0).any():
            return np.ones(2)
        omega = (rates * (norms.mean() - norms) + norms) / norms
        inner = omega[0] * omega[1] * gramian[0, 1]
        if inner < 0:
            # d = g_f (1 - inner / |g_f|^2) + g_u in terms of the balanced gradients.
            omega[0] *= 1 - inner / (omega[0] * norms[0]) ** 2
        return omega

    def _rates(self, losses: np.ndarray) -> np.ndarray:
        step, previous = int(self.step), self.smooth.numpy()
        is_first = np.isnan(previous).any()
        smooth = losses if is_first else self.gamma * previous + (1 - self.gamma) * losses
        if is_first or step % self.M == 0:
            self.smooth_kM.set_value(smooth)
        self.smooth.set_value(smooth)
        self.step.set_value(np.asarray(step + 1))
        reference = self.smooth_kM.numpy()
        # Losses that are zero or negative have no rate: both rates are then 1/2.
        tilde = np.ones(2)
        if (smooth > 0).all() and (reference > 0).all():
            tilde = smooth / reference
        return tilde / tilde.sum()
