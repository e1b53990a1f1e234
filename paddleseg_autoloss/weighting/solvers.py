"""Small exact solvers that several methods share.

All of them use the directions of the gradients, so the scale does not matter.  Inner products in
single precision cannot separate angles below about 1e-4 from 0.  So `factor` sets the eigenvalues
of the cosine matrix to at least `LEAST_EIGENVALUE`, the square of this angle.  Every problem then
has one solution, and the solution is bounded.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg.lapack import dposv, dsyevd
from scipy.optimize import nnls

__all__ = ["LEAST_EIGENVALUE", "certainty", "directions", "factor", "fair_shares", "nonnegative"]

LEAST_EIGENVALUE = 1e-8
#: An eigenvalue of cosines in single precision that is above this is more than a rounding error.
_CERTAIN = 1e-5


def directions(gramian: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return indices, lengths and cosines of the m gradients that are not 0.

    Args:
        gramian: the inner products of the gradients, shape [K, K].

    Returns:
        indices, shape [m]; lengths, shape [m]; cosines, shape [m, m].
    """
    lengths = np.sqrt(np.maximum(gramian.diagonal(), 0))
    some = lengths.nonzero()[0]
    if len(some) < len(lengths):
        lengths, gramian = lengths[some], gramian[np.ix_(some, some)]
    cosines = gramian / (lengths * lengths[:, None])
    return some, lengths, np.minimum(np.maximum(cosines, -1), 1)


def certainty(eigenvalues: np.ndarray) -> np.ndarray:
    """Return how certain it is that eigenvalues are not 0: a continuous function from 0 to 1.

    Args:
        eigenvalues: eigenvalues of cosines in single precision, shape [m].
    """
    # The cube is used because the result divided by the eigenvalue must still go to 0 with it.
    return np.clip(eigenvalues / _CERTAIN, 0, 1) ** 3


def factor(cosines: np.ndarray) -> np.ndarray:
    """Return A with A^T A = C, where the smallest eigenvalues of C are increased, shape [m, m].

    Args:
        cosines: C, symmetric, shape [m, m].
    """
    # This calls LAPACK directly: for such a small matrix, NumPy's checks take most of the time.
    values, vectors, _ = dsyevd(cosines)
    return np.sqrt(np.maximum(values, LEAST_EIGENVALUE))[:, None] * vectors.T


def nonnegative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the x >= 0 that minimises |matrix x - target|, shape [m].

    Args:
        matrix: shape [rows, m].
        target: shape [rows].
    """
    return nnls(matrix, target, maxiter=30 * matrix.shape[1])[0]


def fair_shares(cosines: np.ndarray, sizes: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    r"""Return the u > 0 with :math:`(C u)_i = b_i (u_i / b_i)^{-1 / \alpha}`, shape [m].

    It minimises the convex function :math:`\frac{1}{2} u^T C u - \sum_i \phi_i(u_i)` with
    :math:`\phi_i'(u_i) = b_i (u_i / b_i)^{-1/\alpha}`.  This is Newton's method.  It computes the
    best multiple of u before each step and halves a step that is too long.

    Args:
        cosines: C, symmetric, shape [m, m].
        sizes: b, positive, shape [m].
        alpha: positive.
    """
    root = factor(cosines)
    matrix, exponent = root.T @ root, -1 / alpha
    rounding, diagonal = 1e-15 * np.abs(matrix), np.arange(len(sizes))
    u, pull, push = sizes, matrix @ sizes, sizes
    for _ in range(60):
        multiple = ((u @ push) / (u @ pull)) ** (1 / (1 - exponent))
        u, pull, push = multiple * u, multiple * pull, multiple**exponent * push
        gap = push - pull
        if (np.abs(gap) <= rounding @ u).all():
            break
        hessian = matrix.copy()
        hessian[diagonal, diagonal] -= exponent * push / u
        _, step, _ = dposv(hessian, gap)
        relative, slope = step / u, step @ gap
        change = np.abs(relative).max()
        for halvings in range(20):
            moved = relative / 2**halvings
            # To keep u positive, take the step in u where u grows, and in phi'(u) where u shrinks.
            trial = u * np.where(moved > 0, 1 + moved, (1 - np.minimum(moved, 0) / alpha) ** -alpha)
            pull, push = matrix @ trial, sizes * (trial / sizes) ** exponent
            if change < 1e-3 or step @ (pull - push) < 0.25 * slope:
                break
        u = trial
        if change < 1e-8:
            break
    return u
