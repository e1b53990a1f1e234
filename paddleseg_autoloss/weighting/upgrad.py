"""Unconflicting projection of gradients by Quinton and Rey."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddleseg_autoloss.checks import checked_preference
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import directions, factor, nonnegative

__all__ = ["UPGradWeighting"]


class UPGradWeighting(GramianWeighting):
    r"""The mean of gradients projected to conflict with none (UPGrad, Quinton and Rey 2024).

    Every gradient is projected onto the dual cone of all gradients, which is the set of updates
    that conflict with no gradient.  The projections are averaged, by default with the preferences
    :math:`u_i = 1 / K`:

    .. math::
        d = \sum_i u_i \, \pi_J(g_i), \qquad
        \pi_J(x) = \text{argmin}_y \lVert y - x \rVert
        \quad \text{with} \quad \langle g_j, y \rangle \ge 0 \ \text{for all } j

    By duality :math:`\pi_J(g_i) = J^T v` for the v that minimises :math:`v^T G v` over
    :math:`v \ge e_i`.

    P. Quinton, V. Rey, "Jacobian Descent for Multi-Objective Optimization", arXiv:2406.16232,
    section 3.  No weight is below :math:`u_i`; without conflict the weights are u, so the update
    has the scale of the losses' mean, and d is no longer than the mean length of the gradients.  To
    first order, no loss increases.  For two losses and equal preferences it is the update of PCGrad
    divided by 2.

    Deviations:
        TorchJD adds 1e-4 to the diagonal of the Gramian divided by its trace, and returns the mean
        if the gradients are smaller than 1e-4.  Here the projections are exact at any scale, except
        for angles too small for single precision: eigenvalues of the cosine matrix below
        :math:`10^{-8}` are set to :math:`10^{-8}`.  A loss with zero gradient changes nothing and
        gets the weight :math:`u_i`.  The preferences are divided by their sum, so they do not
        change the scale; TorchJD takes them as they are.

    Args:
        num_losses: K, the number of losses.
        pref_vector: how important each loss is: K numbers of at least 0, in the order of the
            losses, not all 0; only their ratios matter.  By default all losses are alike.

    Raises:
        ConfigError: ``pref_vector`` is not such a list.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import UPGradWeighting
        >>> gramian = paddle.to_tensor([[18.0, -22.0], [-22.0, 38.0]])
        >>> weights = UPGradWeighting(2)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # (1 + 22/18) / 2, (1 + 22/38) / 2
        [1.1111, 0.7895]
        >>> weights = UPGradWeighting(2, pref_vector=[1, 3])(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # (1 + 3 22/18) / 4, (22/38 + 3) / 4
        [1.1667, 0.8947]
    """

    config_name = "UPGrad"
    sums_to = "1 or more"
    scale = "mean"

    def __init__(self, num_losses: int, pref_vector: Sequence[float] | None = None) -> None:
        super().__init__(num_losses)
        self.pref_vector = pref_vector
        self._preference = np.array(checked_preference("pref_vector", pref_vector, num_losses))

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, at least u, shape [K]."""
        some, lengths, cosines = directions(gramian)
        root = factor(cosines)
        added = np.zeros(len(some))
        for length, column in zip(lengths * self._preference[some], root.T):
            added += length * nonnegative(root, -column)
        weights = self._preference.copy()
        weights[some] += added / lengths
        return weights / len(gramian)
