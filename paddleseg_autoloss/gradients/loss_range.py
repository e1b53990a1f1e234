"""Check that losses are in the range that a method accepts: many require at least 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor
from paddleseg.utils import logger

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.weighting import METHODS, JacobianWeighting, LossWeighting, Weighting
from paddleseg_autoloss.weighting.base import LEAST_LOSS

__all__ = ["LossRange"]


class LossRange:
    """Checks for negative losses if a method does not accept them.

    If the method learns its weights, it keeps the weight of a negative loss unchanged, and one
    warning names the loss.  For other methods a negative loss is an error: they would ignore it or
    increase it.

    Args:
        names: the K names of the losses.
        weighting: the method.

    Attributes:
        names: the argument ``names``.
        weighting: the argument ``weighting``.
        warns: whether a negative loss causes a warning.
        refuses: whether a negative loss is an error.
        noted: the losses out of range that `note` has found since the last `check`, shape [K], NaN
            for a loss within the range; None if `note` was not called.
        prefix: text before the names in messages.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.gradients.loss_range import LossRange
        >>> from paddleseg_autoloss.weighting import GLSWeighting
        >>> loss_range = LossRange(["ce", "rmi"], GLSWeighting(2))
        >>> loss_range.note(paddle.to_tensor([0.5, -0.25]))
        >>> try:
        ...     loss_range.check()
        ... except ValueError as error:
        ...     print(str(error).split(";")[0])
        rmi: expected a loss above 0 for GLS, found -0.25
    """

    def __init__(self, names: Sequence[str], weighting: Weighting) -> None:
        self.names = names
        self.weighting = weighting
        is_learned = weighting.parameter_name is not None
        self.warns = weighting.loss_range != "any" and is_learned
        self.refuses = weighting.loss_range != "any" and not is_learned
        self.noted: Tensor | None = None
        self._warned: set[str] = set()
        self.prefix = ""

    @paddle.no_grad()
    def note(self, losses: Tensor) -> None:
        """Record the losses out of range of a step; the numbers stay on the device.

        Args:
            losses: the loss values, shape [K].
        """
        # If a loss is not finite, another error has priority.
        outside = self.weighting.out_of_range(losses) & losses.isfinite().all()
        before = paddle.full_like(losses, math.nan) if self.noted is None else self.noted
        self.noted = paddle.where(outside, losses, before)

    def check(self) -> None:
        """Warn of the recorded losses or refuse them; this waits for the device.

        Raises:
            ConfigError: a loss is negative, and the method does not learn its weights.
        """
        latest, self.noted = self.weighting.frozen if self.warns else self.noted, None
        if latest is not None:
            self.judge(latest.numpy())

    def judge(self, marks: np.ndarray) -> None:
        """Warn of negative losses if the weights are learned, and refuse them otherwise.

        Args:
            marks: shape [K]; NaN for a loss within the range.  For another loss it is the loss
                value or, if weights are learned, the parameter value that is kept.

        Raises:
            ConfigError: a loss is negative, and the method does not learn its weights.
        """
        method = self.weighting.short_name
        for index, (name, value) in enumerate(zip(self.names, marks)):
            if math.isnan(value):
                continue
            if self.refuses:
                raise ConfigError(self._describe(index, value))
            if name not in self._warned:
                self._warned.add(name)
                logger.warning(
                    f"{self.prefix}{name} is negative: {method} does not support losses below 0; "
                    "it keeps the weight of this loss until the loss is positive again"
                )

    def refuse(self, losses: np.ndarray) -> None:
        """Refuse negative losses; the values are on the host, finite, shape [K].

        Raises:
            ConfigError: a loss is negative.
        """
        self.judge(np.where(losses < LEAST_LOSS, losses, math.nan))

    def _describe(self, index: int, value: float) -> str:
        name, least = self.names[index], self.weighting.lower_bound(index)
        kind = JacobianWeighting if isinstance(self.weighting, JacobianWeighting) else LossWeighting
        others = [
            other
            for other, method in METHODS.items()
            if method.loss_range == "any" and issubclass(method, kind)
        ]
        above = "above" if self.weighting.loss_range == "positive" else "of at least"
        return (
            f"{self.prefix}{name}: expected a loss {above} {least:g} for "
            f"{self.weighting.short_name}, found {value:.4g}; {', '.join(others)} and most methods "
            "that need the Gramian accept negative losses"
        )
