"""A second evaluation of a batch, for methods that ask what the step did to the losses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import paddle
from paddle import nn

from paddleseg_autoloss.hooks import before_each_step
from paddleseg_autoloss.integration.running_statistics import RunningStatistics

__all__ = ["SecondEvaluation"]


class SecondEvaluation:
    """Evaluates the latest batch again after the step, with the same dropout.

    All state of the network and the random state are restored afterwards.

    Args:
        model: the network.
        evaluate: computes the losses of the network's outputs and passes them to the methods.
    """

    def __init__(self, model: nn.Layer, evaluate: Callable[[Any], Any]) -> None:
        self.model = model
        self._evaluate = evaluate
        self._statistics = RunningStatistics(model)
        self._inputs: tuple[Any, ...] = ()
        self._random: Any = None
        self._is_due = False
        self._hook = before_each_step(model, self._keep)

    def _keep(self, inputs: tuple[Any, ...]) -> None:
        self._inputs, self._random = inputs, paddle.get_rng_state()
        self._is_due = True

    @paddle.no_grad()
    def run(self, autocast: AbstractContextManager) -> None:
        """Evaluate the latest batch again, at most once.

        Args:
            autocast: context with the precision of the first evaluation.
        """
        if not self._is_due:
            return
        self._is_due = False
        self._statistics.keep()
        random = paddle.get_rng_state()
        paddle.set_rng_state(self._random)
        try:
            with autocast:
                self._evaluate(self.model(*self._inputs))
        finally:
            paddle.set_rng_state(random)
            self._statistics.restore()
            self._statistics.forget()

    def remove(self) -> None:
        """Remove the hook from the network."""
        self._hook.remove()
