"""Skips the step, or stops the run, if a loss or a gradient is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import paddle
from paddle import Tensor, _C_ops, nn
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

#: Most steps that may be skipped in a row; more of them show that training has diverged.
_MOST_IN_A_ROW = 20


class StepGuard:
    """Prevents every step in which a loss or a gradient is NaN or infinite on any card.

    The network, the optimizer, the learned weights and the methods' memories then are the same as
    before the step.  The guard waits for the device before the optimizer's step; PaddleSeg's loop
    would wait a little later.  Several cards also tell each other whether a loss is not finite.
    With a gradient scaler, the scaler handles an overflow of the gradients; the guard acts only if
    a loss itself is not finite.

    Args:
        model: the network.
        state: the state of the losses.
        monitor: reads the losses.
        aggregators: the aggregators that weigh the losses; they report gradients that are not
            finite.
        stop: the cards agree on it where they agree on broken losses.
        skips: whether to skip such a step and to continue with the next batch and learning rate;
            otherwise the run stops.
        evaluate: computes the losses of other outputs for the same batch and returns the value of
            every term; the guard restores what this changes.

    Attributes:
        snapshot: copy of the losses' state before the step; set it before the losses are computed.
        outputs: the outputs of the network; set them before the losses are computed.
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

    def attached(self) -> AbstractContextManager[None]:
        """Context in which the state of the network before each step is kept."""
        return self._statistics.kept_before_each_step()

    def shown(self, losses: list[Tensor]) -> list[Tensor]:
        """Return the losses for PaddleSeg's log and curves.

        If broken steps are skipped, a loss that is not finite is shown as 0.
        """
        return [paddle.where(x.isfinite(), x, paddle.zeros_like(x)) for x in losses]

    def permits(self, scaled: bool, overflow: bool) -> bool:
        """Return whether to take the step; if not, restore the state from before the step.

        Args:
            scaled: whether a gradient scaler is in use.
            overflow: whether the scaler found a gradient that is not finite.  It then skips the
                optimizer step itself.  The running statistics of batch norm keep their update, as
                they do without this package.

        Raises:
            TrainingDiverged: a loss or a gradient is not finite, and such steps are not skipped; or
                too many steps in a row were skipped.
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
        # Keep nothing of a step after its end, to free the memory.
        self.snapshot, self.outputs = {}, None
        return reason is None

    def _count(self, reason: TrainingDiverged) -> None:
        self._in_a_row += 1
        if self._in_a_row > _MOST_IN_A_ROW:
            raise TrainingDiverged(
                f"{reason.what}; the {_MOST_IN_A_ROW} steps before were skipped too", reason.rescue
            )

    def _broken_loss(self) -> TrainingDiverged | None:
        """Return the error for a loss that is not finite on this or another card, or None."""
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
        """Return the error for a gradient that is not finite, or None; all cards agree."""
        for aggregator in self.aggregators:
            if aggregator.not_finite is not None:
                return self.monitor.divergence(aggregator.not_finite)
        named = [(name, p.grad) for name, p in self._parameters if p.grad is not None]
        if not named:
            return None
        gradients = [gradient for _, gradient in named]
        if (
            _are_finite_on_gpu(gradients)
            if _is_on_gpu(gradients)
            else _have_finite_length(gradients)
        ):
            return None
        finite = paddle.stack([gradient.isfinite().all() for gradient in gradients]).numpy()
        if finite.all():
            return None
        name, gradient = named[int(finite.argmin())]
        broken = describe_broken(math.nan if bool(gradient.isnan().any()) else math.inf)
        name = self._term_to_blame() or name
        return self.monitor.divergence(f"the gradient of {name} is {broken}")

    # The optimizer of fleet calls its step without gradient tracking; this function needs
    # gradients.
    @paddle.enable_grad()
    def _term_to_blame(self) -> str | None:
        """Return the name of the term whose gradient with respect to the outputs is not finite.

        It is None if these gradients are finite, and the fault arises inside the network.
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
            # A loss may change its input in place; Paddle forbids this for a leaf tensor.
            values = self._evaluate([leaf * 1 for leaf in leaves])
            for term, value in zip(self.monitor.terms, values):
                if value is not None and not value.stop_gradient:
                    found = paddle.grad(value, trained, retain_graph=True, allow_unused=True)
                    if not all(bool(g.isfinite().all()) for g in found if g is not None):
                        return term.name
        except Exception as error:
            # This search must not hide the error about the gradient itself.
            logger.warning(f"cannot find the loss whose gradient is not finite: {error}")
        return None

    def undo_forward(self) -> None:
        """Restore the state from before the latest forward pass of training."""
        self._statistics.undo()


def _is_on_gpu(tensors: list[Tensor]) -> bool:
    return tensors[0].place.is_gpu_place()


def _are_finite_on_gpu(tensors: list[Tensor]) -> bool:
    """Return whether all numbers are finite, by one operation for each data type.

    It multiplies the tensors by 1 in place, and so changes none on a GPU.  On a CPU it would
    multiply one that is not finite by 0, and all after it.
    """
    by_type: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for dtype, group in by_type.items():
        one = paddle.ones([1], "float64" if dtype == paddle.float64 else "float32")
        _, is_broken = _C_ops.check_finite_and_unscale_(group, one)
        if bool(is_broken):
            return False
    return True


def _have_finite_length(tensors: list[Tensor]) -> bool:
    """Return whether the sum of all squares is finite; no tensor then has NaN or infinity.

    Squares of finite numbers may overflow too.  On a CPU nothing else that looks at every number is
    as fast.
    """
    in_float32 = [t if t.dtype == paddle.float32 else t.astype("float32") for t in tensors]
    return math.isfinite(paddle.add_n([_C_ops.squared_l2_norm(t) for t in in_float32]))
