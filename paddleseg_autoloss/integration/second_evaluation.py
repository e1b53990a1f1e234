"""A second look at a batch after the step, for methods that ask what the step did to the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import paddle
from paddle import nn

from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.running_statistics import RunningStatistics

__all__ = ["SecondEvaluation"]


class SecondEvaluation:
    """Evaluates the latest batch again, with the same dropout, and leaves no trace of it.

    Args:
        model: the network.
        aggregators: what weighs its losses; they pass the losses on to their methods.
    """

    def __init__(self, model: nn.Layer, aggregators: Sequence[LossAggregator]) -> None:
        self.model = model
        self.aggregators = aggregators
        self._statistics = RunningStatistics(model)
        self._inputs: tuple[Any, ...] = ()
        self._random: Any = None
        self._evaluate: Callable[[Any], None] | None = None

        # PaddleSeg deep-copies the model for EMA; a bound method would take all of this along.
        def keep(layer: nn.Layer, inputs: tuple[Any, ...]) -> None:
            if layer is self.model and layer.training and paddle.is_grad_enabled():
                self._inputs, self._random = inputs, paddle.get_rng_state()

        self._hook = model.register_forward_pre_hook(keep)

    def prepare(self, evaluate: Callable[[Any], None]) -> None:
        """Say how to compute the losses.

        Args:
            evaluate: calls the aggregators with the losses of what the network returned.
        """
        self._evaluate = evaluate

    @paddle.no_grad()
    def take(self, autocast: Any) -> None:
        """Evaluate the batch again.

        Args:
            autocast: the precision that it was evaluated in, a context.
        """
        evaluate, self._evaluate = self._evaluate, None
        if evaluate is None:
            return
        self._statistics.keep()
        random = paddle.get_rng_state()
        paddle.set_rng_state(self._random)
        try:
            with ExitStack() as stack:
                stack.enter_context(autocast)
                for aggregator in self.aggregators:
                    stack.enter_context(aggregator.observing_after_step())
                evaluate(self.model(*self._inputs))
        finally:
            paddle.set_rng_state(random)
            self._statistics.restore()
            self._statistics.forget()

    def remove(self) -> None:
        """Let go of the network."""
        self._hook.remove()
