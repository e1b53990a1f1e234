"""Leaves out the step, or stops, where losses or gradients are not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleseg.utils import logger

from paddleseg_autoloss.compat import running_statistics
from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.integration.monitor import TermMonitor
from paddleseg_autoloss.integration.state import LossState
from paddleseg_autoloss.ranks import any_rank

__all__ = ["StepGuard"]

#: Beyond this many steps in a row it is not bad luck.
_MOST_IN_A_ROW = 20


class StepGuard:
    """Lets no step be taken with a loss or a gradient that is NaN or infinite, on any card.

    Network, optimizer, learned weights and all that methods remember are then as before the step.
    It waits for the device once a step, before the optimizer does anything.  What overflows under
    a gradient scaler is left to that, unless it is a loss itself.

    Args:
        model: the network.
        state: of the losses.
        monitor: watches the losses.
        skips: whether to go on behind such a step, with the next data and learning rate, instead
            of stopping.
    """

    def __init__(
        self, model: nn.Layer, state: LossState, monitor: TermMonitor, skips: bool
    ) -> None:
        self.model = model
        self.state = state
        self.monitor = monitor
        self.skips = skips
        self._reason: TrainingDiverged | None = None
        self._snapshot: dict[str, dict[str, Tensor]] = {}
        self._in_a_row = 0
        self._length = 1
        self._parameters = [*model.named_parameters(), *state.parameters.items()]
        self._statistics = running_statistics(model)
        self._before: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._evaluate: Callable[[Any], list[Tensor]] = lambda outputs: []

        # PaddleSeg deep-copies the model for EMA; a bound method would take the guard along.
        def keep_statistics(layer: nn.Layer, _: Any) -> None:
            if layer is self.model and layer.training and paddle.is_grad_enabled():
                self._before = [tensor.clone() for tensor in self._statistics]

        self._hook = model.register_forward_pre_hook(keep_statistics)

    def begin(self, outputs: Any, evaluate: Callable[[Any], list[Tensor]]) -> None:
        """Remember the losses' state, which computing the losses may change, and how to do that.

        Args:
            outputs: what the network returned.
            evaluate: computes the losses of such outputs, and remembers nothing of it.
        """
        self._snapshot = self.state.snapshot()
        is_list = isinstance(outputs, list) and all(isinstance(x, Tensor) for x in outputs)
        self._outputs = [x.detach() for x in outputs] if is_list else []
        self._evaluate = evaluate

    def losses(self, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Return the losses that ``compute`` returns, or zeros if their gradients are not finite.

        Raises:
            TrainingDiverged: a gradient is not finite, and it is not to be skipped.
        """
        try:
            result = compute()
        except TrainingDiverged as error:
            if not self.skips:
                self._undo()
                raise
            self._reason = error
            zeros = [paddle.zeros([]) for _ in range(self._length)]
            for zero in zeros:
                zero.stop_gradient = False
            return zeros
        self._length = len(result)
        return result

    def permits(self, scaled: bool, overflow: bool) -> bool:
        """Return whether to take the step; if not, all is again as before it.

        Args:
            scaled: whether a gradient scaler looks after the gradients.
            overflow: whether it found one that is not finite.  The optimizer leaves out such a step
                by itself; batch norm has moved, as it has without this package.

        Raises:
            TrainingDiverged: a loss or a gradient is not finite, and it is not to be skipped, or
                too many were.
        """
        reason = self._reason or self._broken(scaled)
        self._reason = None
        if reason is not None:
            self._undo()
            if not self.skips:
                raise reason
            self._count(reason)
            logger.warning(f"{reason.what}: the step is skipped")
        elif overflow:
            self.state.restore(self._snapshot)
            self._count(self.monitor.divergence("the scaled gradients are NaN or infinite"))
        else:
            self._in_a_row = 0
        return reason is None

    def _count(self, reason: TrainingDiverged) -> None:
        self._in_a_row += 1
        if self._in_a_row > _MOST_IN_A_ROW:
            raise TrainingDiverged(
                f"{reason.what}; so were the {_MOST_IN_A_ROW} steps before", reason.rescue
            )

    def _undo(self) -> None:
        self.state.restore(self._snapshot)
        for tensor, before in zip(self._statistics, self._before):
            tensor.set_value(before)

    def _broken(self, scaled: bool) -> TrainingDiverged | None:
        """What is not finite, on this card or another."""
        named = [] if scaled else self._gradients()
        # A sum is not finite where an element is not, and takes one operation in the place of two.
        sums = [gradient.sum(dtype="float32") for _, gradient in named]
        reason = None
        try:
            self.monitor.settle()
        except TrainingDiverged as error:
            reason = error
        if reason is None and sums:
            suspects = np.flatnonzero(~np.isfinite(paddle.stack(sums).numpy()))
            reason = self._broken_gradient([named[index] for index in suspects])
        if any_rank(reason is not None) and reason is None:
            reason = self.monitor.divergence("a loss on another card is NaN or infinite")
        return reason

    def _broken_gradient(self, suspects: list[tuple[str, Tensor]]) -> TrainingDiverged | None:
        for name, gradient in suspects:
            if not bool(gradient.isfinite().all()):
                source = self._term_to_blame() or name
                return self.monitor.divergence(f"the gradient of {source} is NaN or infinite")
        return None

    def _term_to_blame(self) -> str | None:
        """The term whose gradient for the outputs is not finite; None if it breaks further down."""
        if not self._outputs:
            return None
        for output in self._outputs:
            output.stop_gradient = False
        values, _ = self.monitor.peek(lambda: self._evaluate(list(self._outputs)))
        for term, value in zip(self.monitor.terms, values):
            if value is not None and not value.stop_gradient:
                gradients = paddle.grad(value, self._outputs, retain_graph=True, allow_unused=True)
                if not all(bool(g.isfinite().all()) for g in gradients if g is not None):
                    return term.name
        return None

    def _gradients(self) -> list[tuple[str, Tensor]]:
        return [(name, p.grad) for name, p in self._parameters if p.grad is not None]

    def remove(self) -> None:
        """Let go of the network."""
        self._hook.remove()
