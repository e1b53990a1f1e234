"""What PaddleSeg's builder does beyond its own, for its tools and ours alike."""

from __future__ import annotations

import copy
from typing import Any

from paddle import nn
from paddleseg.cvlibs import SegBuilder
from paddleseg.cvlibs.builder import Builder

from paddleseg_autoloss.integration.config_checks import check_aggregator, check_loss, check_policy
from paddleseg_autoloss.integration.own_loops import expect_session
from paddleseg_autoloss.seams import replace

__all__ = ["component_config", "extend_builder"]

_CONFIG_ATTRIBUTE = "component_config"


def extend_builder() -> None:
    """Let PaddleSeg's builder do more.

    It notes the configs of what it builds, and reads our keys of a config.
    """
    replace(Builder, "build_component", _noting_configs(Builder.build_component))
    replace(SegBuilder, "_build_loss", _with_our_keys(SegBuilder._build_loss))


def component_config(layer: nn.Layer) -> dict[str, Any] | None:
    """Return the config that the builder built a layer from, if it did."""
    return getattr(layer, _CONFIG_ATTRIBUTE, None)


def _noting_configs(build: Any) -> Any:
    def build_component(self: Builder, cfg: dict[str, Any]) -> Any:
        component = build(self, cfg)
        if isinstance(component, nn.Layer):
            object.__setattr__(component, _CONFIG_ATTRIBUTE, copy.deepcopy(cfg))
        return component

    return build_component


def _with_our_keys(build: Any) -> Any:
    def _build_loss(self: SegBuilder, loss_name: str, loss_cfg: dict[str, Any]) -> dict[str, Any]:
        # Again: a command line may have changed it since the config was read.
        check_loss(loss_name, loss_cfg)
        losses = build(self, loss_name, loss_cfg)
        for key, check in (("loss_aggregator", check_aggregator), ("on_nonfinite", check_policy)):
            value = self.config.dic.get(key)
            if loss_name == "loss" and value is not None:
                check(value)
                losses[key] = value
                expect_session(losses, key)
        return losses

    return _build_loss
