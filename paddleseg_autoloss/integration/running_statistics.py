"""The state that a forward pass changes in a network in training mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import Tensor, nn

__all__ = ["RunningStatistics"]

#: A layer and the name of one of its tensors.
_Place = tuple[nn.Layer, str]


class RunningStatistics:
    """A copy of a network's buffers, of batch norm's mean and variance, and of the random state.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Layer) -> None:
        self.model = model
        self._groups: list[list[_Place]] = []
        self._kept: list[tuple[list[_Place], Tensor]] = []
        self._random: Any = None
        # Some layers make a buffer in their first forward pass.
        self._searches = 2

    @paddle.no_grad()
    def keep(self) -> None:
        """Copy the current values."""
        if self._searches:
            self._searches -= 1
            self._groups = _groups(self.model)
        self._kept = [
            (group, _copy([getattr(*place) for place in group])) for group in self._groups
        ]
        self._random = paddle.get_rng_state()

    @paddle.no_grad()
    def restore(self) -> None:
        """Restore the copied statistics, even if a layer has replaced a tensor by another one."""
        for group, copy in self._kept:
            tensors = [getattr(*place) for place in group]
            parts = paddle.split(copy, [t.size for t in tensors]) if len(group) > 1 else [copy]
            for tensor, before in zip(tensors, parts):
                tensor.set_value(before)

    def undo(self) -> None:
        """Restore all that a forward pass changes: the statistics and the random state."""
        if self._random is not None:
            self.restore()
            paddle.set_rng_state(self._random)

    @contextmanager
    def kept_before_each_step(self) -> Iterator[None]:
        """Context in which the values before each step are copied."""

        # PaddleSeg deep-copies the model for EMA; a bound method would copy this object too.
        def keep_statistics(layer: nn.Layer, _: Any) -> None:
            if layer is self.model and layer.training and paddle.is_grad_enabled():
                self.keep()

        hook = self.model.register_forward_pre_hook(keep_statistics)
        try:
            yield
        finally:
            hook.remove()

    def forget(self) -> None:
        """Free the copied values."""
        self._kept = []


def _groups(model: nn.Layer) -> list[list[_Place]]:
    """Return where the tensors are, in groups that one operation can copy.

    Batch norm's statistics, which are parameters in Paddle, are joined; each buffer is alone.
    """
    statistics: dict[Any, list[_Place]] = {}
    buffers = list[list[_Place]]()
    layers = {id(layer): layer for layer in model.sublayers(include_self=True)}.values()
    for layer in layers:
        for name in (*layer._buffers, "_mean", "_variance"):
            tensor = getattr(layer, name, None)
            if not isinstance(tensor, Tensor):
                continue
            if name in layer._parameters and tensor.ndim == 1:
                statistics.setdefault(tensor.dtype, []).append((layer, name))
            else:
                buffers.append([(layer, name)])
    return [*statistics.values(), *buffers]


def _copy(tensors: list[Tensor]) -> Tensor:
    return paddle.concat(tensors) if len(tensors) > 1 else tensors[0].clone()
