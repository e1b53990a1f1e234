"""Conflict-averse gradient descent by Liu et al."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg.lapack import dposv

from paddleseg_autoloss.checks import checked_range
from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting.base import GramianWeighting
from paddleseg_autoloss.weighting.solvers import directions, factor, nonnegative

__all__ = ["CAGradWeighting"]


class CAGradWeighting(GramianWeighting):
    r"""Conflict-averse gradient descent (CAGrad, Liu et al. 2021).

    Near the average gradient :math:`g_0 = \frac{1}{K} \sum_i g_i`, CAGrad searches for the update
    that decreases the worst loss most:

    .. math::
        \max_d \min_i \langle g_i, d \rangle
        \quad \text{with} \quad \lVert d - g_0 \rVert \le c \lVert g_0 \rVert

    Its dual is a problem over the simplex, with :math:`g_w = \sum_i w_i g_i`:

    .. math::
        \min_w F(w) = \langle g_w, g_0 \rangle + c \lVert g_0 \rVert \lVert g_w \rVert,
        \qquad d = g_0 + \frac{c \lVert g_0 \rVert}{\lVert g_w \rVert} g_w

    B. Liu, X. Liu, X. Jin, P. Stone, Q. Liu, "Conflict-Averse Gradient Descent for Multi-task
    Learning", NeurIPS 2021, algorithm 1.  No weight is negative.  Without conflict they sum to
    about :math:`(1 + c) / (1 + c^2)`, the scale of the mean of the losses rather than of their sum:
    with plain SGD raise the learning rate by K.  To first order, no loss increases if
    :math:`c \ge 1`.

    Deviations:
        The minimiser is exact at any scale of the gradients; other implementations stop early if
        the gradients are small.  If the losses are Pareto stationary, :math:`g_w` is 0 and the
        weights would be infinite.  Therefore eigenvalues of the cosine matrix below
        :math:`10^{-8}`, which are 0 in single precision, are set to :math:`10^{-8}`.  No d
        decreases a loss with zero gradient; the update is then optimal for the other losses, and
        does not move further from :math:`g_0` than they need.

    Args:
        num_losses: K, the number of losses.
        calpha: c, the largest distance from the average gradient, relative to its length; 0 gives
            the average.
        rescale: divisor of the update: 0 for none, 1 for :math:`1 + c^2`, 2 for :math:`1 + c`.

    Raises:
        ConfigError: ``calpha`` is negative or ``rescale`` is none of 0, 1, 2.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import CAGradWeighting
        >>> gramian = paddle.to_tensor([[18.0, -22.0], [-22.0, 38.0]])
        >>> weights = CAGradWeighting(2, calpha=0.5, rescale=0)(paddle.ones([2]), gramian)
        >>> [round(w, 4) for w in weights.tolist()]
        [0.7041, 0.5]
    """

    config_name = "CAGrad"
    sums_to = "about 1"
    scale = "mean"

    def __init__(self, num_losses: int, calpha: float = 0.5, rescale: int = 1) -> None:
        super().__init__(num_losses)
        self.calpha = checked_range("calpha", calpha, least=0)
        if rescale not in (0, 1, 2) or isinstance(rescale, bool):
            raise ConfigError(f"rescale: expected 0, 1 or 2, found {rescale!r}")
        self.rescale = rescale

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, not negative, shape [K]."""
        c, count = self.calpha, len(gramian)
        divisor = (1, 1 + c**2, 1 + c)[self.rescale]
        q = gramian.sum(axis=1) / count
        radius = c * math.sqrt(max(q.sum() / count, 0))
        return (1 / count + _correction(gramian, q, radius)) / divisor


def _correction(gramian: np.ndarray, q: np.ndarray, radius: float) -> np.ndarray:
    r"""Return :math:`v = c \lVert g_0 \rVert w / \lVert g_w \rVert` for the minimiser w.

    With :math:`q_i = \langle g_i, g_0 \rangle`, the optimality conditions say that v minimises
    :math:`\frac{1}{2} v^T G v + (q - \mu 1)^T v` over :math:`v \ge 0` for the :math:`\mu` at which
    :math:`\sqrt{v^T G v}` equals the radius.  This length is a distance to a cone, so it is convex
    in :math:`\mu`, and Newton's method from the right does not overshoot.  As long as the same v
    are positive, its square is a quadratic function.  The root of this function is tried first,
    with all v positive at the beginning.
    """
    v = np.zeros(len(q))
    if radius == 0:
        return v
    some, lengths, cosines = directions(gramian)
    # The problem is solved for u = v |g| / radius and gradients of length 1, so the scale of the
    # gradients does not matter.
    root = factor(cosines)
    slope, offset = lengths.min() / lengths, q[some] / (lengths * radius)
    mu, u = _on_face(root, slope, offset)
    if u.min() < 0 or (len(some) < len(q) and mu > 0):
        u = _newton(root, slope, offset, most=np.inf if len(some) == len(q) else 0.0)
    v[some] = u * radius / lengths
    return v


def _newton(root: np.ndarray, slope: np.ndarray, offset: np.ndarray, most: float) -> np.ndarray:
    """Return u at the root, or at `most` if `most` is smaller, shape [m]."""
    # The rows of the factor are orthogonal.
    squares = (root * root).sum(axis=1)
    point, base = (root @ slope) / squares, (root @ offset) / squares
    # A single loss reaches the radius at (1 + offset) / slope; all together reach it at or before
    # that.
    mu = newton = min(float(((1 + offset) / slope).min()), most)
    tried = b""
    for _ in range(100):
        u = nonnegative(root, mu * point - base)
        image = root @ u
        length = math.sqrt(image @ image)
        if abs(length - 1) < 1e-10 or (length < 1 and mu == newton):
            break
        if length < 1:
            mu = newton
            continue
        mu = newton = mu - (length - 1) * length / float(u @ slope)
        face = u > 0
        if face.tobytes() != tried:
            tried = face.tobytes()
            mu = min(newton, _on_face(root[:, face], slope[face], offset[face])[0])
    return u


def _on_face(face: np.ndarray, slope: np.ndarray, offset: np.ndarray) -> tuple[float, np.ndarray]:
    r"""Return the largest :math:`\mu` at which the length is 1 if u may be negative, and this u.

    If there is none, return infinity and a vector of -1.

    Args:
        face: columns of the factor, shape [K, m].
        slope: the factors of :math:`\mu` in the gains, shape [m].
        offset: the numbers subtracted after that, shape [m].
    """
    _, solved, _ = dposv(face.T @ face, np.array([slope, offset]).T)
    first, second = solved.T
    square = float(slope @ first)
    middle = float(slope @ second) / square
    apart = face @ (middle * first - second)
    rest = 1 - float(apart @ apart)
    if rest < 0:
        return math.inf, -np.ones(len(slope))
    mu = middle + math.sqrt(rest / square)
    return mu, mu * first - second
