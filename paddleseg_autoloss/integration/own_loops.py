"""Config keys that only PaddleSeg's training loop applies, and a user's own loop would ignore."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import paddle
from paddle import nn

from paddleseg_autoloss.errors import ConfigError

__all__ = ["confirm_session", "expect_session"]

#: Losses that need a session, each with the hook that raises an error if there is none.
_waiting: WeakKeyDictionary[nn.Layer, Any] = WeakKeyDictionary()


def expect_session(losses: dict[str, Any], key: str) -> None:
    """Let losses raise an error if they are trained where the config key has no effect.

    Args:
        losses: PaddleSeg's loss dict.
        key: the config key.
    """

    def refuse(layer: nn.Layer, inputs: Any) -> None:
        if paddle.is_grad_enabled():
            raise ConfigError(
                f"{key}: only paddleseg.core.train applies this key of the config, and another "
                "loop is training; train with paddleseg.core.train, or remove the key and weigh "
                "the losses with a LossAggregator or a component such as AutoWeightedLoss"
            )

    for loss in losses["types"]:
        if loss not in _waiting:
            _waiting[loss] = loss.register_forward_pre_hook(refuse)


def confirm_session(losses: dict[str, Any]) -> None:
    """Tell losses that a session applies the config keys that they were built with.

    Args:
        losses: PaddleSeg's loss dict.
    """
    for loss in losses["types"]:
        hook = _waiting.pop(loss, None)
        if hook is not None:
            hook.remove()
