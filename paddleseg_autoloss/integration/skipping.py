"""Skips steps whose losses or gradients are not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import Tensor, nn
from paddleseg.utils import logger

from paddleseg_autoloss.compat import running_statistics
from paddleseg_autoloss.errors import TrainingDiverged
from paddleseg_autoloss.integration.monitor import TermMonitor
from paddleseg_autoloss.integration.state import LossState

__all__ = ["StepGuard"]

#: Beyond this many steps in a row it is not bad luck.
_MOST_IN_A_ROW = 20


class StepGuard:
    """Lets training go on where a loss or a gradient is NaN or infinite, by leaving out the step.

    Network, optimizer, learned weights and all that methods remember are then as before the step;
    iteration, data and learning rate go on.  It waits for the device twice a step.

    Args:
        model: the network.
        state: of the losses.
        monitor: watches the losses.
    """

    def __init__(self, model: nn.Layer, state: LossState, monitor: TermMonitor) -> None:
        self.model = model
        self.state = state
        self.monitor = monitor
        self._reason: TrainingDiverged | None = None
        self._snapshot: dict[str, dict[str, Tensor]] = {}
        self._in_a_row = 0
        self._length = 1
        self._before: list[tuple[Tensor, Tensor]] = []
        self._hook = model.register_forward_pre_hook(self._keep_statistics)

    def _keep_statistics(self, *_: Any) -> None:
        if self.model.training:
            self._before = [(t, t.clone()) for t in running_statistics(self.model)]

    def losses(self, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Return the losses that ``compute`` returns, or zeros if they are not finite."""
        self._snapshot = self.state.snapshot()
        try:
            result = compute()
            self.monitor.settle()
        except TrainingDiverged as error:
            self._reason = error
            zeros = [paddle.zeros([]) for _ in range(self._length)]
            for zero in zeros:
                zero.stop_gradient = False
            return zeros
        self._length = len(result)
        return result

    def permits(self) -> bool:
        """Return whether to take the step; if not, all is again as before it.

        Raises:
            TrainingDiverged: too many steps in a row were left out.
        """
        reason = self._reason or self._broken_gradient()
        self._reason = None
        if reason is None:
            self._in_a_row = 0
            return True
        self._in_a_row += 1
        self.state.restore(self._snapshot)
        for tensor, before in self._before:
            tensor.set_value(before)
        if self._in_a_row > _MOST_IN_A_ROW:
            raise TrainingDiverged(f"{reason.what}; so were the {_MOST_IN_A_ROW} steps before")
        logger.warning(f"{reason.what}: the step is skipped")
        return False

    def _broken_gradient(self) -> TrainingDiverged | None:
        named = [*self.model.named_parameters(), *self.state.parameters.items()]
        found = [(name, p.grad) for name, p in named if p.grad is not None]
        if not found:
            return None
        finite = paddle.stack([gradient.isfinite().all() for _, gradient in found]).numpy()
        if finite.all():
            return None
        name = found[int(finite.argmin())][0]
        return self.monitor.divergence(f"the gradient of {name} is NaN or infinite")

    def remove(self) -> None:
        """Let go of the network."""
        self._hook.remove()
