"""What this package adds to PaddleSeg's builder, both for PaddleSeg's tools and for ours."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from paddle import nn
from paddleseg.cvlibs import SegBuilder
from paddleseg.cvlibs.builder import Builder

from paddleseg_autoloss.checks import build as build_part
from paddleseg_autoloss.integration.config_checks import check_aggregator, check_loss, check_policy
from paddleseg_autoloss.integration.held_out import HeldOut, held_out_options
from paddleseg_autoloss.integration.own_loops import expect_session
from paddleseg_autoloss.seams import replace

__all__ = ["component_config", "extend_builder"]

_CONFIG_ATTRIBUTE = "component_config"


def extend_builder() -> None:
    """Extend PaddleSeg's builder.

    It then stores the config of each component that it builds, and reads the config keys of this
    package.
    """
    replace(Builder, "build_component", _store_configs(Builder.build_component))
    replace(SegBuilder, "_build_loss", _read_own_keys(SegBuilder._build_loss))


def component_config(layer: nn.Layer) -> dict[str, Any] | None:
    """Return the config from which the builder built a layer, or None for another layer."""
    return getattr(layer, _CONFIG_ATTRIBUTE, None)


def _store_configs(build: Any) -> Any:
    def build_component(self: Builder, cfg: dict[str, Any]) -> Any:
        component = build(self, cfg)
        if isinstance(component, nn.Layer):
            object.__setattr__(component, _CONFIG_ATTRIBUTE, copy.deepcopy(cfg))
        return component

    return build_component


def _read_own_keys(build: Any) -> Any:
    def _build_loss(self: SegBuilder, loss_name: str, loss_cfg: dict[str, Any]) -> dict[str, Any]:
        # This repeats a check, because ``--opts`` may have changed the config since it was read.
        check_loss(loss_name, loss_cfg)
        losses = build(self, loss_name, loss_cfg)
        if loss_name != "loss":
            return losses
        for key, check in (("loss_aggregator", check_aggregator), ("on_nonfinite", check_policy)):
            value = self.config.dic.get(key)
            if value is not None:
                check(value)
                losses[key] = value
                expect_session(losses, key)
        held_out = held_out_options(self.config.dic.get("held_out"))
        if held_out is not None:
            losses["held_out"] = _with_transforms(held_out, self)
            expect_session(losses, "held_out")
        return losses

    return _build_loss


def _with_transforms(held_out: HeldOut, builder: SegBuilder) -> HeldOut:
    """Add the transforms of validation: the loop gets no val_dataset if it does not evaluate."""
    configs = (builder.config.dic.get("val_dataset") or {}).get("transforms")
    if configs is None:
        return held_out
    key = "val_dataset.transforms"
    made = build_part(key, lambda: [builder.build_component(config) for config in configs])
    return dataclasses.replace(held_out, transforms=made)
