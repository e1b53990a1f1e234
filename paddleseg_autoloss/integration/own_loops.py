"""Config keys that PaddleSeg's training loop heeds, and a loop of the user's own would ignore."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import paddle
from paddle import nn

from paddleseg_autoloss.errors import ConfigError

__all__ = ["expect_session", "meet_session"]

#: Losses that wait for a session, and the hook of each that reports that there is none.
_waiting: WeakKeyDictionary[nn.Layer, Any] = WeakKeyDictionary()


def expect_session(losses: dict[str, Any], key: str) -> None:
    """Let losses report a config key that was read but has no effect where they are trained.

    Args:
        losses: PaddleSeg's loss dict.
        key: the config key.
    """

    def refuse(layer: nn.Layer, inputs: Any) -> None:
        if paddle.is_grad_enabled():
            raise ConfigError(
                f"{key}: the config has it, but a loop other than paddleseg.core.train ignores it; "
                "train with paddleseg.core.train, or remove the key and weigh the losses with a "
                "LossAggregator or a component such as AutoWeightedLoss"
            )

    for loss in losses["types"]:
        if loss not in _waiting:
            _waiting[loss] = loss.register_forward_pre_hook(refuse)


def meet_session(losses: dict[str, Any]) -> None:
    """Tell losses that a session heeds the config keys that they were built with.

    Args:
        losses: PaddleSeg's loss dict.
    """
    for loss in losses["types"]:
        hook = _waiting.pop(loss, None)
        if hook is not None:
            hook.remove()
