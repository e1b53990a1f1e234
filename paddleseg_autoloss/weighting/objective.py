"""Methods that minimise a function of the losses, and what the logarithm of a loss needs."""

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

#: A loss at or below this has no usable logarithm or reciprocal.
EPS = 1e-8


class ObjectiveWeighting(LossWeighting):
    r"""A method that minimises a function f of the losses other than their weighted sum.

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
        """Return f, whose derivatives are the weights, 0-D."""
        value = self.objective(losses.detach())
        return value + (weights.detach() * (losses - losses.detach())).sum()


def usable(losses: Tensor) -> Tensor:
    """Return whether each loss has a usable logarithm: it is finite and above `EPS`."""
    return losses.isfinite() & (losses > EPS)


def logarithm(losses: Tensor) -> Tensor:
    """Return the logarithms, 0 where there is no usable one."""
    return paddle.where(usable(losses), losses, paddle.ones_like(losses)).log()


def reciprocal(losses: Tensor) -> Tensor:
    """Return the reciprocals, 0 where there is no usable one."""
    mask = usable(losses)
    return mask.astype(losses.dtype) / paddle.where(mask, losses, paddle.ones_like(losses))


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax over those where the mask is true; over all, uniform, if it never is."""
    softmax = nn.functional.softmax(paddle.where(mask, logits, paddle.full_like(logits, -1e30)))
    # Paddle's softmax never falls to 0.
    return paddle.where(mask | ~mask.any(), softmax, paddle.zeros_like(softmax))


def deviations(losses: Tensor) -> Tensor:
    """Return the losses less their mean, all 0 if none is beyond the rounding of the losses."""
    deviation = losses - losses.mean()
    rounding = deviation.abs().max() <= 1e-6 * losses.abs().max()
    return paddle.where(rounding, paddle.zeros_like(losses), deviation)


def polar(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Return the length of the vector of losses, 0-D, and its direction; that of 0 is 0."""
    # Divided by the largest first: squares overflow.
    largest = losses.abs().max()
    scaled = losses / paddle.where(largest > 0, largest, paddle.ones_like(largest))
    length = scaled.square().sum().sqrt()
    return largest * length, scaled / paddle.where(length > 0, length, paddle.ones_like(length))
