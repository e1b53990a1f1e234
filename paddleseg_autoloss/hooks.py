"""Hooks on a network that is being trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import nn

__all__ = ["before_each_step"]


@contextmanager
def before_each_step(model: nn.Layer, act: Callable[[tuple[Any, ...]], object]) -> Iterator[None]:
    """Context in which a function is called before every forward pass of training.

    PaddleSeg deep-copies the network for EMA.  The copy has the hook too, but calls nothing.

    Args:
        model: the network.
        act: gets the inputs of the network.

    Examples:
        >>> import paddle
        >>> from paddleseg_autoloss.hooks import before_each_step
        >>> model = paddle.nn.Linear(2, 1)
        >>> with before_each_step(model, lambda inputs: print(len(inputs[0]))):
        ...     _ = model(paddle.rand([3, 2]))
        3
        >>> _ = model(paddle.rand([3, 2]))
    """

    # A bound method on the network would be copied with it, and the method's object too.
    def act_first(layer: nn.Layer, inputs: tuple[Any, ...]) -> None:
        if layer is model and layer.training and paddle.is_grad_enabled():
            act(inputs)

    hook = model.register_forward_pre_hook(act_first)
    try:
        yield
    finally:
        hook.remove()
