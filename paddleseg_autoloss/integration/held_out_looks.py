"""Looks at held-out batches in the course of training, for methods that learn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import Tensor, nn

from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.running_statistics import RunningStatistics
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
        batches: an endless iterator of held-out batches, see `HeldOutBatches`.
        losses_of: computes the K losses of an aggregator: ``losses_of(aggregator, outputs, data)``.
        ignore_index: label of the pixels to ignore.
    """

    def __init__(
        self,
        model: nn.Layer,
        aggregators: Sequence[LossAggregator],
        batches: Iterator[Mapping[str, Tensor]],
        losses_of: Callable[[LossAggregator, Any, Mapping[str, Tensor]], Tensor],
        ignore_index: int = 255,
    ) -> None:
        self.model = model
        self.aggregators = list(aggregators)
        self._batches = batches
        self._losses_of = losses_of
        self._targets = {
            id(aggregator): Target(aggregator.weighting.target, ignore_index)
            for aggregator in aggregators
            if isinstance(aggregator.weighting, AlignmentWeighting)
        }
        self._statistics = RunningStatistics(model)
        self._is_looking = False

        # PaddleSeg deep-copies the model for EMA; a bound method would copy this object too.
        def look_first(layer: nn.Layer, _: Any) -> None:
            if layer is self.model and layer.training and paddle.is_grad_enabled():
                self._look_if_due()

        self._hook = model.register_forward_pre_hook(look_first)

    def remove(self) -> None:
        """Remove the hook from the network."""
        self._hook.remove()

    def _look_if_due(self) -> None:
        # The forward pass of a look calls the hook too.
        due = [] if self._is_looking else [a for a in self.aggregators if a.needs_look]
        if not due:
            return
        with self._undone():
            data = next(self._batches)
            outputs = self.model(data["img"])
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
            first = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
            return target(first, data["label"].astype("int64"))

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Context after which the running statistics and the random state are as before."""
        self._is_looking = True
        self._statistics.keep()
        random = paddle.get_rng_state()
        try:
            yield
        finally:
            paddle.set_rng_state(random)
            self._statistics.restore()
            self._statistics.forget()
            self._is_looking = False
