r"""The figures of each loss and of each pair of losses, measured over some training steps.

:math:`c_i` is the product of a loss's fixed coefficients, :math:`g_i` the gradient of the loss
without them over all trainable parameters, and :math:`d = \sum_j c_j g_j` the update before the
optimizer:

- size: the value of the loss, any number (median);
- gradient norm: :math:`|g_i|`, at least 0 (median);
- share of the update: :math:`\langle c_i g_i, d \rangle / |d|^2` (mean).  The shares sum to 1; a
  negative share means that the update works against that loss;
- cosine of two losses: the cosine of the angle between :math:`c_i g_i` and :math:`c_j g_j`, -1 to
  1 (mean);
- conflict rate: the share of the steps with a negative cosine, 0 to 1;
- shortening: how much shorter the update is in those steps than it would be with the two gradients
  at right angles, :math:`1 - |d| / \sqrt{|d|^2 - 2 c_i c_j \langle g_i, g_j \rangle}`, 0 to 1
  (median of those steps);
- balanced coefficients: proportional to 1 / gradient norm within a head, and scaled so that the
  median length of the head's gradient does not change.  So the ratio between the heads does not
  change, and the learning rate can stay.

The median is used for values that decrease during the steps, because a few large values determine a
mean: over 50 steps of the demo config with three seeds, the first 5 steps change the ratio of the
two mean gradient norms by a factor of 1.6 to 1.8, and the ratio of the medians by 9 % at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from paddleseg_autoloss.integration.gradient_statistics import conflict_rate, cosines
from paddleseg_autoloss.integration.mix import Mix, four_digits
from paddleseg_autoloss.integration.terms import Term

__all__ = ["Diagnosis", "LossFigures", "PairFigures", "Spread"]


@dataclass(frozen=True)
class Spread:
    """A figure and its spread over the steps.

    Args:
        value: the figure; NaN if it is not defined.
        low: lower quartile of the steps.
        high: upper quartile.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LossFigures:
    """The figures of one loss; the docstring of the module defines them.

    Args:
        name: name of the loss.
        head: index of the model output.
        coef: its current coefficient, times that of the head.
        size: value of the loss.
        gradient_norm: length of its gradient.
        share: its share of the update, as a fraction.
        balanced_coef: its balanced coefficient, times that of the head; the quartiles are those of
            the coefficients that single steps would give.
        has_gradient: whether the median norm of its gradient is above 0.
    """

    name: str
    head: int
    coef: float
    size: Spread
    gradient_norm: Spread
    share: Spread
    balanced_coef: Spread
    has_gradient: bool


@dataclass(frozen=True)
class PairFigures:
    """The figures of two losses; the docstring of the module defines them.

    Args:
        first: name of one loss.
        second: name of the other.
        cosine: cosine of the angle between their gradients; NaN if one was 0 in every step.
        conflict_rate: share of the steps in which they conflict.
        shortening: shortening of the update in those steps, as a fraction; 0 without conflicts.
    """

    first: str
    second: str
    cosine: Spread
    conflict_rate: float
    shortening: float

    @property
    def names(self) -> str:
        """Both names."""
        return f"{self.first}, {self.second}"


class Diagnosis:
    """The figures of a run of N steps with K losses.

    Args:
        terms: the K losses, with their fixed coefficients.
        values: the values of the losses times their coefficients, shape [N, K].
        gramians: the inner products of the gradients of these products, shape [N, K, K].
        skipped: number of steps before these N, which are not counted.

    Attributes:
        norms: gradient norm of each loss in each step, shape [N, K]; NaN with the coefficient 0.
        has_gradient: whether the median norm of each loss is above 0, shape [K].
        cosines: cosine of each pair in each step, shape [N, K, K].
        losses: the figures of each loss.
        pairs: the figures of each pair, the lowest cosine first.
        conflict_rate: share of the steps in which at least one pair conflicts.
        mix: the balanced coefficients.  A loss with zero gradient gets 0.  If all losses of a head
            have zero gradient, the head keeps its coefficients.

    Examples:
        >>> import numpy as np
        >>> from paddle import nn
        >>> terms = [Term("a", 0, nn.Identity(), 1.0), Term("b", 0, nn.Identity(), 1.0)]
        >>> gramian = [[9.0, 0.0], [0.0, 1.0]]  # lengths 3 and 1, at right angles
        >>> found = Diagnosis(terms, np.array([[0.5, 0.5]]), np.array([gramian]))
        >>> [loss.share.value for loss in found.losses]
        [0.9, 0.1]
        >>> found.mix.coefs
        [[0.25, 0.75]]
    """

    def __init__(
        self, terms: Sequence[Term], values: np.ndarray, gramians: np.ndarray, skipped: int = 0
    ) -> None:
        self.terms = list(terms)
        self.skipped = skipped
        self._coefs = np.array([term.coef for term in terms])
        self._raw_gramians = _divide(gramians, np.outer(self._coefs, self._coefs))
        self.norms = np.sqrt(np.diagonal(self._raw_gramians, axis1=1, axis2=2))
        self.has_gradient = np.median(self.norms, axis=0) > 0
        self.cosines = cosines(gramians)
        self.pairs = self._pairs(gramians)
        self.conflict_rate = float((self.cosines < 0).any(axis=(1, 2)).mean())
        self.mix = self._mix(gramians)
        self.losses = self._losses(values, gramians)

    @property
    def steps(self) -> int:
        """The number of counted steps."""
        return len(self.norms)

    @property
    def known_pairs(self) -> list[PairFigures]:
        """The pairs whose cosine is defined, the lowest cosine first."""
        return [pair for pair in self.pairs if not math.isnan(pair.cosine.value)]

    def heads(self) -> list[list[int]]:
        """Return the indices of the losses of each head."""
        heads = dict.fromkeys(term.head for term in self.terms)
        return [[i for i, t in enumerate(self.terms) if t.head == head] for head in heads]

    def _pairs(self, gramians: np.ndarray) -> list[PairFigures]:
        squares = gramians.sum(axis=(1, 2))
        pairs = [
            self._pair(i, j, gramians[:, i, j], squares)
            for i, j in combinations(range(len(self.terms)), 2)
        ]
        return sorted(pairs, key=lambda pair: np.nan_to_num(pair.cosine.value, nan=math.inf))

    def _pair(self, i: int, j: int, products: np.ndarray, squares: np.ndarray) -> PairFigures:
        """Return the figures of two losses.

        Args:
            i: index of one loss.
            j: index of the other.
            products: inner products of their weighted gradients, shape [N].
            squares: squared lengths of the update, shape [N].
        """
        angles = self.cosines[:, i, j]
        conflict = angles < 0
        at_right_angles = squares[conflict] - 2 * products[conflict]
        shortening = 1 - np.sqrt(np.clip(squares[conflict], 0, None) / at_right_angles)
        return PairFigures(
            self.terms[i].name,
            self.terms[j].name,
            _spread(angles),
            conflict_rate(angles),
            float(np.median(shortening)) if conflict.any() else 0.0,
        )

    def _balanced_coefs(self, head: list[int], norms: np.ndarray) -> np.ndarray:
        """Return coefficients of equal coef x norm for a head; 0 for a zero gradient."""
        return _balanced_coefs(self._coefs[head], np.where(self.has_gradient, norms, 0.0)[head])

    def _mix(self, gramians: np.ndarray) -> Mix:
        norms = np.median(self.norms, axis=0)
        coefs, head_coefs, terms = [], [], []
        for head in self.heads():
            own = self._balanced_coefs(head, norms)
            kept = np.flatnonzero(own) if own.any() else range(len(head))
            coefs.append([four_digits(own[i]) for i in kept])
            head_coefs.append(four_digits(self._head_coef(head, own, gramians)))
            terms += [self.terms[head[i]] for i in kept]
        return Mix(coefs, head_coefs, terms)

    def _head_coef(self, head: list[int], own: np.ndarray, gramians: np.ndarray) -> float:
        """Return the head's coefficient that keeps the length of its gradient."""
        now = _median_length(gramians[:, head][:, :, head], np.ones(len(head)))
        then = _median_length(np.nan_to_num(self._raw_gramians[:, head][:, :, head]), own)
        return float(now / then if then else self._coefs[head].sum())

    def _losses(self, values: np.ndarray, gramians: np.ndarray) -> list[LossFigures]:
        sizes = _divide(values, self._coefs)
        shares = _divide(gramians.sum(axis=2), gramians.sum(axis=(1, 2))[:, None])
        balanced = self._balanced_spreads()
        return [
            LossFigures(
                term.name,
                term.head,
                term.coef,
                _spread(sizes[:, i], np.median),
                _spread(self.norms[:, i], np.median),
                _spread(shares[:, i]),
                balanced[i],
                bool(self.has_gradient[i]),
            )
            for i, term in enumerate(self.terms)
        ]

    def _balanced_spreads(self) -> list[Spread]:
        """Return the balanced coefficient of each loss, with its spread over the single steps."""
        known = self.norms[:, self.has_gradient].all(axis=1)
        of_steps = np.array([self._all_balanced_coefs(norms) for norms in self.norms[known]])
        of_steps = of_steps.reshape(-1, len(self.terms))
        values = self._all_balanced_coefs(np.median(self.norms, axis=0))
        return [
            replace(_spread(of_steps[:, i]), value=float(value)) for i, value in enumerate(values)
        ]

    def _all_balanced_coefs(self, norms: np.ndarray) -> np.ndarray:
        """Return the balanced coefficients of all losses for given gradient norms, shape [K]."""
        coefs = np.zeros(len(self.terms))
        for head, head_coef in zip(self.heads(), self.mix.head_coefs):
            coefs[head] = head_coef * self._balanced_coefs(head, norms)
        return coefs


def _divide(dividend: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """Divide; the quotient is NaN if the divisor is 0."""
    full = np.full(dividend.shape, np.nan)
    return np.divide(dividend, divisor, out=full, where=np.broadcast_to(divisor != 0, full.shape))


def _spread(values: np.ndarray, center: Callable[[np.ndarray], float] = np.mean) -> Spread:
    """Return the mean, or another center, and the quartiles of the values that are not NaN."""
    known = values[~np.isnan(values)]
    if not known.size:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(float(center(known)), *map(float, np.percentile(known, [25, 75])))


def _balanced_coefs(coefs: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Return coefficients of equal coef x norm for one head, which sum to 1.

    A loss with a zero gradient or a coefficient of 0 gets 0.
    """
    balanced = np.divide(1.0, norms, out=np.zeros(len(coefs)), where=(norms > 0) & (coefs > 0))
    if not balanced.any():
        balanced = coefs
    return balanced / (balanced.sum() or 1.0)


def _median_length(gramians: np.ndarray, coefs: np.ndarray) -> float:
    """Return the median length of sum_i coef_i x gradient_i over the steps."""
    squares = np.einsum("i,nij,j->n", coefs, gramians, coefs)
    return float(np.median(np.sqrt(np.clip(squares, 0, None))))
