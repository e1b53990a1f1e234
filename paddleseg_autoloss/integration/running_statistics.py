"""What a forward pass leaves behind in a network that trains."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

__all__ = ["RunningStatistics"]


class RunningStatistics:
    """The buffers of a network, and the mean and variance of batch norm, to go back to.

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
        """Remember what there is now."""
        if self._searches:
            self._searches -= 1
            self._places = _places(self.model)
        self._kept = [(layer, name, getattr(layer, name).clone()) for layer, name in self._places]

    @paddle.no_grad()
    def restore(self) -> None:
        """Go back to what was kept, also where a layer has put another tensor in its place."""
        for layer, name, before in self._kept:
            getattr(layer, name).set_value(before)

    def keep_before_each_step(self) -> Any:
        """Remember what there is before every forward pass of training.

        Returns:
            What ends that: its ``remove()``.
        """

        # PaddleSeg deep-copies the model for EMA; a bound method would take this object along.
        def keep_statistics(layer: nn.Layer, _: Any) -> None:
            if layer is self.model and layer.training and paddle.is_grad_enabled():
                self.keep()

        return self.model.register_forward_pre_hook(keep_statistics)

    def forget(self) -> None:
        """Let go of what was kept."""
        self._kept = []


def _places(model: nn.Layer) -> list[tuple[nn.Layer, str]]:
    """Paddle keeps the mean and the variance of batch norm among the parameters."""
    layers = {id(layer): layer for layer in model.sublayers(include_self=True)}.values()
    return [
        (layer, name)
        for layer in layers
        for name in (*layer._buffers, "_mean", "_variance")
        if isinstance(getattr(layer, name, None), Tensor)
    ]
