"""The base of methods that move their weights with the gradients of two independent batches."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_autoloss.tensors import beyond_float32, inner_product
from paddleseg_autoloss.weighting.base import JacobianWeighting
from paddleseg_autoloss.weighting.simplex import onto_simplex

__all__ = ["DoubleSamplingWeighting"]

#: The share of the old mean in the running mean of the squared lengths of the gradients.
_KEPT = 0.9


class DoubleSamplingWeighting(JacobianWeighting):
    r"""Weights on the simplex that move once for each pair of consecutive batches.

    The mean over batches of :math:`J J^T` is not the Gramian of the mean gradients: the noise of a
    batch adds the variance of every gradient to the diagonal.  The mean of :math:`J_1 J_2^T` from
    two independent batches is.  So batches 1 and 2, 3 and 4, ... are pairs: the first one of a pair
    is remembered, and after the second one the weights move.  The update of a step is computed
    before that, with weights that know earlier batches only.

    The products are divided by the running mean of the squared lengths of the gradients in earlier
    pairs, so the scale of the gradients does not matter.  Therefore the first pair only sets this
    mean, and the weights move for the first time after the fourth batch.

    Args:
        num_losses: K, the number of losses.

    Attributes:
        w: the weights, shape [K]; they begin at 1/K, are never negative and sum to 1.
        previous: the gradients of the first batch of a pair, shape [K, n].
        size: the running mean of the squared lengths, 0-D; 0 until the first pair is complete.
    """

    scale = "mean"
    sums_to = "1"
    matrices = ("previous",)

    def __init__(self, num_losses: int) -> None:
        super().__init__(num_losses)
        uniform, host = np.full(num_losses, 1 / num_losses), paddle.CPUPlace()
        self.register_buffer("w", paddle.to_tensor(uniform, place=host))
        self.register_buffer("size", paddle.to_tensor(0.0, dtype="float64", place=host))

    @abstractmethod
    def moved(self, w: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Return the weights after a move, before they are projected onto the simplex, shape [K].

        Args:
            w: the weights before it, shape [K].
            products: :math:`J_1 J_2^T` relative to the squared length of the gradients, [K, K].
        """

    def factors(self, w: np.ndarray) -> np.ndarray:
        """Return the weights of the losses in the update, shape [K].

        Args:
            w: the weights on the simplex, shape [K].
        """
        return w

    @paddle.no_grad()
    def update(self, losses: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """Return d, shape [n], and the weights of the losses in it, shape [K]."""
        self.prepare(jacobian.shape[1])
        factors = paddle.to_tensor(self.factors(self.w.numpy()), dtype="float32")
        update = factors @ jacobian
        if self.next_step() % 2 == 1:
            paddle.assign(jacobian, output=self.previous)
        else:
            self._move(*_products(self.previous, jacobian))
        return update, factors

    def _move(self, products: np.ndarray, square: float) -> None:
        size = float(self.size)
        if size > 0:
            w = onto_simplex(self.moved(self.w.numpy(), products / size))
            self.w.set_value(w)
            square = _KEPT * size + (1 - _KEPT) * square
        self.size.set_value(np.asarray(square))


def _products(first: Tensor, second: Tensor) -> tuple[np.ndarray, float]:
    """Return the inner products of the rows of two matrices, and the mean square of the second's.

    Args:
        first: shape [K, n].
        second: shape [K, n].
    """
    count = len(first)
    pairs = [(first, i, j) for i in range(count) for j in range(count)]
    pairs += [(second, j, j) for j in range(count)]
    for dtype in ("float32", "float64"):
        entries = [inner_product(rows[i], second[j], dtype) for rows, i, j in pairs]
        numbers = paddle.stack(entries).numpy().astype("float64")
        squares = numbers[count * count :]
        if np.isfinite(numbers).all() and not beyond_float32(squares):
            break
    return numbers[: count * count].reshape([count, count]), float(squares.mean())
