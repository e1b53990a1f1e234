"""Leaves out the step, or stops, where losses or gradients are not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import Tensor, nn
from paddleseg.utils import logger

from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.integration.monitor import TermMonitor
from paddleseg_autoloss.integration.running_statistics import RunningStatistics
from paddleseg_autoloss.integration.state import LossState
from paddleseg_autoloss.ranks import any_rank

__all__ = ["StepGuard"]

#: Beyond this many steps in a row it is not bad luck.
_MOST_IN_A_ROW = 20


def _no_losses(outputs: Any) -> list[Tensor]:
    return []


class StepGuard:
    """Lets no step be taken with a loss or a gradient that is NaN or infinite, on any card.

    Network, optimizer, learned weights and all that methods remember are then as before the step.
    Before the optimizer does anything it waits for the device, where PaddleSeg's loop would wait a
    little later; several cards also tell each other whether a loss is broken.  What overflows under
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
        self._parameters = [*model.named_parameters(), *state.parameters.items()]
        self._statistics = RunningStatistics(model)
        self._reason: TrainingDiverged | None = None
        self._in_a_row = 0
        self._snapshot: dict[str, dict[str, Tensor]] = {}
        self._outputs: Any = None
        self._evaluate: Callable[[Any], list[Tensor]] = _no_losses

        # PaddleSeg deep-copies the model for EMA; a bound method would take the guard along.
        def keep_statistics(layer: nn.Layer, _: Any) -> None:
            if layer is self.model and layer.training and paddle.is_grad_enabled():
                self._statistics.keep()

        self._hook = model.register_forward_pre_hook(keep_statistics)

    def begin(self, outputs: Any, evaluate: Callable[[Any], list[Tensor]]) -> None:
        """Remember the losses' state, which computing the losses may change, and how to do that.

        Args:
            outputs: what the network returned.
            evaluate: computes the losses of such outputs, and remembers nothing of it.
        """
        self._snapshot = self.state.snapshot()
        self._outputs = outputs
        self._evaluate = evaluate

    def losses(self, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Return the losses that ``compute`` returns; those of a step to be skipped as zeros.

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
            with paddle.no_grad():
                _, result = self.monitor.peek(lambda: self._evaluate(self._outputs))
            zeros = [paddle.zeros_like(value) for value in result]
            for zero in zeros:
                zero.stop_gradient = False
            return zeros
        if self.skips:
            # PaddleSeg's log, curves and learning rate go on from what is returned.
            return [paddle.where(x.isfinite(), x, paddle.zeros_like(x)) for x in result]
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
        reason = self._reason or self._broken_loss() or (None if scaled else self._broken_part())
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
        self._forget()
        return reason is None

    def _count(self, reason: TrainingDiverged) -> None:
        self._in_a_row += 1
        if self._in_a_row > _MOST_IN_A_ROW:
            raise TrainingDiverged(
                f"{reason.what}; so were the {_MOST_IN_A_ROW} steps before", reason.rescue
            )

    def _undo(self) -> None:
        self.state.restore(self._snapshot)
        self._statistics.restore()

    def _forget(self) -> None:
        """Hold nothing of a step beyond its end."""
        self._snapshot, self._outputs, self._evaluate = {}, None, _no_losses
        self._statistics.forget()

    def _broken_loss(self) -> TrainingDiverged | None:
        """What loss is not finite, on this card or another."""
        reason = None
        try:
            self.monitor.settle()
        except TrainingDiverged as error:
            reason = error
        if any_rank(reason is not None) and reason is None:
            reason = self.monitor.divergence("a loss on another card is NaN or infinite")
        return reason

    @paddle.no_grad()
    def _broken_part(self) -> TrainingDiverged | None:
        """What gradient is not finite; all cards have the same."""
        named = [(name, p.grad) for name, p in self._parameters if p.grad is not None]
        if not named:
            return None
        finite = paddle.stack([gradient.isfinite().all() for _, gradient in named]).numpy()
        if finite.all():
            return None
        name = self._term_to_blame() or named[int(finite.argmin())][0]
        return self.monitor.divergence(f"the gradient of {name} is NaN or infinite")

    # fleet's optimizer takes its steps without gradients.
    @paddle.enable_grad()
    def _term_to_blame(self) -> str | None:
        """The term whose gradient for the outputs is not finite; None if it breaks further down."""
        outputs = self._outputs
        if not isinstance(outputs, list) or not all(isinstance(x, Tensor) for x in outputs):
            return None
        leaves = [x.detach() for x in outputs]
        for leaf, output in zip(leaves, outputs):
            leaf.stop_gradient = output.stop_gradient
        trained = [leaf for leaf in leaves if not leaf.stop_gradient]
        if not trained:
            return None
        try:
            # A loss may change its input in place, which a leaf does not permit.
            values, _ = self.monitor.peek(lambda: self._evaluate([leaf * 1 for leaf in leaves]))
            for term, value in zip(self.monitor.terms, values):
                if value is not None and not value.stop_gradient:
                    found = paddle.grad(value, trained, retain_graph=True, allow_unused=True)
                    if not all(bool(g.isfinite().all()) for g in found if g is not None):
                        return term.name
        except Exception as error:
            # What breaks the gradient is worth more than why its source cannot be told.
            logger.warning(f"which loss it comes from cannot be told: {error}")
        return None

    def remove(self) -> None:
        """Let go of the network."""
        self._hook.remove()
