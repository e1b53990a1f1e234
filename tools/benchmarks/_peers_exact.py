"""The solutions to which benchmark_peers.py compares all solvers.

All are found by another way than the solvers': active sets (Lawson and Hanson, Solving Least
Squares Problems, 1974, chapter 23) for vectors that have the Gramian, and Newton's method where the
condition is an equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from _peers_shared import TAU, C
from scipy.optimize import brentq, nnls

#: A combination counts as 0 if it is shorter than this share of the longest gradient.
_VANISHES = 1e-3


class Exact(NamedTuple):
    """The solution for a Gramian.

    Args:
        weights: of the gradients.
        gramian: that of the gradients that are combined.
        length: errors are relative to this length.
        any_length: whether only the direction of an update counts.
    """

    weights: np.ndarray
    gramian: np.ndarray
    length: float
    any_length: bool = False

    def error(self, weights: Sequence[float] | np.ndarray) -> float:
        """Return the distance of an update to the exact one, relative to the length."""
        found = np.asarray(weights)
        square = found @ self.gramian @ found
        if self.any_length and square > 0:
            found = found * (found @ self.gramian @ self.weights) / square
        off = found - self.weights
        return float(np.sqrt(max(off @ self.gramian @ off, 0)) / self.length)


def units(gramian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return gradients of length 1 as columns, and the lengths that they have in truth."""
    lengths = np.sqrt(gramian.diagonal())
    values, vectors = np.linalg.eigh(gramian / np.outer(lengths, lengths))
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T, lengths


def longest(gramian: np.ndarray) -> float:
    """Return the length of the longest gradient."""
    return float(np.sqrt(gramian.diagonal().max()))


def shortest(columns: np.ndarray) -> np.ndarray:
    """Return the weights on the simplex of the shortest combination.

    With a sum of squares that a row of ones completes, weights of any sum have the same optimum.
    """
    scale = np.linalg.norm(columns, axis=0).max()
    rows = np.vstack([columns / scale, np.ones(columns.shape[1])])
    weights, _ = nnls(rows, np.append(np.zeros(len(columns)), 1))
    return weights / weights.sum()


def mgda(gramian: np.ndarray) -> Exact:
    """Return the shortest combination on the simplex."""
    unit, lengths = units(gramian)
    return Exact(shortest(unit * lengths), gramian, longest(gramian))


def cagrad(gramian: np.ndarray) -> Exact | None:
    """Return the mean gradient with what CAGrad adds; None where the gradients cancel.

    Its problem is that of the shortest combination of all g_i + (t / r) g_0, where r is the radius
    and t the length of the combination of g_i that this gives.
    """
    unit, lengths = units(gramian)
    columns, most = unit * lengths, longest(gramian)
    mean = columns.mean(axis=1, keepdims=True)
    radius = C * np.linalg.norm(mean)

    def weights_at(t: float) -> np.ndarray:
        return shortest(columns + t / radius * mean)

    def excess(t: float) -> float:
        return float(np.linalg.norm(columns @ weights_at(t)) - t)

    if radius < _VANISHES * most or excess(_VANISHES * most) <= 0:
        return None
    t = brentq(excess, _VANISHES * most, 2 * most, xtol=1e-15 * most, rtol=1e-15)
    return Exact(1 / len(gramian) + radius / t * weights_at(t), gramian, most)


def projected(gramian: np.ndarray, starts: np.ndarray) -> Exact:
    """Return the sum of the projections of combinations onto the dual cone of the gradients.

    Args:
        gramian: that of the gradients.
        starts: the weights of each combination, shape [N, K].
    """
    unit, lengths = units(gramian)
    added = [nnls(unit, -unit @ (start * lengths))[0] / lengths for start in starts]
    return Exact((starts + added).sum(axis=0), gramian, longest(gramian))


def upgrad(gramian: np.ndarray) -> Exact:
    """Return the mean of the projected gradients."""
    return projected(gramian, np.eye(len(gramian)) / len(gramian))


def dual_proj(gramian: np.ndarray) -> Exact:
    """Return the projected mean of the gradients."""
    return projected(gramian, np.full((1, len(gramian)), 1 / len(gramian)))


def fairgrad(gramian: np.ndarray) -> Exact | None:
    """Return the solution of G w = 1 / w; None where a combination vanishes: there is none.

    It minimises w^T G w / 2 - sum log w_i; a damped Newton method finds it from anywhere.
    """
    unit, lengths = units(gramian)
    if np.linalg.norm(unit @ shortest(unit)) < _VANISHES:
        return None
    cosines, x, decrement = unit.T @ unit, np.ones(len(gramian)), 1.0
    for _ in range(500):
        slope = cosines @ x - 1 / x
        step = np.linalg.solve(cosines + np.diag(1 / x**2), slope)
        decrement = np.sqrt(slope @ step)
        x -= step / (1 + decrement if decrement > 0.25 else 1)
        if decrement < 1e-14:
            break
    return Exact(x / lengths, gramian, np.sqrt(len(gramian)))


def nash(gramian: np.ndarray) -> Exact | None:
    """Return the solution for the Gramian divided by its norm, as Nash-MTL's authors have it.

    Only its direction counts: with the norm, the authors' code and the peers' get another length.
    """
    found = fairgrad(gramian / np.linalg.norm(gramian))
    return found and found._replace(any_length=True)


def pcd(gramian: np.ndarray) -> Exact | None:
    """Return PCD's direction, with the length of the first gradient; None where there is none."""
    unit, lengths = units(gramian)
    rows, lacking = unit[:, 1:].T, TAU - unit[:, 1:].T @ unit[:, 0]
    multipliers, _ = nnls(np.vstack([rows.T, lacking]), np.append(np.zeros(len(unit)), 1))
    slack = 1 - lacking @ multipliers
    if slack < _VANISHES**2:
        return None
    weights = np.append(1, multipliers / slack)
    length = np.linalg.norm(unit @ weights)
    if length < _VANISHES:
        return None
    return Exact(weights * lengths[0] / length / lengths, gramian, lengths[0])


#: The solutions by the names of the methods.
EXACT = {
    "MGDA": mgda,
    "CAGrad": cagrad,
    "UPGrad": upgrad,
    "DualProj": dual_proj,
    "NashMTL": nash,
    "FairGrad": fairgrad,
    "PCD": pcd,
}
