"""Dual cone gradient descent by Hwang and Lim."""

from __future__ import annotations

import numpy as np

from paddleseg_autoloss.checks import checked_choice
from paddleseg_autoloss.weighting.base import GramianWeighting

__all__ = ["DCGDWeighting"]


class DCGDWeighting(GramianWeighting):
    r"""An update of two losses that conflicts with none (DCGD, Hwang and Lim 2024).

    Dual cone gradient descent: d is in the dual cone of the two gradients, which is the set of
    updates that conflict with no gradient.  There are three variants.  ``center`` projects the sum
    :math:`g = g_1 + g_2` on the line in the middle between the gradients:

    .. math::
        d = \frac{\langle g, g_c \rangle}{\lVert g_c \rVert^2} \, g_c, \qquad
        g_c = \frac{g_1}{\lVert g_1 \rVert} + \frac{g_2}{\lVert g_2 \rVert}, \qquad
        w_i = \frac{\lVert g_1 \rVert + \lVert g_2 \rVert}{2 \lVert g_i \rVert}

    The two others take :math:`d = g` if g is in the dual cone.  If it is not, they project g onto
    the normal plane of a gradient, :math:`\pi_i(g) = g - \frac{\langle g, g_i \rangle}{\lVert g_i
    \rVert^2} g_i`.  ``proj`` uses the gradient that conflicts with g, which is the shorter one, and
    ``avg`` takes the mean of both projections:

    .. math::
        \text{proj:} \quad d = \pi_i(g) \ \text{where} \ \langle g, g_i \rangle < 0, \qquad
        \text{avg:} \quad d = \tfrac{1}{2} (\pi_1(g) + \pi_2(g))

    Y. Hwang, D.-Y. Lim, "Dual Cone Gradient Descent for Training Physics-Informed Neural Networks",
    NeurIPS 2024 (arXiv:2409.18426), with the three variants of the authors' code.  To first order,
    no loss increases.  No weight is negative; they sum to 2 or more, with ``avg`` to 1.5 or more.
    The scale is that of the losses' sum.  With ``proj`` d is the projection of g onto the dual
    cone, twice the update of DualProj.  With ``center`` d is the update of ConFIG for two losses;
    it is g only if both gradients have the same length.

    Deviations:
        The authors have two groups of losses, the equations and the boundary; here a group is one
        loss.  Their code adds 1e-8 to the lengths, which changes d for gradients of this size; here
        d has the same direction at any scale.  If the gradients are exactly opposed, d is 0, as in
        the limit.  If a gradient is 0, it has no direction: d is the other gradient, and both
        weights are 1; their code takes half of it with ``center``.  As in the paper, with
        ``center`` d jumps when a gradient becomes zero, because the direction of this gradient
        jumps; with ``avg`` d jumps when g leaves the dual cone.

    Args:
        num_losses: 2.
        variant: ``"center"``, ``"avg"`` or ``"proj"``; the authors' default is ``center``.

    Raises:
        ConfigError: there are not two losses, or ``variant`` is none of these.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import DCGDWeighting
        >>> gramian = paddle.to_tensor([[9.0, -1.0], [-1.0, 1.0]])  # lengths 3 and 1, mean 2
        >>> weights = DCGDWeighting(2)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]  # 2/3, 2/1
        [0.6667, 2.0]
        >>> DCGDWeighting(2, variant="proj")(paddle.ones([2]), gramian).tolist()  # no conflict
        [1.0, 1.0]
    """

    config_name = "DCGD"
    sums_to = "2 or more"
    least_losses = most_losses = 2

    def __init__(self, num_losses: int = 2, variant: str = "center") -> None:
        super().__init__(num_losses)
        self.variant = checked_choice("variant", variant, ["center", "avg", "proj"])

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, not negative, shape [2]."""
        squares = gramian.diagonal()
        if (squares <= 0).any():
            return np.ones(2)
        if self.variant == "center":
            lengths = np.sqrt(squares)
            return lengths.mean() / lengths
        inner = gramian.sum(axis=1)
        if inner.min() >= 0:
            return np.ones(2)
        # Row i has the weights of the projection onto the normal plane of gradient i.
        projections = np.ones((2, 2)) - np.diag(inner / squares)
        return projections.mean(axis=0) if self.variant == "avg" else projections[inner.argmin()]
