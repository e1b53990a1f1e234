"""The base class of methods that minimise a function of the losses, and shared functions."""

from __future__ import annotations

from abc import abstractmethod

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.weighting.base import LossWeighting

__all__ = [
    "EPS",
    "ObjectiveWeighting",
    "deviations",
    "logarithm",
    "masked_softmax",
    "polar",
    "reciprocal",
    "usable",
]

#: A loss at or below this value has no usable logarithm or reciprocal.
EPS = 1e-8


class ObjectiveWeighting(LossWeighting):
    r"""A method that minimises a function f of the losses that is not their weighted sum.

    Its weights are the derivatives :math:`w_i = \partial f / \partial L_i`.

    Args:
        num_losses: K, the number of losses.
    """

    @abstractmethod
    def objective(self, losses: Tensor) -> Tensor:
        """Return the value f of the losses, 0-D.

        Args:
            losses: the loss values, detached, shape [K].
        """

    def total(self, losses: Tensor, weights: Tensor) -> Tensor:
        """Return f, 0-D; its derivatives are the weights."""
        value = self.objective(losses.detach())
        return value + (weights.detach() * (losses - losses.detach())).sum()


def usable(losses: Tensor) -> Tensor:
    """Return whether each loss has a usable logarithm: it is finite and above `EPS`."""
    return losses.isfinite() & (losses > EPS)


def logarithm(losses: Tensor) -> Tensor:
    """Return the logarithms; 0 for a loss without a usable logarithm."""
    return paddle.where(usable(losses), losses, paddle.ones_like(losses)).log()


def reciprocal(losses: Tensor) -> Tensor:
    """Return the reciprocals; 0 for a loss without a usable reciprocal."""
    mask = usable(losses)
    return mask.astype(losses.dtype) / paddle.where(mask, losses, paddle.ones_like(losses))


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax over the true entries of a mask; 1 / K each if no entry is true."""
    softmax = nn.functional.softmax(paddle.where(mask, logits, paddle.full_like(logits, -1e30)))
    # Paddle's softmax never returns exactly 0.
    return paddle.where(mask | ~mask.any(), softmax, paddle.zeros_like(softmax))


def deviations(losses: Tensor, expected: Tensor | None = None) -> Tensor:
    """Return the losses minus what is expected; all 0 if they differ only by rounding errors.

    Args:
        losses: the loss values, shape [K].
        expected: shape [K]; by default their mean.
    """
    deviation = losses - (losses.mean() if expected is None else expected)
    rounding = deviation.abs().max() <= 1e-6 * losses.abs().max()
    return paddle.where(rounding, paddle.zeros_like(losses), deviation)


def polar(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Return the length of the loss vector, 0-D, and its direction, or 0 for a zero vector."""
    # The vector is first divided by its largest number, because squares may overflow.
    largest = losses.abs().max()
    scaled = losses / paddle.where(largest > 0, largest, paddle.ones_like(largest))
    length = scaled.square().sum().sqrt()
    return largest * length, scaled / paddle.where(length > 0, length, paddle.ones_like(length))
