"""Hooks on a network that is being trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import paddle
from paddle import nn

__all__ = ["before_each_step"]


def before_each_step(model: nn.Layer, act: Callable[[tuple[Any, ...]], object]) -> Any:
    """Call a function before every forward pass of a network in training mode.

    PaddleSeg deep-copies the network for EMA.  The copy has the hook too, but calls nothing.

    Args:
        model: the network.
        act: gets the inputs of the network.

    Returns:
        The hook; its ``remove()`` ends the calls.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.hooks import before_each_step
        >>> model = paddle.nn.Linear(2, 1)
        >>> hook = before_each_step(model, lambda inputs: print(len(inputs[0])))
        >>> _ = model(paddle.rand([3, 2]))
        3
        >>> hook.remove()
        >>> _ = model(paddle.rand([3, 2]))
    """

    # A bound method on the network would be copied with it, and the method's object too.
    def act_first(layer: nn.Layer, inputs: tuple[Any, ...]) -> None:
        if layer is model and layer.training and paddle.is_grad_enabled():
            act(inputs)

    return model.register_forward_pre_hook(act_first)
