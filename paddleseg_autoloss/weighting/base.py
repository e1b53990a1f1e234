"""What every weighting method has in common."""

from __future__ import annotations

import math

from paddle import Tensor, nn

from paddleseg_autoloss.errors import ConfigError

__all__ = ["Weighting", "checked_lr_mult", "checked_number"]


class Weighting(nn.Layer):
    r"""A method that turns K losses into one: :math:`\sum_i w_i L_i + P`.

    Subclasses define the weights :math:`w_i` and, where their parameters are learned, the penalty
    :math:`P` that keeps the weights from collapsing to zero.  All that a method remembers lies in
    parameters and buffers, so ``state_dict`` holds the whole of it.

    Args:
        num_losses: K, the number of losses, at least 1.

    Attributes:
        last_weights: the weights of the latest call, shape [K], detached; None before the first.

    Raises:
        ConfigError: ``num_losses`` is not a positive integer.
    """

    #: Name of the learned parameter (the paper's symbol), or None where nothing is learned.
    parameter_name: str | None = None

    def __init__(self, num_losses: int) -> None:
        super().__init__()
        if not isinstance(num_losses, int) or isinstance(num_losses, bool) or num_losses < 1:
            raise ConfigError(f"num_losses: expected a positive integer, found {num_losses!r}")
        self.num_losses = num_losses
        self.last_weights: Tensor | None = None

    def weights(self, losses: Tensor) -> Tensor:
        """Return the K weights, shape [K], for the loss values ``losses``, shape [K]."""
        raise NotImplementedError

    def penalty(self) -> Tensor | None:
        """Return the sum of the terms that do not depend on the losses, 0-D, or None."""
        return None

    def forward(self, losses: Tensor) -> Tensor:
        """Return the total loss, 0-D, for the loss values ``losses``, shape [K]."""
        weights = self.weights(losses)
        self.last_weights = weights.detach()
        total = (weights * losses).sum()
        penalty = self.penalty()
        return total if penalty is None else total + penalty

    def learned(self) -> Tensor | None:
        """Return the learned parameter, shape [K], or None where nothing is learned."""
        return None if self.parameter_name is None else getattr(self, self.parameter_name)


def checked_number(name: str, value: float) -> float:
    """Return ``value`` as a float, or raise ConfigError if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{name}: expected a number, found {value!r}")
    return float(value)


def checked_lr_mult(lr_mult: float) -> float:
    """Return ``lr_mult`` as a float, or raise ConfigError if it is not positive and finite."""
    if isinstance(lr_mult, (int, float)) and lr_mult <= 0:
        raise ConfigError(f"lr_mult: expected a positive number, found {lr_mult!r}")
    return checked_number("lr_mult", lr_mult)
