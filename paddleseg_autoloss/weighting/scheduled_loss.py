"""Fixed coefficients that change over training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
from paddle import Tensor

from paddleseg_autoloss.checks import (
    checked_choice,
    checked_integer,
    checked_numbers,
)
from paddleseg_autoloss.errors import ConfigError, shown
from paddleseg_autoloss.weighting.base import LossWeighting

__all__ = ["ScheduledWeighting"]


class ScheduledWeighting(LossWeighting):
    r"""Fixed coefficients that change over training by a schedule.

    The weights change from ``coef`` to ``final_coef`` as the progress p goes from 0 to 1:

    .. math::
        w_i(t) = (1 - p) \, \text{coef}_i + p \, \text{final_coef}_i, \qquad
        u = \frac{t - \text{start_iter}}{\text{end_iter} - \text{start_iter}}

    with u limited to [0, 1], and

    - ``constant``: p = 0;
    - ``linear``: p = u;
    - ``cosine``: :math:`p = (1 - \cos \pi u) / 2`, slow at both ends;
    - ``step``: p = 0 before ``start_iter`` and 1 from then on.

    This is not from a paper.  Use it to start a boundary loss late, or to let an auxiliary loss
    fade.  The weights are never negative, and their sum is that of the coefficients.  They depend
    on the position of a loss only: permuting the losses does not permute the weights.

    Deviations:
        none.

    Args:
        num_losses: K, the number of losses.
        coef: the K first coefficients, at least 0; by default all are 1.
        final_coef: the K last coefficients, at least 0, for any schedule except ``constant``.
        schedule: ``"constant"``, ``"linear"``, ``"cosine"`` or ``"step"``.
        start_iter: the last iteration with ``coef``; for ``step`` the first iteration with
            ``final_coef``.  Iterations are counted from 0, without those whose losses are not
            finite.
        end_iter: the first iteration with ``final_coef``, for ``linear`` and ``cosine``.

    Raises:
        ConfigError: a list has the wrong length or a negative number, or all coefficients are 0 all
            the time, or the schedule lacks an argument or has one that it does not use.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.weighting import ScheduledWeighting
        >>> weighting = ScheduledWeighting(2, final_coef=[1, 0], schedule="linear", end_iter=2)
        >>> [weighting(paddle.ones([2])).tolist() for iteration in range(3)]
        [[1.0, 1.0], [1.0, 0.5], [1.0, 0.0]]
    """

    config_name = "ScheduledLoss"

    def __init__(
        self,
        num_losses: int,
        coef: Sequence[float] | None = None,
        final_coef: Sequence[float] | None = None,
        schedule: str = "constant",
        start_iter: int = 0,
        end_iter: int | None = None,
    ) -> None:
        super().__init__(num_losses)
        self.coef = _coefficients("coef", [1.0] * num_losses if coef is None else coef, num_losses)
        self.schedule = checked_choice(
            "schedule", schedule, ["constant", "linear", "cosine", "step"]
        )
        self._check_used("final_coef", final_coef is not None, schedule != "constant")
        self.final_coef = (
            None if final_coef is None else _coefficients("final_coef", final_coef, num_losses)
        )
        self._check_used("end_iter", end_iter is not None, schedule in ("linear", "cosine"))
        if schedule == "constant" and start_iter != 0:
            raise ConfigError("start_iter: schedule constant takes none")
        least = 1 if schedule == "step" else 0
        self.start_iter = checked_integer("start_iter", start_iter, least)
        self.end_iter = end_iter
        if end_iter is not None:
            checked_integer("end_iter", end_iter, least=start_iter + 1)
        first, last = self.coef, self.final_coef or self.coef
        if not any(first) and not any(last):
            raise ConfigError(
                f"coef: expected a number above 0, found {shown(self.coef)}: nothing trains"
            )
        self.register_buffer("first", paddle.to_tensor(first, dtype="float32"), persistable=False)
        self.register_buffer("last", paddle.to_tensor(last, dtype="float32"), persistable=False)
        self.register_buffer("iteration", paddle.to_tensor(0, dtype="int64"))

    def _check_used(self, name: str, given: bool, used: bool) -> None:
        if given != used:
            verb = "needs one" if used else "takes none"
            raise ConfigError(f"{name}: schedule {self.schedule} {verb}")

    @paddle.no_grad()
    def forward(self, losses: Tensor) -> Tensor:
        """Return the coefficients of this iteration, shape [K]."""
        progress = self._progress()
        self.remember(losses, iteration=self.iteration + 1)
        return (1 - progress) * self.first + progress * self.last

    def _progress(self) -> Tensor:
        since = (self.iteration - self.start_iter).astype("float32")
        if self.schedule == "constant":
            return paddle.zeros_like(since)
        if self.end_iter is None:
            return (since >= 0).astype("float32")
        linear = (since / (self.end_iter - self.start_iter)).clip(0, 1)
        if self.schedule == "linear":
            return linear
        return (1 - paddle.cos(math.pi * linear)) / 2


def _coefficients(name: str, values: Sequence[float], count: int) -> list[float]:
    return checked_numbers(name, values, count, least=0)
