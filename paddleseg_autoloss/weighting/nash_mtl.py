"""Multi-task learning as a bargaining game by Navon et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import directions, fair_shares

__all__ = ["NashMTLWeighting"]


class NashMTLWeighting(GramianWeighting):
    r"""Weights as the outcome of a bargaining game (Nash-MTL, Navon et al. 2022).

    The losses negotiate about the update.  Nash's axioms have one solution: the update in a ball
    that maximises the product of the gains, so also :math:`\sum_i \log \langle g_i, d \rangle`.  It
    is :math:`d = \sum_i \alpha_i g_i` with

    .. math:: G \alpha = 1 / \alpha, \qquad \alpha > 0

    for each element.  All gains :math:`\alpha_i \langle g_i, d \rangle` are equal, and the
    direction of d does not depend on the lengths of the gradients.

    A. Navon, A. Shamsian, I. Achituve, H. Maron, K.  Kawaguchi, G. Chechik, E. Fetaya, "Multi-Task
    Learning as a Bargaining Game", ICML 2022, algorithm 1.  As in the authors' code, G is first
    divided by its Frobenius norm.  The length of d is then :math:`\sqrt{K \lVert G \rVert_F}`, and
    it is limited to ``max_norm``.  The weights are positive and have no fixed sum.  For K equal
    gradients all weights are 1, the scale of the losses' sum.  But for most networks the limit
    determines the length: all steps are equally long, so the scale of the losses does not matter,
    and the training converges only if the learning rate decreases.

    Deviations:
        The equation is solved exactly, by Newton's method on
        :math:`\frac{1}{2} \alpha^T G \alpha - \sum_i \log \alpha_i`, while the authors solve a
        sequence of convex programs approximately, starting from the previous weights.  This
        implementation has no state.  The authors limit the gradient of the shared parameters; here
        the gradient of all parameters (or of the logits) is limited.  If the losses are Pareto
        stationary, there is no solution: eigenvalues of the cosine matrix below :math:`10^{-8}` are
        set to :math:`10^{-8}`, so conflict increases no weight by a factor of more than about
        :math:`10^4`, and d is close to 0.  A loss with zero gradient is left out and gets the
        weight 0.

    Args:
        num_losses: K, the number of losses.
        max_norm: the largest length of the update, before ``reduction`` or ``constant_sum`` is
            applied, at least 0; 0 means no limit.

    Raises:
        ConfigError: ``max_norm`` is negative.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import NashMTLWeighting
        >>> gramian = paddle.to_tensor([[4.0, 0.0], [0.0, 0.25]])  # lengths 2 and 1/2
        >>> weights = NashMTLWeighting(2)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # 1/2 and 2, divided by the root of 2
        [0.3536, 1.4142]
    """

    config_name = "NashMTL"
    scale = "its own"

    def __init__(self, num_losses: int, max_norm: float = 1.0) -> None:
        super().__init__(num_losses)
        self.max_norm = checked_range("max_norm", max_norm, least=0)

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, not negative, shape [K]."""
        weights = np.zeros(len(gramian))
        some, lengths, cosines = directions(gramian)
        if len(some):
            # For unit gradients, the length of the solution d is the square root of their number.
            root = np.sqrt(len(some))
            factor = np.sqrt(np.linalg.norm(gramian))
            if self.max_norm:
                factor = min(factor, self.max_norm / root)
            weights[some] = factor * fair_shares(cosines, np.ones(len(some))) / lengths
        return weights
