"""Norms of the losses' gradients, and the angles between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.ranks import is_writing_rank

__all__ = ["GradientStatistics", "PairRow", "conflict_rate", "cosines"]


@dataclass(frozen=True)
class PairRow:
    """The gradients of two losses over one log window.

    Args:
        iteration: the window's last iteration.
        first: name of one loss.
        second: name of the other.
        first_norm: mean norm of the first loss's gradient.
        second_norm: mean norm of the second loss's gradient.
        cosine: mean cosine of the angle between the two gradients; NaN if one of them was zero in
            every step.
        conflict: share of the steps in which the cosine was negative.
    """

    iteration: int
    first: str
    second: str
    first_norm: float
    second_norm: float
    cosine: float
    conflict: float


class GradientStatistics:
    """Collects the Gramians of one aggregator.

    Args:
        prefix: text to put before the names of its losses.
        aggregator: the aggregator.

    Attributes:
        names: the names of its losses.
        is_exact: whether its gradients are taken with respect to the parameters.
    """

    def __init__(self, prefix: str, aggregator: LossAggregator) -> None:
        self.names = [prefix + name for name in aggregator.names]
        self.is_exact = aggregator.level == "parameters"
        self._aggregator = aggregator
        self._gramians: list[np.ndarray] = []
        self._writes = is_writing_rank()

    def note(self) -> None:
        """Record the Gramian of the current step, if there is one."""
        gramian, self._aggregator.last_gramian = self._aggregator.last_gramian, None
        if self._writes and gramian is not None and np.isfinite(gramian).all():
            self._gramians.append(gramian)

    def window(self, iteration: int) -> list[PairRow]:
        """Return the means since the last call, one row per pair of losses."""
        gramians, self._gramians = self._gramians, []
        if not gramians:
            return []
        stack = np.stack(gramians)
        norms = np.sqrt(np.diagonal(stack, axis1=1, axis2=2)).mean(axis=0)
        angles = cosines(stack)
        return [
            PairRow(
                iteration,
                self.names[i],
                self.names[j],
                float(norms[i]),
                float(norms[j]),
                _mean(angles[:, i, j]),
                conflict_rate(angles[:, i, j]),
            )
            for i, j in combinations(range(len(self.names)), 2)
        ]


def cosines(gramians: np.ndarray) -> np.ndarray:
    """Return the cosines of Gramians, shape [..., K, K]; NaN where a gradient is zero."""
    norms = np.sqrt(np.diagonal(gramians, axis1=-2, axis2=-1))
    products = norms[..., :, None] * norms[..., None, :]
    return np.divide(gramians, products, out=np.full_like(gramians, np.nan), where=products > 0)


def conflict_rate(angles: np.ndarray) -> float:
    """Return the share of cosines that are negative; NaN counts as not negative."""
    return float((angles < 0).mean())


def _mean(angles: np.ndarray) -> float:
    known = angles[~np.isnan(angles)]
    return float(known.mean()) if known.size else float("nan")
