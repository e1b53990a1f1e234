"""What every weighting method has in common."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.errors import ConfigError

__all__ = [
    "GramianWeighting",
    "Weighting",
    "checked_integer",
    "checked_lr_mult",
    "checked_number",
    "checked_range",
]


class Weighting(nn.Layer):
    r"""A method that finds the weights :math:`w_i` of K losses: :math:`\sum_i w_i L_i + P`.

    ``weights = method(losses, gramian)`` needs no network.  Subclasses define ``forward`` and,
    where their parameters are learned, the penalty :math:`P` that keeps the weights from collapsing
    to zero.  All that a method remembers lies in parameters and buffers, random state and step
    counter included, so ``state_dict`` holds the whole of it.

    Args:
        num_losses: K, the number of losses, at least 1.

    Raises:
        ConfigError: ``num_losses`` is not a positive integer.
    """

    #: Whether the weights depend on the Gramian of the losses' gradients.
    needs_gramian: ClassVar[bool] = False
    #: Name of the learned parameter (the paper's symbol), or None where nothing is learned.
    parameter_name: ClassVar[str | None] = None

    def __init__(self, num_losses: int) -> None:
        super().__init__()
        self.num_losses = checked_integer("num_losses", num_losses, least=1)

    def forward(self, losses: Tensor, gramian: Tensor | None = None) -> Tensor:
        """Return the K weights, shape [K].

        Args:
            losses: the loss values, shape [K].
            gramian: the inner products of their gradients, shape [K, K], for those that need it.
        """
        raise NotImplementedError

    def penalty(self) -> Tensor | None:
        """Return the sum of the terms that do not depend on the losses, 0-D, or None."""
        return None

    def total(self, losses: Tensor, weights: Tensor) -> Tensor:
        """Return the total loss, 0-D.

        Args:
            losses: the loss values, shape [K].
            weights: what this method returned for them, shape [K].
        """
        total = (weights * losses).sum()
        penalty = self.penalty()
        return total if penalty is None else total + penalty

    def learned(self) -> Tensor | None:
        """Return the learned parameter, shape [K], or None where nothing is learned."""
        return None if self.parameter_name is None else getattr(self, self.parameter_name)


class GramianWeighting(Weighting):
    r"""A method whose weights follow from the Gramian :math:`G_{ij} = \langle g_i, g_j \rangle`.

    K is small, so the weights are found on the host in double precision; buffers live there too.

    Args:
        num_losses: K, the number of losses, at least 1.
    """

    needs_gramian = True

    def forward(self, losses: Tensor, gramian: Tensor | None = None) -> Tensor:
        """Return the K weights, shape [K], detached."""
        if gramian is None:
            raise ConfigError(f"{type(self).__name__}: expected the Gramian of the gradients")
        return paddle.to_tensor(self.solve(_double(losses), _double(gramian)), dtype="float32")

    def solve(self, losses: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return the K weights.

        Args:
            losses: the loss values, finite, shape [K].
            gramian: symmetric and positive semi-definite, finite, shape [K, K].
        """
        raise NotImplementedError

    def register_memory(self, name: str, value: np.ndarray | float) -> None:
        """Register a buffer on the host, where `solve` reads and writes it."""
        self.register_buffer(name, paddle.to_tensor(value, place=paddle.CPUPlace()))


def _double(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().astype("float64")


def checked_number(name: str, value: float) -> float:
    """Return ``value`` as a float, or raise ConfigError if it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{name}: expected a number, found {value!r}")
    return float(value)


def checked_range(name: str, value: float, least: float, most: float = math.inf) -> float:
    """Return ``value`` as a float, or raise ConfigError if it is not a number within bounds."""
    bounds = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    if isinstance(value, (int, float)) and not least <= value <= most:
        raise ConfigError(f"{name}: expected a number {bounds}, found {value!r}")
    return checked_number(name, value)


def checked_integer(name: str, value: int, least: int) -> int:
    """Return ``value``, or raise ConfigError if it is not an integer of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise ConfigError(f"{name}: expected {kind}, found {value!r}")
    return value


def checked_lr_mult(lr_mult: float) -> float:
    """Return ``lr_mult`` as a float, or raise ConfigError if it is not positive and finite."""
    if isinstance(lr_mult, (int, float)) and lr_mult <= 0:
        raise ConfigError(f"lr_mult: expected a positive number, found {lr_mult!r}")
    return checked_number("lr_mult", lr_mult)
