"""Whether losses stay in the range that a method is made for, which for many begins at 0."""

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
    """Looks for negative losses where a method is not made for them.

    Where weights are learned, the method keeps that of a negative loss, and one warning names the
    loss.  Elsewhere a negative loss would be switched off or made to rise: it is an error.

    Args:
        names: the K names of the losses.
        weighting: the method.

    Attributes:
        names: as given.
        weighting: as given.
        warns: whether a negative loss is worth a warning.
        refuses: whether a negative loss is an error.
        noted: what `note` has found since it was last read, shape [K], NaN for a loss within the
            range; None if there was nothing to look at.
        prefix: what the names begin with in messages.

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
        """Look at the losses of a step on the device, where they stay.

        Args:
            losses: the loss values, shape [K].
        """
        # A loss that is not finite is another matter, which comes first.
        outside = self.weighting.out_of_range(losses) & losses.isfinite().all()
        before = paddle.full_like(losses, math.nan) if self.noted is None else self.noted
        self.noted = paddle.where(outside, losses, before)

    def check(self) -> None:
        """Judge the latest losses; this waits for the device.

        Raises:
            ConfigError: a loss is negative, and the method does not learn its weights.
        """
        latest, self.noted = self.weighting.frozen if self.warns else self.noted, None
        if latest is not None:
            self.judge(latest.numpy())

    def judge(self, marks: np.ndarray) -> None:
        """Warn of negative losses where weights are learned, and refuse them elsewhere.

        Args:
            marks: NaN for a loss within the range, shape [K]; for another its value, or where
                weights are learned the parameter that is kept.

        Raises:
            ConfigError: a loss is negative, and the method does not learn its weights.
        """
        for name, value in zip(self.names, marks):
            if math.isnan(value):
                continue
            if self.refuses:
                raise ConfigError(self._describe(name, value))
            if name not in self._warned:
                self._warned.add(name)
                logger.warning(
                    f"{self.prefix}{name} is negative: {self._method()} is not made for losses "
                    "below 0 and keeps the weight of this one as it is until it is positive again"
                )

    def refuse(self, losses: np.ndarray) -> None:
        """Refuse negative losses that are on the host already, all finite, shape [K].

        Raises:
            ConfigError: there is one.
        """
        self.judge(np.where(losses < LEAST_LOSS, losses, math.nan))

    def _method(self) -> str:
        names = {method.__name__: name for name, method in METHODS.items()}
        return names.get(self.weighting.class_name, self.weighting.class_name)

    def _describe(self, name: str, value: float) -> str:
        kind = JacobianWeighting if isinstance(self.weighting, JacobianWeighting) else LossWeighting
        others = [
            other
            for other, method in METHODS.items()
            if method.loss_range == "any" and issubclass(method, kind)
        ]
        expected = "above 0" if self.weighting.loss_range == "positive" else "of at least 0"
        return (
            f"{self.prefix}{name}: expected a loss {expected} for {self._method()}, found "
            f"{value:.4g}; {', '.join(others)} and most methods that need the Gramian take "
            "negative ones"
        )
