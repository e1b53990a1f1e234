"""Looks at held-out batches in the course of training, for methods that learn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.hooks import before_each_step
from paddleseg_autoloss.integration.held_out import HeldOutBatches
from paddleseg_autoloss.integration.layouts import first_output, to_layout_of
from paddleseg_autoloss.integration.running_statistics import RunningStatistics
from paddleseg_autoloss.integration.state import LossState
from paddleseg_autoloss.losses.targets import Target
from paddleseg_autoloss.weighting import AlignmentWeighting

__all__ = ["HeldOutLooks"]


class HeldOutLooks:
    """Lets methods look at the next held-out batch before each step that needs it.

    The network sees the batch as it sees a batch of training: batch norm uses the statistics of the
    batch itself, and dropout is on.  So a step changes the target just as it changes the losses.
    The running means of batch norm and the random state are restored, so training goes on as if
    there had been no look.  A look comes before the forward pass of the step, when the memory of
    the step before is free again.

    Args:
        model: the network.
        aggregators: the aggregators whose methods look at held-out data.
        batches: the held-out batches.
        losses_of: computes the K losses of an aggregator: ``losses_of(aggregator, outputs, data)``.
        state: the state of the losses, to forget a look.
        ignore_index: label of the pixels to ignore.
    """

    def __init__(
        self,
        model: nn.Layer,
        aggregators: Sequence[LossAggregator],
        batches: HeldOutBatches,
        losses_of: Callable[[LossAggregator, Any, Mapping[str, Tensor]], Tensor],
        state: LossState,
        ignore_index: int = 255,
    ) -> None:
        self.model = model
        self.aggregators = list(aggregators)
        self._batches = batches
        self._losses_of = losses_of
        self._state = state
        self._before: tuple[dict[str, dict[str, Tensor]], int] | None = None
        self._targets = {
            id(aggregator): Target(aggregator.weighting.target, ignore_index)
            for aggregator in aggregators
            if isinstance(aggregator.weighting, AlignmentWeighting)
        }
        self._statistics = RunningStatistics(model)
        self._is_looking = False

    def attached(self) -> AbstractContextManager[None]:
        """Context in which there is a look before each step that needs it."""
        return before_each_step(self.model, lambda _: self._look_if_due())

    def undo(self) -> None:
        """Forget the look before a step that is not taken: the run that goes on takes it again."""
        if self._before is not None:
            of_losses, drawn = self._before
            self._state.restore(of_losses)
            self._batches.drawn = drawn

    def _look_if_due(self) -> None:
        # The forward pass of a look calls the hook too.
        if self._is_looking:
            return
        self._before = None
        due = [a for a in self.aggregators if a.needs_look]
        if not due:
            return
        self._before = self._state.snapshot(), self._batches.drawn
        with self._undone():
            data = next(self._batches)
            outputs = self.model(to_layout_of(self.model, data["img"]))
            for aggregator in due:
                aggregator.look(self._seen_by(aggregator, outputs, data))

    def _seen_by(
        self, aggregator: LossAggregator, outputs: Any, data: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the target, or the losses, of a held-out batch."""
        target = self._targets.get(id(aggregator))
        if target is None:
            return self._losses_of(aggregator, outputs, data)
        with paddle.amp.auto_cast(enable=False):
            return target(first_output(self.model, outputs), data["label"].astype("int64"))

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Context after which the running statistics and the random state are as before."""
        self._is_looking = True
        self._statistics.keep()
        try:
            yield
        finally:
            self._statistics.undo()
            self._statistics.forget()
            self._is_looking = False
