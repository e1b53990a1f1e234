"""The state that a forward pass changes in a network in training mode."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

__all__ = ["RunningStatistics"]


class RunningStatistics:
    """A copy of a network's buffers and of batch norm's mean and variance, to restore them.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Layer) -> None:
        self.model = model
        self._places: list[tuple[nn.Layer, str]] = []
        self._kept: list[tuple[nn.Layer, str, Tensor]] = []
        # Some layers make a buffer in their first forward pass.
        self._searches = 2

    @paddle.no_grad()
    def keep(self) -> None:
        """Copy the current values."""
        if self._searches:
            self._searches -= 1
            self._places = _places(self.model)
        self._kept = [(layer, name, getattr(layer, name).clone()) for layer, name in self._places]

    @paddle.no_grad()
    def restore(self) -> None:
        """Restore the copied values, even if a layer has replaced a tensor by another one."""
        for layer, name, before in self._kept:
            getattr(layer, name).set_value(before)

    def keep_before_each_step(self) -> Any:
        """Copy the values before every forward pass in training mode.

        Returns:
            A hook; its ``remove()`` ends the copying.
        """

        # PaddleSeg deep-copies the model for EMA; a bound method would copy this object too.
        def keep_statistics(layer: nn.Layer, _: Any) -> None:
            if layer is self.model and layer.training and paddle.is_grad_enabled():
                self.keep()

        return self.model.register_forward_pre_hook(keep_statistics)

    def forget(self) -> None:
        """Free the copied values."""
        self._kept = []


def _places(model: nn.Layer) -> list[tuple[nn.Layer, str]]:
    """Return layer and name of each tensor; in Paddle, batch norm's statistics are parameters."""
    layers = {id(layer): layer for layer in model.sublayers(include_self=True)}.values()
    return [
        (layer, name)
        for layer in layers
        for name in (*layer._buffers, "_mean", "_variance")
        if isinstance(getattr(layer, name, None), Tensor)
    ]
