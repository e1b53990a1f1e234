"""A second evaluation of a batch, for methods that ask what the step did to the losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import paddle
from paddle import nn

from paddleseg_autoloss.hooks import before_each_step
from paddleseg_autoloss.integration.running_statistics import RunningStatistics

__all__ = ["SecondEvaluation"]


class SecondEvaluation:
    """Evaluates the latest batch again after the step, with the same dropout.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Layer) -> None:
        self.model = model
        self._statistics = RunningStatistics(model)
        self._inputs: tuple[Any, ...] = ()
        self._random: Any = None
        self._is_due = False

    def attached(self) -> AbstractContextManager[None]:
        """Context in which the inputs of each step are kept."""
        return before_each_step(self.model, self._keep)

    def _keep(self, inputs: tuple[Any, ...]) -> None:
        self._inputs, self._random = inputs, paddle.get_rng_state()
        self._is_due = True

    def take_turn(self) -> bool:
        """Return whether the latest batch was not evaluated again yet; True once for a batch."""
        is_due, self._is_due = self._is_due, False
        return is_due

    @contextmanager
    def of_latest_batch(self) -> Iterator[Callable[[], Any]]:
        """Context after which all state of the network and the random state are as before.

        Yields:
            A function that returns the outputs of the network for the latest batch.
        """

        @paddle.no_grad()
        def outputs() -> Any:
            self._statistics.restore()
            paddle.set_rng_state(self._random)
            return self.model(*self._inputs)

        self._statistics.keep()
        try:
            yield outputs
        finally:
            self._statistics.undo()
            self._statistics.forget()
