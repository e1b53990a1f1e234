"""Priority-constrained descent by Varam and AlHajri."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from paddleseg_autoloss.checks import checked_integer, checked_range, one_for_each
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import (
    LEAST_EIGENVALUE,
    directions,
    factor,
    nonnegative,
)

__all__ = ["PCDWeighting"]


class PCDWeighting(GramianWeighting):
    r"""One primary loss, with guaranteed progress of the others (PCD, Varam and AlHajri 2026).

    Priority-constrained descent: the update is as close as possible to the gradient of the primary
    loss p, for example that of the main head, under the constraint that every other loss, for
    example of an auxiliary head, makes some progress.  The gradients are normalised by a running
    mean of their squared lengths,

    .. math::
        v_i &\leftarrow \beta v_i + (1 - \beta) \lVert g_i \rVert^2, \qquad
        \tilde g_i = \frac{g_i}{\sqrt{v_i / (1 - \beta^t) + \epsilon}} \\
        \tilde d &= \text{argmin}_d \tfrac{1}{2} \lVert d - \tilde g_p \rVert^2
        \quad \text{with} \quad \langle \tilde g_j, d \rangle \ge \tau_j \lVert \tilde g_j \rVert^2
        \ \text{for } j \ne p

    at step t; d is :math:`\tilde d` with the length of :math:`g_p`.

    D. Varam, M. I. AlHajri, "Not All Objectives Are Born Equal: Priority-Constrained Descent for
    Hierarchical Multi-Objective Optimization", TMLR 2026 (arXiv:2606.29521), definitions 4.1 and
    4.5 and algorithm 1.  No weight is negative.  If all constraints are satisfied without a
    correction, d is the gradient of the primary loss: its weight is 1, and the other weights are 0.
    In general, a loss whose constraint is not active has the weight 0.  The order of the other
    losses and constant factors of the losses do not matter.

    Deviations:
        :math:`\epsilon` is multiplied by the mean of the :math:`v_i / (1 - \beta^t)`, so that it
        has the same effect for gradients of any size.  Constraints that cannot be satisfied
        together, for example those of two opposed secondary losses, are dropped for the step, as in
        algorithm 1.  They count as such if the correction cancels to a thousandth, because single
        precision cannot separate this from opposed gradients.  There d jumps, as in the paper, to
        the gradient of the primary loss.  If :math:`\tilde d` is almost 0, which is possible only
        with a tiny :math:`\tau`, its length is multiplied by at most :math:`10^4`.  A secondary
        loss with zero gradient is left out and gets the weight 0.  If the gradient of the primary
        loss is zero, d is 0, as in the paper, and the weights are those without conflict.

        The parameters of an auxiliary head are trained with the weight of its loss, which is often
        0.  So the head trains slowly, and the smaller :math:`\tau` is, the slower it trains.

    Args:
        num_losses: K, the number of losses.
        primary: p, the primary loss: its name, such as ``head0/CrossEntropyLoss``, or its index,
            counted from 0 in the order of the config.
        tau: the least progress of every secondary loss, as a share of the progress along its own
            normalised gradient, from 0 to 1; with 0 the loss only must not increase.  One number
            for all losses, or a list with one for each; that of the primary loss is not used.
        beta: the decay of the running mean, at least 0 and below 1.
        eps: prevents a gradient of almost 0 from being normalised, at least 0.

    Raises:
        ConfigError: ``primary`` is not a loss, or an argument is out of its range.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import PCDWeighting
        >>> gramian = paddle.to_tensor([[1.0, -1.2], [-1.2, 4.0]])  # (1, 0) and (-1.2, 1.6)
        >>> weights = PCDWeighting(2, tau=0.0)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # (0.64, 0.48), lengthened by 1 / 0.8
        [1.25, 0.375]
    """

    config_name = "PCD"
    scale = "mean"

    def __init__(
        self,
        num_losses: int,
        primary: int | str = 0,
        tau: float | Sequence[float] = 0.02,
        beta: float = 0.999,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(num_losses)
        self.primary = primary
        if not isinstance(primary, str) and checked_integer("primary", primary, 0) >= num_losses:
            raise ConfigError(f"primary: expected an index below {num_losses}, found {primary}")
        self._index = primary if isinstance(primary, int) else None
        self.tau = tau
        taus = one_for_each("tau", tau, num_losses)
        self._taus = np.array([checked_range("tau", t, least=0, most=1) for t in taus])
        self.beta = checked_range("beta", beta, least=0, most=1)
        if beta == 1:
            raise ConfigError("beta: expected a number below 1, found 1")
        self.eps = checked_range("eps", eps, least=0)
        self.register_memory("step", np.zeros([], "int64"))
        self.register_memory("v", np.zeros(num_losses))

    def take_names(self, names: Sequence[str]) -> None:
        """Find the primary loss by its name.

        Raises:
            ConfigError: no loss has this name.
        """
        if isinstance(self.primary, str):
            if self.primary not in names:
                raise ConfigError(
                    f"primary: expected one of {', '.join(names)}, found {self.primary!r}"
                )
            self._index = list(names).index(self.primary)

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, not negative, shape [K]."""
        return self.combine(gramian, self._mean_squares(gramian.diagonal()))

    def combine(self, gramian: np.ndarray, mean_squares: np.ndarray) -> np.ndarray:
        """Return the weights without changing any state, shape [K].

        Args:
            gramian: the inner products of the gradients, shape [K, K].
            mean_squares: the bias-corrected running means of their squared lengths, shape [K].

        Raises:
            ConfigError: the primary loss is given by its name, and the losses have no names.
        """
        primary = self._index
        if primary is None:
            raise ConfigError(f"primary: expected an index without names, found {self.primary!r}")
        weights = np.zeros(len(gramian))
        weights[primary] = 1
        some, lengths, cosines = directions(gramian)
        if gramian[primary, primary] <= 0 or len(some) == 1:
            return weights
        first = int(some.searchsorted(primary))
        others = np.arange(len(some)) != first
        # The lengths of the normalised gradients, relative to that of the primary loss.
        norms = lengths / np.sqrt(mean_squares + self.eps / len(gramian) * mean_squares.sum())[some]
        lacking = (self._taus[some] / norms[first] * norms - cosines[first])[others]
        if lacking.max() <= 0:
            return weights
        shares = np.ones(len(some))
        shares[others] = _multipliers(cosines[others][:, others], lacking)
        square = max(shares @ cosines @ shares, LEAST_EIGENVALUE * (shares @ shares))
        weights[some] = shares * (lengths[first] / math.sqrt(square)) / lengths
        return weights

    def _mean_squares(self, squares: np.ndarray) -> np.ndarray:
        """Update the running means of the squared lengths; return them without bias, shape [K]."""
        step = int(self.step) + 1
        v = self.beta * self.v.numpy() + (1 - self.beta) * squares
        self.step.set_value(np.asarray(step))
        self.v.set_value(v)
        return v / (1 - self.beta**step)


def _multipliers(cosines: np.ndarray, lacking: np.ndarray) -> np.ndarray:
    """Return the x >= 0 with C x >= lacking that minimises x C x, or zeros if there is none.

    Args:
        cosines: C, symmetric, shape [m, m].
        lacking: the progress that the constraints lack, at least one positive, shape [m].
    """
    if len(lacking) == 1:
        return lacking
    # This is Lawson and Hanson's least-distance programming.
    most = lacking.max()
    lacking = lacking / most
    target = np.zeros(len(lacking) + 1)
    target[-1] = 1
    scaled = nonnegative(np.concatenate([factor(cosines), lacking[None]]), target)
    if scaled @ cosines @ scaled <= 1e-6 * (scaled @ scaled):
        return np.zeros(len(lacking))
    return scaled * (most / (1 - scaled @ lacking))
