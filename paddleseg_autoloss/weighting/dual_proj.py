"""Projection of the mean gradient onto the dual cone, after Lopez-Paz and Ranzato."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paddleseg_autoloss.checks import checked_preference
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import directions, factor, nonnegative

__all__ = ["DualProjWeighting"]


class DualProjWeighting(GramianWeighting):
    r"""The mean gradient, projected to conflict with none (DualProj, Lopez-Paz and Ranzato 2017).

    The mean of the gradients, by default with the preferences :math:`u_i = 1 / K`, is projected
    onto the dual cone of the gradients, which is the set of updates that conflict with no gradient:

    .. math::
        d = \text{argmin}_y \Big\lVert y - \sum_i u_i \, g_i \Big\rVert
        \quad \text{with} \quad \langle g_j, y \rangle \ge 0 \ \text{for all } j

    By duality :math:`d = J^T w` for the w that minimises :math:`w^T G w` over :math:`w \ge u`.

    D. Lopez-Paz, M. Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, the
    quadratic programs of section 3; the name is from P. Quinton, V. Rey, "Jacobian Descent for
    Multi-Objective Optimization", arXiv:2406.16232.  No weight is below :math:`u_i`; without
    conflict the weights are u, so the update has the scale of the losses' mean, and d is never
    longer than the mean of the gradients.  To first order, no loss increases.

    Deviations:
        GEM projects the gradient of the current task, and its constraints are the past tasks; here
        the mean is projected, and the constraints are all losses, as in TorchJD.  TorchJD adds 1e-4
        to the diagonal of the Gramian divided by its trace, and returns the mean if the gradients
        are smaller than 1e-4.  Here the projection is exact at any scale, except for angles too
        small for single precision: eigenvalues of the cosine matrix below :math:`10^{-8}` are set
        to :math:`10^{-8}`.  A loss with zero gradient changes nothing and gets the weight
        :math:`u_i`.  The preferences are divided by their sum, so they do not change the scale;
        TorchJD takes them as they are.

    Args:
        num_losses: K, the number of losses.
        pref_vector: how important each loss is: K numbers of at least 0, in the order of the
            losses, not all 0; only their ratios matter.  By default all losses are alike.

    Raises:
        ConfigError: ``pref_vector`` is not such a list.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import DualProjWeighting
        >>> gramian = paddle.to_tensor([[18.0, -22.0], [-22.0, 38.0]])
        >>> weights = DualProjWeighting(2)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # the mean conflicts with the first: 22/18 / 2
        [0.6111, 0.5]
    """

    config_name = "DualProj"
    sums_to = "1 or more"
    scale = "mean"

    def __init__(self, num_losses: int, pref_vector: Sequence[float] | None = None) -> None:
        super().__init__(num_losses)
        self.pref_vector = pref_vector
        self._preference = np.array(checked_preference("pref_vector", pref_vector, num_losses))

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, at least u, shape [K]."""
        weights = self._preference.copy()
        if (gramian * weights).sum(axis=1).min() < 0:
            some, lengths, cosines = directions(gramian)
            # The tolerance of the solver requires numbers of about 1.
            relative = lengths / lengths.max()
            root = factor(cosines)
            weights[some] += nonnegative(root, -(root @ (relative * weights[some]))) / relative
        return weights / len(gramian)
