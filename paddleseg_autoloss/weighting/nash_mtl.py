"""Multi-task learning as a bargaining game by Navon et al."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import directions, fair_shares

__all__ = ["NashMTLWeighting"]


class NashMTLWeighting(GramianWeighting):
    r"""Weights as the outcome of a bargaining game (Nash-MTL, Navon et al. 2022).

    The losses bargain about the update.  The one that Nash's axioms single out maximises the
    product of their gains, :math:`\sum_i \log \langle g_i, d \rangle` over a ball of updates d, and
    is :math:`d = \sum_i \alpha_i g_i` with

    .. math:: G \alpha = 1 / \alpha, \qquad \alpha > 0

    element by element.  The gains :math:`\alpha_i \langle g_i, d \rangle` are all the same, and the
    direction of d does not depend on the lengths of the gradients.

    A. Navon, A. Shamsian, I. Achituve, H. Maron, K. Kawaguchi, G. Chechik, E. Fetaya, "Multi-Task
    Learning as a Bargaining Game", ICML 2022, algorithm 1.  As in the authors' code, G is divided
    by its Frobenius norm first, and the length of d, which is then
    :math:`\sqrt{K \lVert G \rVert_F}`, is capped at ``max_norm``.  The weights are positive and sum
    to nothing in particular.  For K equal gradients they are 1, the scale of the losses' sum; but
    for most networks the cap is what counts: it makes all steps equally long, so that the learning
    rate has to fall for the training to settle, and the scale of the losses does not matter.

    Deviations:
        The equation is solved exactly, by Newton's method on
        :math:`\frac{1}{2} \alpha^T G \alpha - \sum_i \log \alpha_i`, where the authors solve a
        sequence of convex programs approximately, starting from the previous weights.  Nothing is
        remembered here.  The authors cap the gradient of the shared parameters; here it is that of
        all parameters (or of the logits).  Where the losses are Pareto stationary there is no
        solution: eigenvalues of the cosines below :math:`10^{-8}` are raised to that, so
        conflict makes no weight more than some :math:`10^4` times as large, and d is close to 0.  A
        loss without gradient takes no part and gets the weight 0.

    Args:
        num_losses: K, the number of losses.
        max_norm: the largest length of the update when the weights are found, before any
            ``reduction``, at least 0; 0 for no cap.

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
            # At the solution on unit gradients the length of d is the root of their number.
            root = np.sqrt(len(some))
            factor = np.sqrt(np.linalg.norm(gramian))
            if self.max_norm:
                factor = min(factor, self.max_norm / root)
            weights[some] = factor * fair_shares(cosines, np.ones(len(some))) / lengths
        return weights
