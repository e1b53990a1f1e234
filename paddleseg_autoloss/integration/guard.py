"""Leaves out the step, or stops, where losses or gradients are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import paddle
from paddle import Tensor, nn
from paddleseg.utils import logger

from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.gradients.aggregator import LossAggregator
from paddleseg_autoloss.integration.monitor import TermMonitor
from paddleseg_autoloss.integration.running_statistics import RunningStatistics
from paddleseg_autoloss.integration.state import LossState
from paddleseg_autoloss.integration.stopping import StopRequest
from paddleseg_autoloss.ranks import any_rank
from paddleseg_autoloss.tensors import describe_broken

__all__ = ["StepGuard"]

#: More skipped steps in a row than this are not bad luck.
_MOST_IN_A_ROW = 20


class StepGuard:
    """Prevents every step whose loss or gradient is NaN or infinite, on any card.

    Network, optimizer, learned weights and all that methods remember are then as before the step.
    The guard waits for the device before the optimizer does anything; PaddleSeg's loop would wait a
    little later.  Several cards also tell each other whether a loss is broken.  An overflow under a
    gradient scaler is left to the scaler, unless a loss itself is broken.

    Args:
        model: the network.
        state: of the losses.
        monitor: reads the losses.
        aggregators: what weighs the losses; they report gradients that are not finite.
        stop: the cards agree on it where they agree on broken losses.
        skips: whether to leave out such a step and go on, with the next data and learning rate,
            instead of stopping.
        evaluate: computes the losses of other outputs for the same batch, returns the value of
            every term, and leaves no trace.

    Attributes:
        snapshot: what the losses remembered before the step, to be set before they are computed.
        outputs: what the network returned, likewise.
    """

    def __init__(
        self,
        model: nn.Layer,
        state: LossState,
        monitor: TermMonitor,
        aggregators: list[LossAggregator],
        stop: StopRequest,
        skips: bool,
        evaluate: Callable[[list[Tensor]], list[Tensor | None]],
    ) -> None:
        self.state = state
        self.monitor = monitor
        self.aggregators = aggregators
        self.stop = stop
        self.skips = skips
        self._evaluate = evaluate
        self._parameters = [*model.named_parameters(), *state.parameters.items()]
        self._statistics = RunningStatistics(model)
        self._several_cards = paddle.distributed.ParallelEnv().nranks > 1
        self._in_a_row = 0
        self.snapshot: dict[str, dict[str, Tensor]] = {}
        self.outputs: Any = None
        self._hook = self._statistics.keep_before_each_step()

    def shown(self, losses: list[Tensor]) -> list[Tensor]:
        """Return the losses that PaddleSeg's log and curves show where broken steps are skipped.

        A loss that is not finite counts as 0 there.
        """
        return [paddle.where(x.isfinite(), x, paddle.zeros_like(x)) for x in losses]

    def permits(self, scaled: bool, overflow: bool) -> bool:
        """Return whether to take the step; if not, all is again as before it.

        Args:
            scaled: whether a gradient scaler looks after the gradients.
            overflow: whether it found one that is not finite.  The optimizer leaves out such a step
                by itself; batch norm has moved, as it has without this package.

        Raises:
            TrainingDiverged: a loss or a gradient is not finite, and the step is not to be skipped;
                or too many steps were skipped in a row.
        """
        reason = self._broken_loss() or (None if scaled else self._broken_gradient())
        if reason is not None:
            self.state.restore(self.snapshot)
            self._statistics.restore()
            if not self.skips:
                raise reason
            self._count(reason)
            logger.warning(f"{reason.what}: the step is skipped")
        elif overflow:
            self.state.restore(self.snapshot)
            self._count(self.monitor.divergence("the scaled gradients are NaN or infinite"))
        else:
            self._in_a_row = 0
        # Nothing of a step is held beyond its end.
        self.snapshot, self.outputs = {}, None
        return reason is None

    def _count(self, reason: TrainingDiverged) -> None:
        self._in_a_row += 1
        if self._in_a_row > _MOST_IN_A_ROW:
            raise TrainingDiverged(
                f"{reason.what}; so were the {_MOST_IN_A_ROW} steps before", reason.rescue
            )

    def _broken_loss(self) -> TrainingDiverged | None:
        """Return the error for a loss that is not finite, on this card or another."""
        reason = None
        try:
            self.monitor.check_latest()
        except TrainingDiverged as error:
            reason = error
        if self._several_cards:
            is_broken, self.stop.agreed = any_rank(reason is not None, self.stop.number is not None)
            if is_broken and reason is None:
                reason = self.monitor.divergence("a loss on another card is NaN or infinite")
        return reason

    @paddle.no_grad()
    def _broken_gradient(self) -> TrainingDiverged | None:
        """Return the error for a gradient that is not finite; all cards have the same."""
        for aggregator in self.aggregators:
            if aggregator.not_finite is not None:
                return self.monitor.divergence(aggregator.not_finite)
        named = [(name, p.grad) for name, p in self._parameters if p.grad is not None]
        if not named:
            return None
        finite = paddle.stack([gradient.isfinite().all() for _, gradient in named]).numpy()
        if finite.all():
            return None
        name, gradient = named[int(finite.argmin())]
        broken = describe_broken(math.nan if bool(gradient.isnan().any()) else math.inf)
        name = self._term_to_blame() or name
        return self.monitor.divergence(f"the gradient of {name} is {broken}")

    # fleet's optimizer takes its steps without gradients.
    @paddle.enable_grad()
    def _term_to_blame(self) -> str | None:
        """Return the term whose gradient for the outputs is not finite.

        It is None if the gradient breaks further down, inside the network.
        """
        outputs = self.outputs
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
            values = self._evaluate([leaf * 1 for leaf in leaves])
            for term, value in zip(self.monitor.terms, values):
                if value is not None and not value.stop_gradient:
                    found = paddle.grad(value, trained, retain_graph=True, allow_unused=True)
                    if not all(bool(g.isfinite().all()) for g in found if g is not None):
                        return term.name
        except Exception as error:
            # That the gradient is broken matters more than where it comes from.
            logger.warning(f"cannot find the loss that the broken gradient comes from: {error}")
        return None

    def undo_forward(self) -> None:
        """Undo what the latest forward pass of training did to batch norm."""
        self._statistics.restore()

    def remove(self) -> None:
        """Let go of the network."""
        self._hook.remove()
